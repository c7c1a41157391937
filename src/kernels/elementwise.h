// Row-wise fp32 kernels between the matrix products. Every level gives the same bits: reductions run over 16 virtual
// lanes (lane = column mod 16, ascending) folded 16 -> 8 -> 4 -> 2 -> 1, lower half plus upper half.
#pragma once

#include <cstdint>

#include "kernels/cpu_level.h"

namespace pare {

enum class Activation : uint8_t { kSilu, kGeluTanh, kGeluErf };

struct ElementwiseKernels {
  // out[i] = x[i] * rsqrt(mean(x^2) + eps) * weight[i], one row of n. out may alias x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  // out = (x - mean) * rsqrt(var + eps) * weight + bias. out may alias x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n, float* out);
  // Half-split rotation in place of one head: for i < rot/2: (x[i], x[i+rot/2]) by the angle (cos[i], sin[i]).
  void (*rope)(float* x, const float* cos, const float* sin, int64_t rot);
  // out[i] = act(gate[i]) * up[i]. out may alias either.
  void (*glu)(Activation act, const float* gate, const float* up, int64_t n, float* out);
  // x[i] = act(x[i])
  void (*activate)(Activation act, float* x, int64_t n);
  // y[i] += x[i]
  void (*add)(const float* x, int64_t n, float* y);
  // x[i] *= s
  void (*scale)(float* x, float s, int64_t n);
  // Natural-log sum of exp over n values (max subtracted), for log-probabilities and sampling.
  float (*log_sum_exp)(const float* x, int64_t n);
  // Largest value's index, ties to the lowest; NaN never wins against a number.
  int64_t (*argmax)(const float* x, int64_t n);
};
const ElementwiseKernels& elementwise_kernels(CpuLevel level);

}  // namespace pare
