// Constants of the attention arithmetic that every level shares (attention.h), and the scalar conversions.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace pare::attn {

inline constexpr float kLog2e = 0x1.715476p+0f;
inline constexpr float kNegInf = -std::numeric_limits<float>::infinity();
inline constexpr float kExp2Min = -64.0f;
inline constexpr float kRoundToInt = 0x1.8p+23f;  // x + this rounds x to an integer, which lies in the low bits
// 2^f = 1 + f (c0 + f (c1 + ...)) on [-1/2, 1/2]: Chebyshev interpolation of (2^f - 1) / f, relative
// error 9.2e-9.
inline constexpr float kExp2Poly[6] = {0x1.62e430p-1f, 0x1.ebfbe0p-3f,  0x1.c6af6cp-5f,
                                       0x1.3b2a54p-7f, 0x1.5f0890p-10f, 0x1.44138ap-13f};

// `static` so that no copy compiled for a higher CPU level can be linked into baseline code.
static inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, exp = (h >> 10) & 31, frac = h & 0x3ff;
  if (exp == 31) return std::bit_cast<float>(sign | 0x7f800000u | (frac << 13) | (frac ? 0x400000u : 0u));
  if (exp == 0) {
    const float magnitude = static_cast<float>(frac) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exp + 112) << 23) | (frac << 13));
}

// Round to nearest even; overflow to infinity; NaN stays NaN (quiet).
static inline uint16_t float_to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
  if (magnitude < 0x38800000u) {  // subnormal: adding 1/2 puts units of 2^-24 into the low bits, rounded
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

static inline float bf16_to_float(uint16_t b) { return std::bit_cast<float>(static_cast<uint32_t>(b) << 16); }

static inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace pare::attn
