#include "kernels/cuda/batch_linear_kernel.cuh"

namespace pare::cuda::batch {

template Status launch_batch<DType::Q4_0>(const Args& args, Stream stream, bool pdl);
template Status launch_batch<DType::Q4_1>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::batch
