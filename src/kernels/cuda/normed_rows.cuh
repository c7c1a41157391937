// RMS norm fused in front of a product: the bits of row_ops.h's rms_norm (norm.cu), whose order of additions depends on
// the width alone and is repeated here. For *.cu files.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/small_linear_args.h"

namespace pare::cuda::small {

// norm.cu: a row belongs to a power of two of threads, the fewest whole warps with at most four groups of four columns
// each (1,024 threads have more); group g is thread g % threads's.
__device__ __forceinline__ int norm_warps(int k) {
  int threads = 32;
  while (threads < 1024 && threads * 16 < k) threads *= 2;
  return threads / 32;
}

// Sum over aligned groups of `width` lanes, by the tree of norm.cu.
__device__ __forceinline__ float sum_tree(float x, int width) {
  for (int step = width / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// The part of norm_rows that needs no input: zeros in the rows beyond the last token, and the weights of the columns
// that this thread writes first.
template <int kTokenTiles>
__device__ __forceinline__ float4 prepare_norm(const Args& args, int first, __nv_bfloat16* rows) {
  const int pitch = args.columns + kPadColumns, tokens = static_cast<int>(args.x.t);
  uint2* absent = reinterpret_cast<uint2*>(rows + tokens * pitch);
  for (int i = threadIdx.x; i < (8 * kTokenTiles - tokens) * pitch / 4; i += static_cast<int>(blockDim.x)) {
    absent[i] = uint2{};
  }
  const int own = 4 * static_cast<int>(threadIdx.x);
  if (own >= args.columns || first + own >= args.x.k) return {};
  return *reinterpret_cast<const float4*>(args.x.norm_weight + first + own);
}

// Columns [first, first + args.columns) of the normed residual as bf16, zero beyond K. `own_weight` is prepare_norm's,
// `warp_sums` 32 floats a token.
__device__ __forceinline__ void norm_rows(const Args& args, int first, const float4& own_weight, float* warp_sums,
                                          __nv_bfloat16* rows) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, k = static_cast<int>(args.x.k);
  const int tokens = static_cast<int>(args.x.t), warps = norm_warps(k), threads = 32 * warps;
  // What this thread writes first, on its way while the squares are added.
  const int own = 4 * static_cast<int>(threadIdx.x);
  float4 own_value{};
  if (own < args.columns && first + own < k) {
    own_value = *reinterpret_cast<const float4*>(args.x.residual + first + own);
  }
  for (int task = warp; task < tokens * warps; task += static_cast<int>(blockDim.x / 32)) {
    const int t = task / warps, thread = task % warps * 32 + lane;
    const float* row = args.x.residual + t * args.x.ld;
    float squares = 0.0f;
#pragma unroll 4
    for (int i = 4 * thread; i < k; i += 4 * threads) {
      const float4 v = *reinterpret_cast<const float4*>(row + i);
      squares = fmaf(v.x, v.x, squares);
      squares = fmaf(v.y, v.y, squares);
      squares = fmaf(v.z, v.z, squares);
      squares = fmaf(v.w, v.w, squares);
    }
    squares = sum_tree(squares, 32);
    if (lane == 0) warp_sums[t * 32 + task % warps] = squares;
  }
  __syncthreads();

  const int pitch = args.columns + kPadColumns;
#pragma unroll 1
  for (int t = 0; t < tokens; ++t) {
    const float sum = sum_tree(warp_sums[t * 32 + lane % warps], warps);
    const float inverse = 1.0f / sqrtf(sum / static_cast<float>(k) + args.x.eps);
    const float* row = args.x.residual + t * args.x.ld;
#pragma unroll 1
    for (int c = own; c < args.columns; c += static_cast<int>(4 * blockDim.x)) {
      uint2 out{};
      if (first + c < k) {
        float4 v = own_value, w = own_weight;
        if (t > 0 || c != own) {
          v = *reinterpret_cast<const float4*>(row + first + c);
          w = *reinterpret_cast<const float4*>(args.x.norm_weight + first + c);
        }
        out.x = pack_bf16x2(v.x * inverse * w.x, v.y * inverse * w.y);
        out.y = pack_bf16x2(v.z * inverse * w.z, v.w * inverse * w.w);
      }
      *reinterpret_cast<uint2*>(rows + t * pitch + c) = out;
    }
  }
  // warp_sums lies where parts are added later.
  __syncthreads();
}

}  // namespace pare::cuda::small
