#include "kernels/cuda/small_linear_kernel.cuh"

namespace pare::cuda::small {

template Status launch_small<DType::IQ4_NL>(const Args& args, Stream stream, bool pdl);
template Status launch_small<DType::IQ4_XS>(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
