// Device-side pieces that row-wise kernels share: groups of four values in any of the activation types, and sums with a
// fixed tree. For *.cu files.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace pare::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;

struct Four {
  float v[4];
};

__device__ __forceinline__ Four load_four(const float* x) {
  const float4 f = *reinterpret_cast<const float4*>(x);
  return {{f.x, f.y, f.z, f.w}};
}
__device__ __forceinline__ Four load_four(const __nv_bfloat16* x) {
  const uint2 bits = *reinterpret_cast<const uint2*>(x);
  return {{__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u), __uint_as_float(bits.y << 16),
           __uint_as_float(bits.y & 0xffff0000u)}};
}
__device__ __forceinline__ void store_four(float* out, const Four& f) {
  *reinterpret_cast<float4*>(out) = make_float4(f.v[0], f.v[1], f.v[2], f.v[3]);
}
__device__ __forceinline__ void store_four(__nv_bfloat16* out, const Four& f) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(f.v[0], f.v[1]), high = __floats2bfloat162_rn(f.v[2], f.v[3]);
  *reinterpret_cast<uint2*>(out) =
      make_uint2(reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high));
}
__device__ __forceinline__ void store_four(__half* out, const Four& f) {
  const __half2 low = __floats2half2_rn(f.v[0], f.v[1]), high = __floats2half2_rn(f.v[2], f.v[3]);
  *reinterpret_cast<uint2*>(out) =
      make_uint2(reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high));
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store_one(float* out, float x) { *out = x; }
__device__ __forceinline__ void store_one(__nv_bfloat16* out, float x) { *out = __float2bfloat16_rn(x); }

// Columns [i, i + 4) of a row of n, zero beyond its end. Rows that are no multiple of four wide are not aligned: they
// go column by column, into the same places.
template <bool kAligned, typename T>
__device__ __forceinline__ Four load_columns(const T* row, int i, int n) {
  Four f{};
  if constexpr (kAligned) {
    if (i < n) f = load_four(row + i);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j < n) f.v[j] = to_float(row[i + j]);
    }
  }
  return f;
}
template <bool kAligned, typename T>
__device__ __forceinline__ void store_columns(T* row, int i, int n, const Four& f) {
  if constexpr (kAligned) {
    if (i < n) store_four(row + i, f);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j < n) store_one(row + i + j, f.v[j]);
    }
  }
}

// Sum over aligned groups of `width` lanes (a power of two), the same bits in each of them.
__device__ __forceinline__ float sum_lanes(float x, int width) {
  for (int step = width / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// Sum over the `threads` threads of one row; a block holds blockDim.y rows, each of whole warps. All of the block call
// it; `warp_sums` has room for one value of each of its warps. The same bits in every thread of the row.
__device__ __forceinline__ float sum_row(float x, float* warp_sums) {
  x = sum_lanes(x, 32);
  const int warps = blockDim.x / 32;
  if (warps == 1) return x;
  float* row = warp_sums + threadIdx.y * warps;
  if (threadIdx.x % 32 == 0) row[threadIdx.x / 32] = x;
  __syncthreads();
  x = sum_lanes(row[threadIdx.x % warps], warps);
  __syncthreads();  // the next sum writes the same places
  return x;
}

}  // namespace pare::cuda
