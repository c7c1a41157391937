#include "tensor/cuda/stopwatch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "tensor/cuda/status.h"

namespace pare::cuda {

constexpr int kWarmUps = 3;

Expected<Stopwatch> Stopwatch::create() {
  Stopwatch watch;
  PARE_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&watch.stream_, cudaStreamNonBlocking));
  PARE_CUDA_RETURN_IF_ERROR(cudaEventCreate(&watch.begin_));
  PARE_CUDA_RETURN_IF_ERROR(cudaEventCreate(&watch.end_));
  return watch;
}

Stopwatch::~Stopwatch() {
  if (begin_) cudaEventDestroy(begin_);
  if (end_) cudaEventDestroy(end_);
  if (stream_) cudaStreamDestroy(stream_);
}

Stopwatch::Stopwatch(Stopwatch&& other) noexcept
    : stream_(std::exchange(other.stream_, nullptr)),
      begin_(std::exchange(other.begin_, nullptr)),
      end_(std::exchange(other.end_, nullptr)) {}

Expected<double> Stopwatch::median_seconds(int repeats, const Call& call, const Call& before) {
  for (int i = 0; i < kWarmUps; ++i) PARE_RETURN_IF_ERROR(call());
  std::vector<float> ms(static_cast<size_t>(repeats));
  for (float& m : ms) {
    if (before) PARE_RETURN_IF_ERROR(before());
    PARE_CUDA_RETURN_IF_ERROR(cudaEventRecord(begin_, stream_));
    PARE_RETURN_IF_ERROR(call());
    PARE_CUDA_RETURN_IF_ERROR(cudaEventRecord(end_, stream_));
    PARE_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(end_));
    PARE_CUDA_RETURN_IF_ERROR(cudaEventElapsedTime(&m, begin_, end_));
  }
  std::nth_element(ms.begin(), ms.begin() + repeats / 2, ms.end());
  return 1e-3 * ms[static_cast<size_t>(repeats / 2)];
}

Expected<double> Stopwatch::median_seconds_in_graph(int calls, int repeats, const Call& call) {
  // What a kernel sets up once must not be captured.
  PARE_RETURN_IF_ERROR(call());
  PARE_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  PARE_CUDA_RETURN_IF_ERROR(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  Status queued;
  for (int i = 0; i < calls && queued.ok(); ++i) queued = call();
  cudaGraph_t graph = nullptr;
  const Status captured = to_status(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  Status ready = !queued.ok() ? queued : captured;
  if (ready.ok()) ready = to_status(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  Expected<double> seconds =
      ready.ok() ? median_seconds(repeats, [&] { return to_status(cudaGraphLaunch(exec, stream_), "cudaGraphLaunch"); })
                 : Expected<double>(ready);
  if (exec) cudaGraphExecDestroy(exec);
  if (graph) cudaGraphDestroy(graph);
  if (!seconds.ok()) return seconds.status();
  return *seconds / calls;
}

}  // namespace pare::cuda
