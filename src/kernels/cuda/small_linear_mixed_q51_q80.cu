#include "kernels/cuda/small_linear_mixed.cuh"

namespace pare::cuda::small {

template Status launch_mixed<DType::Q5_1, DType::Q8_0>(const MixedArgs& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
