// y = x * W^T on Hopper for a batch of tokens, straight from packed weights (device_weight.h): what small_linear.h does
// for a few, with what pays from about nine tokens on. Weights arrive by bulk copies and are widened to operands of
// wgmma in registers; the batch is the other operand, in shared memory; where K is divided among blocks, these are a
// cluster and add their parts over its shared memory, in the order of K. The arithmetic is small_linear's: exact
// integers times bf16, a group's scale on the fp32 accumulator. Sums are added in another order, so a row's bits differ
// from small_linear's; they do not depend on the other rows.
//
// Launches allocate nothing, wait for nothing and can be captured; with `pdl` they are programmatic dependents of the
// launch before (launch.cuh) and fetch their first weights before it has ended.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/small_linear.h"

namespace pare::cuda {

inline constexpr int64_t kMaxBatchTokens = 32;

// Whether this card runs the kernel, and it takes products of this width. Asks the card once.
bool batch_linear_takes(DType dtype, int64_t k);

// As small_linear and small_glu, for 1 to kMaxBatchTokens rows of bf16 (no fused norm), without a workspace.
Status batch_linear(const SmallLinearInput& x, std::span<const SmallLinearOutput> outputs, Stream stream, bool pdl);
Status batch_glu(const SmallLinearInput& x, const DeviceWeight& gate, const DeviceWeight& up, Activation act,
                 uint16_t* y, int64_t ld_y, Stream stream, bool pdl);

}  // namespace pare::cuda
