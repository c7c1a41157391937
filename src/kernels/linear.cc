#include "kernels/linear.h"

#include "kernels/level_tables.h"

namespace pare {

const LinearKernels& linear_kernels(CpuLevel level) {
  static constexpr LinearKernels kScalar = {ref::quantize, ref::linear};
  switch (level) {
#if defined(__x86_64__)
    case CpuLevel::kAvx2: return kLinearAvx2;
    case CpuLevel::kAvx512: return kLinearAvx512;
    case CpuLevel::kAmx: return kLinearAmx;
#endif
    default: return kScalar;
  }
}

}  // namespace pare
