#include "kernels/cuda/small_linear_mixed.cuh"

namespace pare::cuda::small {

template Status launch_mixed<DType::Q5_K, DType::Q6_K>(const MixedArgs& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
