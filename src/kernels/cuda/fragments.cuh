// From a record of a device weight to operands of mma.m16n8k16: quants as exact small integers in bf16, and their
// scales. For *.cu files.
//
// Lane 4 * g + c of a warp holds of a 16 x 16 step: register 0 row g, columns 2c and 2c + 1; register 1 row g + 8;
// registers 2 and 3 the same for columns + 8. Records may lie in shared or global memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_format.h"

namespace pare::cuda {

__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
  const __nv_bfloat162 packed = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(packed);
}
__device__ __forceinline__ float2 unpack_bf16x2(uint32_t packed) {
  return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
}
__device__ __forceinline__ float2 unpack_half2(uint32_t packed) {
  return __half22float2(reinterpret_cast<const __half2&>(packed));
}

// Both halves of a word: the bits of bf16 128.0 take an integer below 128 into their mantissa.
inline constexpr uint32_t kBf128 = 0x43004300u, kBfOne = 0x3f803f80u, kBfMinusOne = 0xbf80bf80u;

// u - offset for integers u < 128 in the mantissas of 128.0.
template <int kOffset>
__device__ __forceinline__ uint32_t remove_offset(uint32_t magic) {
  constexpr uint32_t kMinus = 0xc300u | kOffset;  // -(128 + offset)
  return fma_bf16x2(magic, kBfOne, kMinus << 16 | kMinus);
}

// Signed bytes in the low halves of each half word. 128 + (b mod 128) minus 128, or minus 256 for negative b.
__device__ __forceinline__ uint32_t signed_bytes_to_bf16(uint32_t bytes) {
  return fma_bf16x2((bytes & 0x00800080u) | kBf128, kBfMinusOne, (bytes & 0x007f007fu) | kBf128);
}

// Shifts right, left where `right` is negative.
template <int kRight>
__device__ __forceinline__ uint32_t shifted(uint32_t word) {
  if constexpr (kRight >= 0) {
    return word >> kRight;
  } else {
    return word << -kRight;
  }
}

// Four 4-bit codes (in bits 0-15 of `codes`) to the bytes of kIq4Table. A byte permutation chooses among 8 bytes by 3
// bits, so both halves of the table are asked and bit 3 decides.
__device__ __forceinline__ uint32_t look_up_iq4(uint32_t codes) {
  constexpr uint32_t kTable[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
  const uint32_t index = codes & 0x7777u;
  const uint32_t low = __byte_perm(kTable[0], kTable[1], index), high = __byte_perm(kTable[2], kTable[3], index);
  return __byte_perm(low, high, 0x3210u | (codes & 0x8888u) >> 1);
}

// bf16 operands whose sum is the weight: halves have 11 significant bits, floats 24, bf16 8.
template <DType kType>
inline constexpr int kTerms = kType == DType::F32   ? 3
                              : kType == DType::F16 ? 2
                                                    : 1;

template <DType kType>
struct Fragment {
  uint32_t a[2][kTerms<kType>][4];  // [K step][term][register]
};

template <DType kType>
__device__ __forceinline__ void split_terms(float low, float high, int reg, uint32_t (&a)[kTerms<kType>][4]) {
#pragma unroll
  for (int i = 0; i < kTerms<kType>; ++i) {
    a[i][reg] = pack_bf16x2(low, high);
    const float2 taken = unpack_bf16x2(a[i][reg]);
    low -= taken.x;
    high -= taken.y;
  }
}

template <DType kType, int kReg>
__device__ __forceinline__ uint32_t unpack_register(int step, uint32_t nibbles, uint32_t pairs, uint32_t bits) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kPairsAt = f.nibbles ? 4 : 0, kBitAt = f.nibbles ? 4 : 2;
  uint32_t u = kBf128;
  if constexpr (f.nibbles) u |= nibbles >> (4 * kReg) & 0x000f000fu;
  if constexpr (f.pairs) {
    const uint32_t moved = step == 0 ? shifted<2 * kReg - kPairsAt>(pairs) : shifted<8 + 2 * kReg - kPairsAt>(pairs);
    u |= moved & 0x00030003u << kPairsAt;
  }
  if constexpr (f.bit) {
    const uint32_t moved = step == 0 ? shifted<kReg - kBitAt>(bits) : shifted<4 + kReg - kBitAt>(bits);
    u |= moved & 0x00010001u << kBitAt;
  }
  return remove_offset<f.offset>(u);
}

// Group `group` of the record.
template <DType kType>
__device__ __forceinline__ Fragment<kType> load_fragment(const std::byte* record, int group, int lane) {
  constexpr DeviceFormat f = *device_format(kType);
  Fragment<kType> out;
  const int at = 32 * group + lane;
  if constexpr (f.plain == 4) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const auto* v = reinterpret_cast<const float4*>(record) + 2 * (64 * group + 32 * step + lane);
      const float4 first = v[0], second = v[1];
      split_terms<kType>(first.x, first.y, 0, out.a[step]);
      split_terms<kType>(first.z, first.w, 1, out.a[step]);
      split_terms<kType>(second.x, second.y, 2, out.a[step]);
      split_terms<kType>(second.z, second.w, 3, out.a[step]);
    }
  } else if constexpr (f.plain == 2) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint4 v = reinterpret_cast<const uint4*>(record)[64 * group + 32 * step + lane];
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        if constexpr (kType == DType::BF16) {
          out.a[step][0][reg] = words[reg];
        } else {
          const float2 value = unpack_half2(words[reg]);
          split_terms<kType>(value.x, value.y, reg, out.a[step]);
        }
      }
    }
  } else if constexpr (f.bytes) {
    const uint4 v = reinterpret_cast<const uint4*>(record)[at];
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out.a[i / 2][0][i % 2 * 2] = signed_bytes_to_bf16(words[i]);
      out.a[i / 2][0][i % 2 * 2 + 1] = signed_bytes_to_bf16(words[i] >> 8);
    }
  } else {
    uint2 nibbles{};
    uint32_t pairs = 0, bits = 0;
    if constexpr (f.nibbles) nibbles = reinterpret_cast<const uint2*>(record)[at];
    if constexpr (f.pairs) pairs = reinterpret_cast<const uint32_t*>(record + pairs_offset(f))[at];
    if constexpr (f.bit) {
      // Lower halves' bits in one byte, upper halves' in the other: one to each half word.
      bits = __byte_perm(reinterpret_cast<const uint16_t*>(record + bit_offset(f))[at], 0, 0x4140);
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint32_t word = step == 0 ? nibbles.x : nibbles.y;
      uint32_t(&a)[4] = out.a[step][0];
      if constexpr (f.table) {
        const uint32_t low = look_up_iq4(word), high = look_up_iq4(word >> 16);
        const uint32_t first = __byte_perm(low, high, 0x5410), second = __byte_perm(low, high, 0x7632);
        a[0] = signed_bytes_to_bf16(first);
        a[1] = signed_bytes_to_bf16(first >> 8);
        a[2] = signed_bytes_to_bf16(second);
        a[3] = signed_bytes_to_bf16(second >> 8);
      } else {
        a[0] = unpack_register<kType, 0>(step, word, pairs, bits);
        a[1] = unpack_register<kType, 1>(step, word, pairs, bits);
        a[2] = unpack_register<kType, 2>(step, word, pairs, bits);
        a[3] = unpack_register<kType, 3>(step, word, pairs, bits);
      }
    }
  }
  return out;
}

// d and dmin of a record's rows g and g + 8; ones where groups hold their own.
struct RecordBase {
  float d[2], m[2];
};
template <DType kType>
__device__ __forceinline__ RecordBase load_record_base(const std::byte* record, int lane) {
  constexpr DeviceFormat f = *device_format(kType);
  RecordBase out{{1.0f, 1.0f}, {1.0f, 1.0f}};
  if constexpr (has_sub_scales(f.scales)) {
    const std::byte* base = record + base_offset(f);
    float2 d;
    if constexpr (has_minimum(f.scales)) {
      const uint2 both = reinterpret_cast<const uint2*>(base)[lane / 4];
      const float2 m = unpack_half2(both.y);
      out.m[0] = m.x;
      out.m[1] = m.y;
      d = unpack_half2(both.x);
    } else {
      d = unpack_half2(reinterpret_cast<const uint32_t*>(base)[lane / 4]);
    }
    out.d[0] = d.x;
    out.d[1] = d.y;
  }
  return out;
}

// weight = d * q + m for rows g and g + 8 in each K step. Steps differ only in formats with halves. Each is the product
// that the source format prescribes, rounded once.
struct GroupScales {
  float d[2][2], m[2][2];  // [K step][upper row]
};
template <DType kType>
__device__ __forceinline__ GroupScales load_group_scales(const std::byte* record, const RecordBase& base, int group,
                                                         int lane) {
  constexpr DeviceFormat f = *device_format(kType);
  const std::byte* at = record + scales_offset(f) + (8 * group + lane / 4) * (group_scale_bytes(f.scales) / 8);
  GroupScales out{};
  if constexpr (f.scales == DeviceScales::kHalf) {
    const float2 d = unpack_half2(*reinterpret_cast<const uint32_t*>(at));
    out.d[0][0] = out.d[1][0] = d.x;
    out.d[0][1] = out.d[1][1] = d.y;
  } else if constexpr (f.scales == DeviceScales::kHalfMin) {
    const uint2 both = *reinterpret_cast<const uint2*>(at);
    const float2 d = unpack_half2(both.x), m = unpack_half2(both.y);
    out.d[0][0] = out.d[1][0] = d.x;
    out.d[0][1] = out.d[1][1] = d.y;
    out.m[0][0] = out.m[1][0] = m.x;
    out.m[0][1] = out.m[1][1] = m.y;
  } else if constexpr (f.scales == DeviceScales::kSub) {
    const uint32_t s = *reinterpret_cast<const uint16_t*>(at);
    out.d[0][0] = out.d[1][0] = base.d[0] * static_cast<float>(static_cast<int8_t>(s));
    out.d[0][1] = out.d[1][1] = base.d[1] * static_cast<float>(static_cast<int8_t>(s >> 8));
  } else if constexpr (f.scales == DeviceScales::kSubMin) {
    const uint32_t s = *reinterpret_cast<const uint32_t*>(at);
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      out.d[0][upper] = out.d[1][upper] = base.d[upper] * static_cast<float>(static_cast<uint8_t>(s >> 8 * upper));
      out.m[0][upper] = out.m[1][upper] =
          -(base.m[upper] * static_cast<float>(static_cast<uint8_t>(s >> (16 + 8 * upper))));
    }
  } else if constexpr (has_halves(f.scales)) {
    const uint32_t s = *reinterpret_cast<const uint32_t*>(at);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int step = i / 2, upper = i % 2;
      const auto byte = static_cast<uint8_t>(s >> 8 * i);
      if constexpr (f.scales == DeviceScales::kSubHalves) {
        out.d[step][upper] = base.d[upper] * static_cast<float>(static_cast<int8_t>(byte));
      } else {
        out.d[step][upper] = base.d[upper] * static_cast<float>(byte & 15);
        out.m[step][upper] = -(base.m[upper] * static_cast<float>(byte >> 4));
      }
    }
  }
  return out;
}

}  // namespace pare::cuda
