#include "kernels/cpu/elementwise-inl.h"

static_assert(HWY_STATIC_TARGET == HWY_AVX3);
const pare::ElementwiseKernels pare::kElementwiseAvx512 = pare::kKernels;
