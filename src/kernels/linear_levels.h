// The per-level tables behind linear_kernels(). Files compiled for a level include this and no header with
// inline functions that baseline code shares: the linker could keep their copy.
#pragma once

#include "kernels/linear.h"

namespace pare {

#if defined(__x86_64__)
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvx512;
#endif

}  // namespace pare
