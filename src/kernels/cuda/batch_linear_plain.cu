#include <algorithm>
#include <array>

#include "kernels/cuda/batch_linear_kernel.cuh"

namespace pare::cuda::batch {

int clusters_at_once(int slices) {
  // All kernels have one block on a multiprocessor, so that one stands for all.
  static const std::array<int, kMaxSlices + 1> counts = [] {
    std::array<int, kMaxSlices + 1> found{};
    const auto kernel = batch_linear_kernel<DType::BF16, static_cast<int>(kMaxBatchTokens)>;
    int device = 0, bytes = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    for (int slices = 1; slices <= kMaxSlices; slices *= 2) {
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {static_cast<unsigned>(slices), 1, 1};
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(slices));
      config.blockDim = dim3(block_threads(*device_format(DType::BF16)));
      config.dynamicSmemBytes = static_cast<size_t>(bytes);
      config.attrs = &attribute;
      config.numAttrs = 1;
      cudaOccupancyMaxActiveClusters(&found[slices], kernel, &config);
      found[slices] = std::max(1, found[slices]);
    }
    return found;
  }();
  return counts[slices];
}

template Status launch_batch<DType::F32>(const Args& args, Stream stream, bool pdl);
template Status launch_batch<DType::F16>(const Args& args, Stream stream, bool pdl);
template Status launch_batch<DType::BF16>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::batch
