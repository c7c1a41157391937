#include "kernels/cuda/prefill_hopper.cuh"
#include "kernels/cuda/prefill_launch.h"

namespace pare::cuda::prefill {

bool has_hopper_code() {
  static const bool has = [] {
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, prefill_hopper<128, __nv_bfloat16>) == cudaSuccess &&
           attributes.ptxVersion >= 90;
  }();
  return has;
}

cudaError_t launch_hopper_128(const Arguments& args, bool bf16, const CUtensorMap& page_map,
                              const CUtensorMap& granule_map, int blocks, cudaStream_t stream) {
  return bf16 ? launch_hopper<128, __nv_bfloat16>(args, page_map, granule_map, blocks, stream)
              : launch_hopper<128, __half>(args, page_map, granule_map, blocks, stream);
}

}  // namespace pare::cuda::prefill
