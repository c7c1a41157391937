#include "kernels/cuda/decode_kernel.cuh"

namespace pare::cuda::decode {

Status launch_bf16_coded(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream) {
  return dispatch<__nv_bfloat16, Rows::kCoded>(rows, params, options, stream);
}

}  // namespace pare::cuda::decode
