#include "kernels/cuda/batch_linear_kernel.cuh"

namespace pare::cuda::batch {

template Status launch_batch<DType::Q8_0>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::batch
