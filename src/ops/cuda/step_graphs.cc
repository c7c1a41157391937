#include "ops/cuda/step_graphs.h"

#include <algorithm>

#include "tensor/cuda/status.h"

namespace pare::cuda {

StepGraphs::~StepGraphs() {
  for (Entry& entry : entries_) {
    if (entry.graph) cudaGraphExecDestroy(entry.graph);
  }
}

Expected<StepGraphs::Action> StepGraphs::begin(std::span<const uint64_t> key, Stream stream) {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
    return std::equal(entry.key.begin(), entry.key.end(), key.begin(), key.end());
  });
  if (found == entries_.end()) {
    if (entries_.size() == kMaxEntries) {
      if (entries_.back().graph) cudaGraphExecDestroy(entries_.back().graph);
      entries_.pop_back();
    }
    entries_.push_front({.key = {key.begin(), key.end()}});
    return Action::kRun;
  }
  entries_.splice(entries_.begin(), entries_, found);
  if (found->graph) {
    PARE_CUDA_RETURN_IF_ERROR(cudaGraphLaunch(found->graph, stream));
    ++replayed_;
    return Action::kReplay;
  }
  PARE_CUDA_RETURN_IF_ERROR(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  return Action::kCapture;
}

Status StepGraphs::finish_capture(Stream stream) {
  cudaGraph_t graph = nullptr;
  PARE_CUDA_RETURN_IF_ERROR(cudaStreamEndCapture(stream, &graph));
  Entry& entry = entries_.front();
  const cudaError_t made = cudaGraphInstantiate(&entry.graph, graph, 0);
  cudaGraphDestroy(graph);
  PARE_RETURN_IF_ERROR(to_status(made, "cudaGraphInstantiate"));
  ++captured_;
  return to_status(cudaGraphLaunch(entry.graph, stream), "cudaGraphLaunch");
}

}  // namespace pare::cuda
