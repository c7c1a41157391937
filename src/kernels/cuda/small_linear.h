// y = x * W^T on the card for a few tokens, straight from packed weights (device_weight.h): one pass over the weights
// at memory speed, products on tensor cores.
//
// x is bf16. Quants enter the products as exact integers; a group's scale meets the fp32 accumulator once per group. In
// formats with a minimum the integers are raised by 128, and the group's sum of x, times the minimum less 128 scales,
// brings both to where they belong. F16 and F32 weights are split into two or three bf16 terms whose sum is exact. How
// K is divided and in which order the parts are added follows from the weights' shapes and type alone: a row's bits
// depend neither on how many rows there are nor on what they hold.
//
// Launches allocate nothing, wait for nothing and can be captured; with `pdl` they are programmatic dependents of the
// launch before (launch.cuh) and fetch their first weights before it has ended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/device_weight.h"
#include "kernels/elementwise.h"
#include "pare/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

inline constexpr int64_t kMaxSmallTokens = 32;  // rows of x; the caller cuts more into chunks
inline constexpr int kMaxSmallOutputs = 4;      // weights that share one launch
inline constexpr int64_t kMaxFusedNormTokens = 8;

// Rows to multiply: bf16 values, or the residual with its RMS norm fused in front. Every block norms the rows anew, so
// that beyond two or three rows a launch of its own is faster (row_ops.h); the bits are the same.
struct SmallLinearInput {
  int64_t t = 0, k = 0;                // 1 to kMaxSmallTokens rows
  const uint16_t* x = nullptr;         // bf16 [T][ld], 16-byte aligned; or null and:
  const float* residual = nullptr;     // [T][ld], 16-byte aligned; at most kMaxFusedNormTokens rows, K a multiple of 4
  const float* norm_weight = nullptr;  // [K], 16-byte aligned
  float eps = 0.0f;
  int64_t ld = 0;  // a multiple of 8 (x) or 4 (residual), at least K
};

struct SmallLinearOutput {
  DeviceWeight weight;
  void* y = nullptr;  // [T][ld_y], fp32, or bf16 where `bf16`
  int64_t ld_y = 0;
  const float* bias = nullptr;  // [N], added; or null
  bool bf16 = false;
  bool accumulate = false;  // y += result: the residual. fp32 only
};

// Bytes of workspace that a call with any neighbours among these weights needs, for up to `t` rows; the most of several
// lists serves a call with neighbours of one beside those of another of another type. Device memory, 256-byte aligned,
// zeroed once; every launch leaves zeros where it needs them. Launches that may overlap need one each. The first
// call for a shape plans every number of rows that a launch may have: milliseconds, a fifth of a second for 128K rows.
size_t small_linear_workspace_bytes(std::span<const DeviceWeight> weights, int64_t t);

// All outputs read the same input, whose K is theirs. Outputs of one type share a launch, in the order given; up to 8
// tokens so do those of two types that files mix (Q4_K, Q5_K and Q6_K with each other, Q5_0 or Q5_1 with Q8_0). An
// output's bits do not depend on which outputs of other types there are.
Status small_linear(const SmallLinearInput& x, std::span<const SmallLinearOutput> outputs, std::byte* workspace,
                    Stream stream, bool pdl);

// y = act(x gate^T) * (x up^T) in bf16 [T][ld_y]. Both weights have one shape and type (kUnsupported for two types:
// then small_linear and glu_rows do). Workspace: as small_linear with both.
Status small_glu(const SmallLinearInput& x, const DeviceWeight& gate, const DeviceWeight& up, Activation act,
                 uint16_t* y, int64_t ld_y, std::byte* workspace, Stream stream, bool pdl);

}  // namespace pare::cuda
