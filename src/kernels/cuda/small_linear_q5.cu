#include "kernels/cuda/small_linear_kernel.cuh"

namespace pare::cuda::small {

template Status launch_small<DType::Q5_0>(const Args& args, Stream stream, bool pdl);
template Status launch_small<DType::Q5_1>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
