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

// (word & mask) | 128.0 in one instruction: the compiler makes two of two constants.
__device__ __forceinline__ uint32_t mask_onto_128(uint32_t word, uint32_t mask) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(word), "r"(mask), "r"(kBf128));
  return d;
}

// u - offset for integers u < 128 in the mantissas of 128.0.
template <int kOffset>
__device__ __forceinline__ uint32_t remove_offset(uint32_t magic) {
  constexpr uint32_t kMinus = 0xc300u | kOffset;  // -(128 + offset)
  return fma_bf16x2(magic, kBfOne, kMinus << 16 | kMinus);
}

// Signed bytes in the low halves of each half word. 128 + (b mod 128) minus 128, or minus 256 for negative b.
__device__ __forceinline__ uint32_t signed_bytes_to_bf16(uint32_t bytes) {
  return fma_bf16x2(mask_onto_128(bytes, 0x00800080u), kBfMinusOne, mask_onto_128(bytes, 0x007f007fu));
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

// The A operands of one group.
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

template <DType kType, bool kRaised, int kReg>
__device__ __forceinline__ uint32_t unpack_register(int step, uint32_t nibbles, uint32_t pairs, uint32_t bits) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kPairsAt = f.nibbles ? 4 : 0, kBitAt = f.nibbles ? 4 : 2;
  const uint32_t moved_pairs =
      step == 0 ? shifted<2 * kReg - kPairsAt>(pairs) : shifted<8 + 2 * kReg - kPairsAt>(pairs);
  const uint32_t moved_bits = step == 0 ? shifted<kReg - kBitAt>(bits) : shifted<4 + kReg - kBitAt>(bits);
  uint32_t u;
  if constexpr (f.nibbles) {
    u = mask_onto_128(nibbles >> (4 * kReg), 0x000f000fu);
    if constexpr (f.pairs) u |= moved_pairs & 0x00030003u << kPairsAt;
  } else {
    u = mask_onto_128(moved_pairs, 0x00030003u);
  }
  if constexpr (f.bit) u |= moved_bits & 0x00010001u << kBitAt;
  return kRaised ? u : remove_offset<f.offset>(u);
}

// What a lane holds of a unit's quants.
template <DType kType>
struct UnitQuants {
  static constexpr DeviceFormat kFormat = *device_format(kType);
  static constexpr int kWords = kFormat.bytes ? 8 : kFormat.plain != 0 ? 4 * kFormat.plain : 4;
  uint32_t words[kWords];  // nibbles, bytes or plain values
  uint32_t pairs[2];
  uint32_t bits;
};
template <DType kType>
__device__ __forceinline__ UnitQuants<kType> load_unit(const std::byte* unit, int lane) {
  constexpr DeviceFormat f = *device_format(kType);
  UnitQuants<kType> out{};
  if constexpr (f.nibbles || f.bytes || f.plain != 0) {
    // 16 bytes a lane, in one plane or several; floats have 32 of a K step together.
    constexpr int kVectors = UnitQuants<kType>::kWords / 4, kTogether = f.plain == 4 ? 2 : 1;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const uint4 v = reinterpret_cast<const uint4*>(unit)[(i / kTogether * 32 + lane) * kTogether + i % kTogether];
      out.words[4 * i] = v.x;
      out.words[4 * i + 1] = v.y;
      out.words[4 * i + 2] = v.z;
      out.words[4 * i + 3] = v.w;
    }
  }
  if constexpr (f.pairs) {
    const uint2 v = reinterpret_cast<const uint2*>(unit + pairs_offset(f))[lane];
    out.pairs[0] = v.x;
    out.pairs[1] = v.y;
  }
  if constexpr (f.bit) out.bits = reinterpret_cast<const uint32_t*>(unit + bit_offset(f))[lane];
  return out;
}

// Group `group` of the unit, a constant where the loop over groups is unrolled. `kRaised` leaves 128 + u where u -
// offset would be: for formats that have no offset.
template <DType kType, bool kRaised = false>
__device__ __forceinline__ Fragment<kType> make_fragment(const UnitQuants<kType>& q, int group) {
  constexpr DeviceFormat f = *device_format(kType);
  static_assert(!kRaised || (f.offset == 0 && !f.bytes && !f.table && f.plain == 0));
  Fragment<kType> out;
  // Lower halves' bits in one byte, upper halves' in the other: one to each half word.
  const uint32_t bits = f.bit ? __byte_perm(q.bits, 0, group == 0 ? 0x4140 : 0x4342) : 0;
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    if constexpr (f.plain != 0) {
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        if constexpr (f.plain == 4) {
          split_terms<kType>(__uint_as_float(q.words[8 * step + 2 * reg]),
                             __uint_as_float(q.words[8 * step + 2 * reg + 1]), reg, out.a[step]);
        } else if constexpr (kType == DType::F16) {
          const float2 value = unpack_half2(q.words[4 * step + reg]);
          split_terms<kType>(value.x, value.y, reg, out.a[step]);
        } else {
          out.a[step][0][reg] = q.words[4 * step + reg];
        }
      }
    } else {
      uint32_t(&a)[4] = out.a[step][0];
      if constexpr (f.bytes || f.table) {
        uint32_t first, second;
        if constexpr (f.bytes) {
          first = q.words[4 * group + 2 * step];
          second = q.words[4 * group + 2 * step + 1];
        } else {
          const uint32_t word = q.words[2 * group + step];
          const uint32_t low = look_up_iq4(word), high = look_up_iq4(word >> 16);
          first = __byte_perm(low, high, 0x5410);
          second = __byte_perm(low, high, 0x7632);
        }
        a[0] = signed_bytes_to_bf16(first);
        a[1] = signed_bytes_to_bf16(first >> 8);
        a[2] = signed_bytes_to_bf16(second);
        a[3] = signed_bytes_to_bf16(second >> 8);
      } else {
        const uint32_t word = f.nibbles ? q.words[2 * group + step] : 0;
        a[0] = unpack_register<kType, kRaised, 0>(step, word, q.pairs[group], bits);
        a[1] = unpack_register<kType, kRaised, 1>(step, word, q.pairs[group], bits);
        a[2] = unpack_register<kType, kRaised, 2>(step, word, q.pairs[group], bits);
        a[3] = unpack_register<kType, kRaised, 3>(step, word, q.pairs[group], bits);
      }
    }
  }
  return out;
}

// What a lane holds of the scales of a unit, and of its record: rows g and g + 8.
struct UnitScales {
  uint32_t words[4];
  float d[2], m[2];  // the base
};
// `unit` is the unit's number in the record.
template <DType kType>
__device__ __forceinline__ UnitScales load_unit_scales(const std::byte* header, int unit, int lane) {
  constexpr DeviceFormat f = *device_format(kType);
  UnitScales out{};
  const int pair = lane / 4;
  if constexpr (f.scales != DeviceScales::kNone) {
    constexpr int kBytes = unit_scale_bytes(f.scales);
    const std::byte* at = header + (8 * unit + pair) * kBytes;
    if constexpr (kBytes == 16) {
      const uint4 v = *reinterpret_cast<const uint4*>(at);
      out.words[0] = v.x;
      out.words[1] = v.y;
      out.words[2] = v.z;
      out.words[3] = v.w;
    } else if constexpr (kBytes == 8) {
      const uint2 v = *reinterpret_cast<const uint2*>(at);
      out.words[0] = v.x;
      out.words[1] = v.y;
    } else {
      out.words[0] = *reinterpret_cast<const uint32_t*>(at);
    }
  }
  if constexpr (has_base(f.scales)) {
    const std::byte* base = header + base_offset(f);
    uint32_t halves;
    if constexpr (has_minimum(f.scales)) {
      const uint2 both = reinterpret_cast<const uint2*>(base)[pair];
      const float2 m = unpack_half2(both.y);
      out.m[0] = m.x;
      out.m[1] = m.y;
      halves = both.x;
    } else {
      halves = reinterpret_cast<const uint32_t*>(base)[pair];
    }
    const float2 d = unpack_half2(halves);
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
__device__ __forceinline__ GroupScales group_scales(const UnitScales& s, int group) {
  constexpr DeviceFormat f = *device_format(kType);
  GroupScales out{};
  const auto both_steps = [](float(&to)[2][2], float row, float upper_row) {
    to[0][0] = to[1][0] = row;
    to[0][1] = to[1][1] = upper_row;
  };
  if constexpr (f.scales == DeviceScales::kHalf || f.scales == DeviceScales::kHalfMin) {
    const float2 d = unpack_half2(s.words[group]);
    both_steps(out.d, d.x, d.y);
    if constexpr (f.scales == DeviceScales::kHalfMin) {
      const float2 m = unpack_half2(s.words[2 + group]);
      both_steps(out.m, m.x, m.y);
    }
  } else if constexpr (f.scales == DeviceScales::kSub) {
    const uint32_t bytes = s.words[0] >> 16 * group;
    both_steps(out.d, s.d[0] * static_cast<float>(static_cast<int8_t>(bytes)),
               s.d[1] * static_cast<float>(static_cast<int8_t>(bytes >> 8)));
  } else if constexpr (f.scales == DeviceScales::kSubMin) {
    const uint32_t bytes = s.words[group];
    both_steps(out.d, s.d[0] * static_cast<float>(bytes & 255), s.d[1] * static_cast<float>(bytes >> 8 & 255));
    both_steps(out.m, -(s.m[0] * static_cast<float>(bytes >> 16 & 255)), -(s.m[1] * static_cast<float>(bytes >> 24)));
  } else if constexpr (has_halves(f.scales)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int step = i / 2, upper = i % 2;
      const auto byte = static_cast<uint8_t>(s.words[group] >> 8 * i);
      if constexpr (f.scales == DeviceScales::kSubHalves) {
        out.d[step][upper] = s.d[upper] * static_cast<float>(static_cast<int8_t>(byte));
      } else {
        out.d[step][upper] = s.d[upper] * static_cast<float>(byte & 15);
        out.m[step][upper] = -(s.m[upper] * static_cast<float>(byte >> 4));
      }
    }
  }
  return out;
}

}  // namespace pare::cuda
