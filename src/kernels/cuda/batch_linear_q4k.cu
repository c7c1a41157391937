#include "kernels/cuda/batch_linear_kernel.cuh"

namespace pare::cuda::batch {

template Status launch_batch<DType::Q4_K>(const Args& args, Stream stream, bool pdl);
template Status launch_batch<DType::Q5_K>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::batch
