// Timing on a CUDA card for the benches of this folder.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "pare/status.h"

namespace pare::cuda::bench {

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
inline void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.to_string().c_str());
  std::exit(1);
}

// Median seconds of one call over `repeats`, each between two events of its own. For calls that are long, or whose
// bytes exceed the card's cache.
template <typename Call>
double median_seconds(cudaStream_t stream, int repeats, Call call) {
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin), "cudaEventCreate");
  require(cudaEventCreate(&end), "cudaEventCreate");
  for (int i = 0; i < 3; ++i) call();
  std::vector<float> ms(repeats);
  for (float& m : ms) {
    require(cudaEventRecord(begin, stream), "cudaEventRecord");
    call();
    require(cudaEventRecord(end, stream), "cudaEventRecord");
    require(cudaEventSynchronize(end), "a kernel");
    require(cudaEventElapsedTime(&m, begin, end), "cudaEventElapsedTime");
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(ms.begin(), ms.begin() + repeats / 2, ms.end());
  return 1e-3 * ms[repeats / 2];
}

// Median seconds of one call when `calls` of them follow each other in a graph, as in a step: what a short kernel
// costs there, its start included.
template <typename Call>
double seconds_in_graph(cudaStream_t stream, int calls, int repeats, Call call) {
  call();
  require(cudaStreamSynchronize(stream), "a kernel");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < calls; ++i) call();
  require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  require(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  const double seconds =
      median_seconds(stream, repeats, [&] { require(cudaGraphLaunch(exec, stream), "cudaGraphLaunch"); });
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return seconds / calls;
}

}  // namespace pare::cuda::bench
