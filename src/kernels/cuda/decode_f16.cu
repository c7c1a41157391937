#include "kernels/cuda/decode_kernel.cuh"

namespace pare::cuda::decode {

Status launch_f16(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream) {
  return dispatch<__half, Rows::kPlain>(rows, params, options, stream);
}

}  // namespace pare::cuda::decode
