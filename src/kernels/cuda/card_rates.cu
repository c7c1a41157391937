#include "kernels/cuda/card_clock.cuh"
#include "kernels/cuda/card_rates.h"
#include "tensor/cuda/status.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 512, kAhead = 8;  // 16-byte loads in flight per thread

__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* data, size_t items, uint32_t* sink) {
  uint32_t sum = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * kThreads * kAhead;
  for (size_t at = static_cast<size_t>(blockIdx.x) * kThreads * kAhead + threadIdx.x; at < items; at += stride) {
    uint4 x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) x[i] = __ldcs(data + at + i * kThreads);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum += x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
  }
  if (sum == 0x9e3779b9u) sink[0] = sum;
}

__global__ void clock_kernel(uint64_t* smallest_ns) {
  constexpr int kSteps = 64, kReadings = 1 << 22;
  uint64_t smallest = UINT64_MAX, last = card_clock();
  for (int steps = 0, readings = 0; steps < kSteps && readings < kReadings; ++readings) {
    const uint64_t now = card_clock();
    if (now <= last) continue;
    smallest = min(smallest, now - last);
    last = now;
    ++steps;
  }
  *smallest_ns = smallest == UINT64_MAX ? 0 : smallest;
}

}  // namespace

Status read_clock(uint64_t* smallest_ns, Stream stream) {
  clock_kernel<<<1, 1, 0, stream>>>(smallest_ns);
  return launch_status("read_clock");
}

Status read_all(const std::byte* data, size_t bytes, uint32_t* sink, Stream stream) {
  int device = 0, multiprocessors = 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaGetDevice(&device));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  read_kernel<<<multiprocessors * 4, kThreads, 0, stream>>>(reinterpret_cast<const uint4*>(data), bytes / 16, sink);
  return launch_status("read_all");
}

}  // namespace pare::cuda
