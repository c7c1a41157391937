// The prefill kernel for Hopper (sm_90a), one template for all head dimensions: a producer warpgroup and two consumer
// warpgroups stay on a multiprocessor and take items (128 query rows against their keys) by ticket. Only stages in
// which some row does not attend some key are masked; V rows that no row attends are cleared before use where they may
// hold anything, so that 0 * NaN cannot happen.
#pragma once

#include "kernels/cuda/prefill_consumer.cuh"
#include "kernels/cuda/prefill_producer.cuh"

namespace pare::cuda::prefill {

template <int D, typename T>
__global__ void __launch_bounds__(kBlockThreads, 1)
    prefill_hopper(const __grid_constant__ Arguments args, const __grid_constant__ CUtensorMap page_map,
                   const __grid_constant__ CUtensorMap granule_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<Shared<D>*>(shared_bytes);
  if (threadIdx.x == 0) {
    hopper::prefetch_map(&page_map);
    hopper::prefetch_map(&granule_map);
    shared.init_barriers();
  }
  __syncthreads();
  const auto warp = threadIdx.x / 32;
  if (threadIdx.x < kWarpgroup) {
    hopper::shrink_registers<kProducerRegisters>();
    if (warp == 0) {
      Walker<D>(args, shared).run();
    } else if (warp == 1) {
      Copier<D>(args, &page_map, &granule_map, shared).run();
    } else {
      run_helper<D>(args, shared);
    }
  } else {
    hopper::grow_registers<kConsumerRegisters>();
    Consumer<D, T>(args, shared).run();
  }
#endif
}

// Raises the kernel's limit of shared memory where it is not yet raised, and launches it.
template <int D, typename T>
cudaError_t launch_hopper(const Arguments& args, const CUtensorMap& page_map, const CUtensorMap& granule_map,
                          int blocks, cudaStream_t stream) {
  const auto kernel = prefill_hopper<D, T>;
  const auto bytes = static_cast<int>(sizeof(Shared<D>));
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  kernel<<<blocks, kBlockThreads, bytes, stream>>>(args, page_map, granule_map);
  return cudaGetLastError();
}

}  // namespace pare::cuda::prefill
