#include "kernels/cuda/batch_linear_kernel.cuh"

namespace pare::cuda::batch {

template Status launch_batch<DType::Q6_K>(const Args& args, Stream stream, bool pdl);
template Status launch_batch<DType::Q3_K>(const Args& args, Stream stream, bool pdl);
template Status launch_batch<DType::Q2_K>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::batch
