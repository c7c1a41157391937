// How every kernel of the CUDA backend is launched, alone or as a programmatic dependent of the launch before it, which
// hides the start of a grid behind the end of its predecessor. For *.cu files.
//
// A kernel that may be launched with `pdl` obeys three rules:
//   - every thread calls wait_for_inputs() before its first read or write of memory that another kernel touches
//     (weights, which nobody writes, may be prefetched before);
//   - it calls start_dependents() once, as early as it likes: the successor waits for this grid's end by itself;
//   - no block leaves before wait_for_inputs(), so that the end of a grid implies the end of all grids before it.
#pragma once

#include <cuda_runtime.h>

#include <string_view>
#include <utility>

#include "tensor/cuda/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

// Nothing happens in a kernel that was launched without `pdl`, or before Hopper.
__device__ __forceinline__ void wait_for_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void start_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether the code that this card runs has the two instructions above: a newer card may run the PTX of an older one,
// and such a kernel must not start before its inputs are there. One answer for all kernels: they are compiled alike.
inline bool supports_pdl(const void* any_kernel) {
  static const bool supported = [any_kernel] {
    cudaFuncAttributes attributes{};
    const bool known = cudaFuncGetAttributes(&attributes, any_kernel) == cudaSuccess;
    return known && attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
  }();
  return supported;
}

// Launches kernel(args...) on `stream`, in clusters of `cluster` blocks along x where that is more than 1 (Hopper
// alone). More than 48 KiB of dynamic shared memory needs allow_shared_memory once before.
template <typename... Params, typename... Args>
Status launch_clusters(void (*kernel)(Params...), dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes,
                       Stream stream, bool pdl, Args&&... args) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (pdl && supports_pdl(reinterpret_cast<const void*>(kernel))) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster, 1, 1};
  }
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...);
  if (error == cudaSuccess) return ok_status();
  const char* name = nullptr;
  cudaGetLastError();  // a refused launch is this call's failure, not the next one's
  if (cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)) != cudaSuccess) name = "a kernel launch";
  return to_status(error, name);
}

template <typename... Params, typename... Args>
Status launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, bool pdl,
              Args&&... args) {
  return launch_clusters(kernel, grid, block, 1, shared_bytes, stream, pdl, std::forward<Args>(args)...);
}

// Lets `kernel` be launched with up to `bytes` of dynamic shared memory. Not for the hot path: keep it in a static.
template <typename... Params>
Status allow_shared_memory(void (*kernel)(Params...), size_t bytes) {
  return to_status(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
                   "cudaFuncSetAttribute");
}

}  // namespace pare::cuda
