// Where finished sums of a product go: bias, residual, activation. For *.cu files.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/linear_output.h"

namespace pare::cuda {

// The output that unit `unit` of the launch belongs to.
template <typename Args>
__device__ __forceinline__ int output_of(const Args& args, int unit) {
  int o = 0;
  while (o + 1 < args.n_outputs && unit >= args.outputs[o + 1].first) ++o;
  return o;
}

// Writes what a lane holds of a 16 x 8 accumulator of tensor cores, whose first row is `first_row` of the output and
// whose first token is 8 * n: rows lane / 4 and 8 on, two tokens each. Loads come before stores, so that they are
// under way together.
__device__ __forceinline__ void emit(const OutputRows& out, int first_row, int n, int lane, int tokens, float4 sums) {
  const int row = first_row + lane / 4, token = 8 * n + lane % 4 * 2;
  const int64_t ld = out.ld_y, at = token * ld + row;
  const bool upper = row + 8 < out.n;
  const bool present[4] = {row < out.n && token < tokens, row < out.n && token + 1 < tokens, upper && token < tokens,
                           upper && token + 1 < tokens};
  const int64_t offsets[4] = {at, at + ld, at + 8, at + ld + 8};
  float y[4] = {sums.x, sums.y, sums.z, sums.w};
  if (out.bias != nullptr) {
    const float low = row < out.n ? out.bias[row] : 0.0f, high = upper ? out.bias[row + 8] : 0.0f;
    y[0] += low;
    y[1] += low;
    y[2] += high;
    y[3] += high;
  }
  if (out.bf16) {
    auto* to = static_cast<__nv_bfloat16*>(out.y);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (present[i]) to[offsets[i]] = __float2bfloat16_rn(y[i]);
    }
    return;
  }
  auto* to = static_cast<float*>(out.y);
  if (out.accumulate) {
    float before[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) before[i] = present[i] ? to[offsets[i]] : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = before[i] + y[i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (present[i]) to[offsets[i]] = y[i];
  }
}

static __device__ __noinline__ float activate_apart(Activation activation, float x) { return activate(activation, x); }

__device__ __forceinline__ float4 gate_times_up(Activation activation, const float4& gate, const float4& up) {
  return make_float4(activate_apart(activation, gate.x) * up.x, activate_apart(activation, gate.y) * up.y,
                     activate_apart(activation, gate.z) * up.z, activate_apart(activation, gate.w) * up.w);
}

__device__ __forceinline__ void add(const float4& x, float4* sum) {
  sum->x += x.x;
  sum->y += x.y;
  sum->z += x.z;
  sum->w += x.w;
}

}  // namespace pare::cuda
