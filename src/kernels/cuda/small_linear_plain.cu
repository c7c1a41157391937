#include "kernels/cuda/small_linear_kernel.cuh"

namespace pare::cuda::small {

template Status launch_small<DType::F32>(const Args& args, Stream stream, bool pdl);
template Status launch_small<DType::F16>(const Args& args, Stream stream, bool pdl);
template Status launch_small<DType::BF16>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
