// The per-level tables behind linear_kernels() and elementwise_kernels(). Files compiled for a level include
// this and no header whose inline functions baseline code shares: the linker could keep their copy.
#pragma once

#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace pare {

#if defined(__x86_64__)
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvx512;
extern const LinearKernels kLinearAmx;
extern const ElementwiseKernels kElementwiseAvx2;
extern const ElementwiseKernels kElementwiseAvx512;
#endif
namespace ref {
extern const ElementwiseKernels kElementwise;
}

}  // namespace pare
