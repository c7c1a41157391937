// Quantized rows (plan/kv_layout.h) on their way into the tiles of the decode kernel: codes become fma(scale, code,
// zero) in fp32, rounded to the tile's 16-bit type, so that the products need not know.
//
// A code becomes a float without a conversion: bits [p, p + bits) of a word, p + bits <= 24, and zeros around them, are
// the float code * 2^(p - 149), a subnormal or in the first binade of normals, which goes on in the same steps. So
// y = fma(scale * 2^(149 - p - kDown), bits, zero * 2^-kDown) is the value times 2^-kDown: factors are exact powers of
// two, scales and zeros multiples of 2^-24 below 2^16, so nothing overflows and neither y nor what is made of it is
// subnormal. Rounding y to bf16 and multiplying by 2^kDown is then the value's own rounding.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

// Of a slot that holds a row: its page's start and its row there.
struct Source {
  const std::byte* page;
  int32_t in_page;
};

inline constexpr int kDown = 40;

__device__ inline float power_of_two(int e) { return __uint_as_float(static_cast<uint32_t>(e + 127) << 23); }

// Which bits of a word stand for code i of those that begin at its bit 0. With kFewPlaces codes are moved to as few
// places as their byte has room for, else only the last byte is, which would reach beyond bit 23.
template <int kBits, bool kFewPlaces>
struct CodePlace {
  static constexpr int kPerWord = 32 / kBits;
  __device__ static constexpr int bit(int i) { return i % kPerWord * kBits; }
  __device__ static constexpr int place(int i) {
    return kFewPlaces ? 16 + bit(i) % 8 : bit(i) < 24 ? bit(i) : bit(i) - 8;
  }
  __device__ static float bits_of(uint32_t word, int i) {
    const int down = bit(i) - place(i);
    const uint32_t moved = down > 0 ? word >> down : word << -down;
    return __uint_as_float(moved & (((1u << kBits) - 1) << place(i)));
  }
  // What a scale is multiplied by for code i.
  __device__ static float factor(int i) { return power_of_two(149 - kDown - place(i)); }
};

// Two values times 2^-kDown become two values of the tile.
template <typename T>
__device__ inline uint32_t finish_pair(float low, float high) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const uint32_t down = narrow_pair<T>(low, high), factor = 0x5380'5380;  // 2^40 twice
    static_assert(kDown == 40);
    const __nv_bfloat162 pair =
        __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&down), *reinterpret_cast<const __nv_bfloat162*>(&factor));
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    return narrow_pair<T>(low * power_of_two(kDown), high * power_of_two(kDown));
  }
}

__device__ inline float2 scale_and_zero(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// Scales of 8 channels of K, ready for many rows.
template <typename T, int kBits>
struct KeyScales {
  using Place = CodePlace<kBits, false>;
  float scale[8], zero[8];
  __device__ void set(const uint4& low, const uint4& high) {
    const uint32_t pairs[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 s = scale_and_zero(pairs[i]);
      scale[i] = s.x * Place::factor(i);
      zero[i] = s.y * power_of_two(-kDown);
    }
  }
  // The 8 codes of a row, from bit 0 on.
  __device__ uint4 values(const uint2& codes) const {
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t word = i < Place::kPerWord ? codes.x : codes.y;
      pairs[i / 2] = finish_pair<T>(__fmaf_rn(scale[i], Place::bits_of(word, i), zero[i]),
                                    __fmaf_rn(scale[i + 1], Place::bits_of(word, i + 1), zero[i + 1]));
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
};

// 16 values of a row of V, which share a scale: its channels in two chunks.
template <typename T, int kBits>
__device__ inline void values_of_row(const uint4& codes, uint32_t pair, uint4 (&out)[2]) {
  using Place = CodePlace<kBits, kBits == 2>;
  const float2 s = scale_and_zero(pair);
  const float zero = s.y * power_of_two(-kDown);
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
  uint32_t pairs[8];
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    const uint32_t word = words[i / Place::kPerWord];
    pairs[i / 2] = finish_pair<T>(__fmaf_rn(s.x * Place::factor(i), Place::bits_of(word, i), zero),
                                  __fmaf_rn(s.x * Place::factor(i + 1), Place::bits_of(word, i + 1), zero));
  }
  out[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  out[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
}

__device__ inline void store_chunk(uint32_t to, const uint4& x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
__device__ inline uint4 load_shared_16(uint32_t from) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(from)
               : "memory");
  return x;
}
__device__ inline uint2 load_shared_8(uint32_t from) {
  uint2 x;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(from) : "memory");
  return x;
}
__device__ inline uint32_t load_shared_4(uint32_t from) {
  uint32_t x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(from) : "memory");
  return x;
}
__device__ inline uint32_t load_shared_2(uint32_t from) {
  uint16_t x;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(x) : "r"(from) : "memory");
  return x;
}

// Staged rows: kRows of a plane as they lie in their page, codes and then scales, already in shared memory. They go to
// slots of a tile, whose first one is a multiple of 8 and whose rows have kRowBytes.

// K, one group of rows. A lane keeps 8 channels, kBits bytes of codes, and takes every kStep-th row.
template <typename T, int kRows, uint32_t kRowBytes, int kStep, int kBits>
__device__ void unpack_keys_by(uint32_t codes, uint32_t scales, uint32_t to, int32_t width) {
  constexpr int kLanes = 32 / kStep, kAhead = 4;
  const int32_t c = lane_id() % kLanes, first = lane_id() / kLanes;
  if (c * 8 >= width) return;
  KeyScales<T, kBits> ready;
  ready.set(load_shared_16(scales + c * 32), load_shared_16(scales + c * 32 + 16));
  const uint32_t row_bytes = static_cast<uint32_t>(width) * kBits / 8;
  codes += first * row_bytes + c * kBits;
  to += first * kRowBytes + chunk_offset(first, c);
  static_assert(kRows % (kAhead * kStep) == 0 && kAhead * kStep % 8 == 0);
#pragma unroll 1
  for (int32_t row = 0; row < kRows; row += kAhead * kStep) {
    uint2 ahead[kAhead] = {};
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const uint32_t from = codes + i * kStep * row_bytes;
      if constexpr (kBits == 8) {
        ahead[i] = load_shared_8(from);
      } else {
        ahead[i].x = kBits == 4 ? load_shared_4(from) : load_shared_2(from);
      }
    }
    // The rows' numbers differ in other bits than `first` has, so that chunk_offset is an xor away.
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      store_chunk((to ^ (i * kStep % 8 * 16)) + i * kStep * kRowBytes, ready.values(ahead[i]));
    }
    codes += kAhead * kStep * row_bytes;
    to += kAhead * kStep * kRowBytes;
  }
}

// V. A lane keeps 16 channels and takes every kStep-th row; of 8 lanes that store together four have an even row and
// four an odd one, so that their chunks lie in different banks.
template <typename T, int kRows, uint32_t kRowBytes, int kStep, int kBits>
__device__ void unpack_values_by(uint32_t codes, uint32_t scales, uint32_t to, int32_t width, int32_t group) {
  constexpr int kLanes = 32 / kStep, kAhead = 4;
  static_assert(kLanes == 4 || kLanes == 8);
  const int32_t lane = lane_id();
  const int32_t c = kLanes == 8 ? lane / 8 % 2 * 4 + lane % 4 : lane % 4;
  const int32_t first = kLanes == 8 ? lane / 16 * 2 + lane / 4 % 2 : lane / 4;
  if (c * 16 >= width) return;
  const uint32_t row_bytes = static_cast<uint32_t>(width) * kBits / 8, scale_bytes = width / group * 4;
  codes += first * row_bytes + c * 2 * kBits;
  scales += first * scale_bytes + c * 16 / group * 4;
  to += first * kRowBytes + chunk_offset(first, 2 * c);
  static_assert(kRows % (kAhead * kStep) == 0 && kAhead * kStep % 8 == 0);
#pragma unroll 1
  for (int32_t row = 0; row < kRows; row += kAhead * kStep) {
    uint4 ahead[kAhead] = {};
    uint32_t pairs[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const uint32_t from = codes + i * kStep * row_bytes;
      if constexpr (kBits == 8) {
        ahead[i] = load_shared_16(from);
      } else if constexpr (kBits == 4) {
        const uint2 two = load_shared_8(from);
        ahead[i].x = two.x, ahead[i].y = two.y;
      } else {
        ahead[i].x = load_shared_4(from);
      }
      pairs[i] = load_shared_4(scales + i * kStep * scale_bytes);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      uint4 out[2];
      values_of_row<T, kBits>(ahead[i], pairs[i], out);
      const uint32_t at = to ^ (i * kStep % 8 * 16);
      store_chunk(at + i * kStep * kRowBytes, out[0]);
      store_chunk((at ^ 16) + i * kStep * kRowBytes, out[1]);
    }
    codes += kAhead * kStep * row_bytes;
    scales += kAhead * kStep * scale_bytes;
    to += kAhead * kStep * kRowBytes;
  }
}

template <typename T, int kRows, uint32_t kRowBytes, int kBits>
__device__ void unpack_keys_of(uint32_t codes, uint32_t scales, uint32_t to, int32_t width) {
  if constexpr (kRowBytes > 128) {
    if (width > 64) return unpack_keys_by<T, kRows, kRowBytes, 2, kBits>(codes, scales, to, width);
  }
  unpack_keys_by<T, kRows, kRowBytes, 4, kBits>(codes, scales, to, width);
}
template <typename T, int kRows, uint32_t kRowBytes>
__device__ void unpack_keys(Codec codec, uint32_t codes, uint32_t scales, uint32_t to, int32_t width) {
  switch (codec) {
    case Codec::I8: return unpack_keys_of<T, kRows, kRowBytes, 8>(codes, scales, to, width);
    case Codec::I4: return unpack_keys_of<T, kRows, kRowBytes, 4>(codes, scales, to, width);
    default: return unpack_keys_of<T, kRows, kRowBytes, 2>(codes, scales, to, width);
  }
}
template <typename T, int kRows, uint32_t kRowBytes>
__device__ void unpack_values(Codec codec, uint32_t codes, uint32_t scales, uint32_t to, int32_t width, int32_t group) {
  constexpr int kStep = kRowBytes > 128 ? 4 : 8;
  switch (codec) {
    case Codec::I8: return unpack_values_by<T, kRows, kRowBytes, kStep, 8>(codes, scales, to, width, group);
    case Codec::I4: return unpack_values_by<T, kRows, kRowBytes, kStep, 4>(codes, scales, to, width, group);
    default: return unpack_values_by<T, kRows, kRowBytes, kStep, 2>(codes, scales, to, width, group);
  }
}

// Rows from anywhere, straight from global memory.

// How the lanes of a warp share slots of `chunks` equal parts: always the same part of every step-th slot.
struct LaneShare {
  int32_t c, first, step;
  __device__ explicit LaneShare(int32_t chunks) {
    step = 32 / chunks;
    c = lane_id() % chunks;
    first = lane_id() / chunks;
    if (first >= step) first = INT32_MAX / 2;  // nothing is left for this lane
  }
};

inline constexpr int kCodesAhead = 4;  // rows whose codes a lane asks for at once

template <typename T, typename S, int kSlots, int kBits>
__device__ void widen_keys_of(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  const LaneShare share(width / 8);
  const std::byte* scales_at = nullptr;
  KeyScales<T, kBits> ready;
#pragma unroll 1
  for (int32_t slot0 = share.first; slot0 < kSlots; slot0 += kCodesAhead * share.step) {
    uint2 ahead[kCodesAhead] = {};
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots || sources[slot].page == nullptr) continue;
      const std::byte* from =
          sources[slot].page + plane + (int64_t{sources[slot].in_page} * width + share.c * 8) * kBits / 8;
      if constexpr (kBits == 8) {
        ahead[i] = __ldg(reinterpret_cast<const uint2*>(from));
      } else if constexpr (kBits == 4) {
        ahead[i].x = __ldg(reinterpret_cast<const uint32_t*>(from));
      } else {
        ahead[i].x = __ldg(reinterpret_cast<const uint16_t*>(from));
      }
    }
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots) continue;
      const Source source = sources[slot];
      uint4 values = {};  // an empty slot is zeros
      if (source.page != nullptr) {
        const std::byte* at =
            source.page + codes.ks + (int64_t{source.in_page / codes.k_group} * width + share.c * 8) * 4;
        if (at != scales_at) {
          scales_at = at;
          ready.set(__ldg(reinterpret_cast<const uint4*>(at)), __ldg(reinterpret_cast<const uint4*>(at) + 1));
        }
        values = ready.values(ahead[i]);
      }
      store_chunk(to + static_cast<uint32_t>(slot) * S::kRowBytes + chunk_offset(slot, share.c), values);
    }
  }
}

template <typename T, typename S, int kSlots, int kBits>
__device__ void widen_values_of(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  const LaneShare share(width / 16);
  const int32_t groups = width / codes.v_group, group = share.c * 16 / codes.v_group;
#pragma unroll 1
  for (int32_t slot0 = share.first; slot0 < kSlots; slot0 += kCodesAhead * share.step) {
    uint4 ahead[kCodesAhead] = {};
    uint32_t scales[kCodesAhead] = {};
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots || sources[slot].page == nullptr) continue;
      const Source source = sources[slot];
      const std::byte* from = source.page + plane + (int64_t{source.in_page} * width + share.c * 16) * kBits / 8;
      if constexpr (kBits == 8) {
        ahead[i] = __ldg(reinterpret_cast<const uint4*>(from));
      } else if constexpr (kBits == 4) {
        const uint2 two = __ldg(reinterpret_cast<const uint2*>(from));
        ahead[i].x = two.x, ahead[i].y = two.y;
      } else {
        ahead[i].x = __ldg(reinterpret_cast<const uint32_t*>(from));
      }
      scales[i] = __ldg(reinterpret_cast<const uint32_t*>(source.page + codes.vs) + source.in_page * groups + group);
    }
#pragma unroll
    for (int i = 0; i < kCodesAhead; ++i) {
      const int32_t slot = slot0 + i * share.step;
      if (slot >= kSlots) continue;
      uint4 out[2];  // of an empty slot, whose scale and zero are zeros, zeros
      values_of_row<T, kBits>(ahead[i], scales[i], out);
      const uint32_t row = to + static_cast<uint32_t>(slot) * S::kRowBytes;
      store_chunk(row + chunk_offset(slot, 2 * share.c), out[0]);
      store_chunk(row + chunk_offset(slot, 2 * share.c + 1), out[1]);
    }
  }
}

template <typename T, typename S, int kSlots>
__device__ void widen_keys(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  switch (codes.k) {
    case Codec::I8: return widen_keys_of<T, S, kSlots, 8>(sources, to, plane, codes, width);
    case Codec::I4: return widen_keys_of<T, S, kSlots, 4>(sources, to, plane, codes, width);
    default: return widen_keys_of<T, S, kSlots, 2>(sources, to, plane, codes, width);
  }
}
template <typename T, typename S, int kSlots>
__device__ void widen_values(const Source* sources, uint32_t to, uint64_t plane, const Codes& codes, int32_t width) {
  switch (codes.v) {
    case Codec::I8: return widen_values_of<T, S, kSlots, 8>(sources, to, plane, codes, width);
    case Codec::I4: return widen_values_of<T, S, kSlots, 4>(sources, to, plane, codes, width);
    default: return widen_values_of<T, S, kSlots, 2>(sources, to, plane, codes, width);
  }
}

}  // namespace pare::cuda::decode
