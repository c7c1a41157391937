#include "kernels/cuda/batch_linear_kernel.cuh"

namespace pare::cuda::batch {

template Status launch_batch<DType::IQ4_NL>(const Args& args, Stream stream, bool pdl);
template Status launch_batch<DType::IQ4_XS>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::batch
