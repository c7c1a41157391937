#include "kernels/elementwise.h"

#include "kernels/level_tables.h"

namespace pare {

const ElementwiseKernels& elementwise_kernels(CpuLevel level) {
  switch (level) {
#if defined(__x86_64__)
    case CpuLevel::kAvx2: return kElementwiseAvx2;
    case CpuLevel::kAvx512:
    case CpuLevel::kAmx: return kElementwiseAvx512;
#endif
    default: return ref::kElementwise;
  }
}

}  // namespace pare
