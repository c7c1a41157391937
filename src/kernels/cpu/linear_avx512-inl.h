// Unpacking and epilogue shared by the AVX-512 and AMX files; everything has internal linkage.
#pragma once

#include <immintrin.h>

#include "kernels/linear.h"
#include "kernels/packed_format.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 reports the deliberately undefined merge operand inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define PARE_UNROLL _Pragma("GCC unroll 16")

namespace pare {
namespace {

template <int kShift>
inline __m512i shift16(__m512i v) {
  if constexpr (kShift > 0) return _mm512_slli_epi16(v, kShift);
  if constexpr (kShift < 0) return _mm512_srli_epi16(v, -kShift);
  return v;
}

// w | (plane & mask)
inline __m512i or_masked(__m512i w, __m512i plane, __m512i mask) {
  return _mm512_ternarylogic_epi32(w, plane, mask, 0xF8);
}

template <const PackedFormat& F, int kGroup>
inline __m512i add_planes(__m512i w, const uint8_t* q) {
  constexpr int kPlanes = F.nibbles ? 256 : 0, kBase = F.nibbles ? 4 : 0;
  if constexpr (F.pairs) {
    const __m512i plane = _mm512_load_si512(q + kPlanes + 64 * (kGroup / 4));
    w = or_masked(w, shift16<kBase - 2 * (kGroup % 4)>(plane), _mm512_set1_epi8(3 << kBase));
  }
  if constexpr (F.bit) {
    constexpr int kBit = F.nibbles ? 4 : 2;
    const __m512i plane = _mm512_load_si512(q + kPlanes + (F.pairs ? 128 : 0));
    w = or_masked(w, shift16<kBit - kGroup>(plane), _mm512_set1_epi8(1 << kBit));
  }
  return w;
}

// The block's quants as 8 registers of unsigned bytes, [16 rows][4 columns] each.
template <const PackedFormat& F>
inline void load_weights(const uint8_t* q, __m512i w[8]) {
  if constexpr (F.bytes) {
    PARE_UNROLL for (int g = 0; g < 8; ++g) {
      w[g] = _mm512_xor_si512(_mm512_load_si512(q + 64 * g), _mm512_set1_epi8(-128));
    }
    return;
  }
  PARE_UNROLL for (int g = 0; g < 8; ++g) w[g] = _mm512_setzero_si512();
  if constexpr (F.nibbles) {
    const __m512i low = _mm512_set1_epi8(15);
    PARE_UNROLL for (int c = 0; c < 4; ++c) {
      const __m512i v = _mm512_load_si512(q + 64 * c);
      w[2 * c] = _mm512_and_si512(v, low);
#ifdef PARE_FAULT_LINEAR_HIGH_NIBBLE
      w[2 * c + 1] = w[2 * c];
#else
      w[2 * c + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
#endif
    }
  }
  if constexpr (F.table) {
    const __m512i table = _mm512_xor_si512(
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Table))), _mm512_set1_epi8(-128));
    PARE_UNROLL for (int g = 0; g < 8; ++g) w[g] = _mm512_shuffle_epi8(table, w[g]);
  }
  w[0] = add_planes<F, 0>(w[0], q);
  w[1] = add_planes<F, 1>(w[1], q);
  w[2] = add_planes<F, 2>(w[2], q);
  w[3] = add_planes<F, 3>(w[3], q);
  w[4] = add_planes<F, 4>(w[4], q);
  w[5] = add_planes<F, 5>(w[5], q);
  w[6] = add_planes<F, 6>(w[6], q);
  w[7] = add_planes<F, 7>(w[7], q);
}

inline __m512 load_half16(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512 load_signed16(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline __m512i load_unsigned16(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Scales of 16 rows for one block; which members count depends on the math (packed_format.h).
struct Scales {
  __m512 d, m;          // d times the sub-scale of 32-blocks; m: addend of kMin32, dmin of kMin16
  __m512 a, b, ma, mb;  // half-block scales and minima, small integers
};

template <const PackedFormat& F>
inline Scales load_scales(const uint8_t* header, int j) {
  Scales s;
  if constexpr (F.blocks < 8) {
    s.d = load_half16(header + 32 * j);
    if constexpr (F.blocks == 1) s.m = load_half16(header + kHeaderM);
    return s;
  }
  s.d = load_half16(header + kHeaderD);
  const uint8_t* sub = header + kHeaderSub;
  if constexpr (F.math == BlockMath::kSym32) s.d = _mm512_mul_ps(s.d, load_signed16(sub + 16 * j));
  if constexpr (F.math == BlockMath::kMin32) {
    s.d = _mm512_mul_ps(s.d, _mm512_cvtepi32_ps(load_unsigned16(sub + 16 * j)));
    const __m512 m = _mm512_cvtepi32_ps(load_unsigned16(header + kHeaderSubMin + 16 * j));
    s.m = _mm512_mul_ps(load_half16(header + kHeaderM), _mm512_sub_ps(_mm512_setzero_ps(), m));
  }
  if constexpr (F.math == BlockMath::kSym16) {
    s.a = load_signed16(sub + 32 * j);
    s.b = load_signed16(sub + 32 * j + 16);
  }
  if constexpr (F.math == BlockMath::kMin16) {
    const __m512i a = load_unsigned16(sub + 32 * j), b = load_unsigned16(sub + 32 * j + 16);
    const __m512i low = _mm512_set1_epi32(15);
    s.m = load_half16(header + kHeaderM);
    s.a = _mm512_cvtepi32_ps(_mm512_and_si512(a, low));
    s.b = _mm512_cvtepi32_ps(_mm512_and_si512(b, low));
    s.ma = _mm512_cvtepi32_ps(_mm512_srli_epi32(a, 4));
    s.mb = _mm512_cvtepi32_ps(_mm512_srli_epi32(b, 4));
  }
  return s;
}

// acc + one block, from the integer sums of its halves (kSym32 and kMin32: all in `first`).
template <BlockMath kMath>
inline __m512 add_block(__m512i first, __m512i second, const Scales& s, const ActBlock* x, __m512 acc) {
  const __m512 scale = _mm512_set1_ps(x->scale);
  if constexpr (kMath == BlockMath::kSym32 || kMath == BlockMath::kMin32) {
#ifdef PARE_FAULT_LINEAR_DROP_SCALE
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first), s.d, acc);
#else
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first), _mm512_mul_ps(s.d, scale), acc);
#endif
    if constexpr (kMath == BlockMath::kMin32) acc = _mm512_fmadd_ps(s.m, _mm512_set1_ps(x->scaled_sum), acc);
    return acc;
  }
  const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second), s.b, _mm512_mul_ps(_mm512_cvtepi32_ps(first), s.a));
  acc = _mm512_fmadd_ps(sum, _mm512_mul_ps(s.d, scale), acc);
  if constexpr (kMath == BlockMath::kMin16) {
    const __m512 sum_a = _mm512_cvtepi32_ps(_mm512_set1_epi32(x->neg_sum16[0]));
    const __m512 sum_b = _mm512_cvtepi32_ps(_mm512_set1_epi32(x->neg_sum16[1]));
    const __m512 min = _mm512_fmadd_ps(sum_b, s.mb, _mm512_mul_ps(sum_a, s.ma));
    acc = _mm512_fmadd_ps(min, _mm512_mul_ps(s.m, scale), acc);
  }
  return acc;
}

// Integer accumulators start at -offset * (sum of activations).
template <const PackedFormat& F>
inline __m512i initial_sum(const int32_t* neg_sum) {
  if constexpr (F.math == BlockMath::kSym32 || F.math == BlockMath::kSym16) {
    return _mm512_slli_epi32(_mm512_set1_epi32(*neg_sum), F.offset_log2);
  }
  return _mm512_setzero_si512();
}

// y: where the tile's first column goes.
inline void store_tile_row(__m512 acc, const LinearEpilogue& epilogue, int64_t row0, int64_t n, float* y) {
  const int64_t left = n - row0;
  const __mmask16 mask = left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1);
  if (epilogue.bias != nullptr) acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(mask, epilogue.bias + row0));
  if (epilogue.accumulate) acc = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), acc);
  _mm512_mask_storeu_ps(y, mask, acc);
}

}  // namespace
}  // namespace pare
