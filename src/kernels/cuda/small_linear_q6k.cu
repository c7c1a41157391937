#include "kernels/cuda/small_linear_kernel.cuh"

namespace pare::cuda::small {

template Status launch_small<DType::Q6_K>(const Args& args, Stream stream, bool pdl);
template Status launch_small<DType::Q3_K>(const Args& args, Stream stream, bool pdl);
template Status launch_small<DType::Q2_K>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
