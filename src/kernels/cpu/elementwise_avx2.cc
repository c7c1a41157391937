#include "kernels/cpu/elementwise-inl.h"

static_assert(HWY_STATIC_TARGET == HWY_AVX2);
const pare::ElementwiseKernels pare::kElementwiseAvx2 = pare::kKernels;
