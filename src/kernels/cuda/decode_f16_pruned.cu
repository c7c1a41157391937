#include "kernels/cuda/decode_kernel.cuh"

namespace pare::cuda::decode {

Status launch_f16_pruned(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream) {
  return dispatch<__half, Rows::kPruned>(rows, params, options, stream);
}

}  // namespace pare::cuda::decode
