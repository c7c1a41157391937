// fp16 and bf16 conversions in software: exact, the same on every machine, usable in constant expressions.
// Kernels of a CPU level use its instructions, which agree bit for bit on everything but NaN payloads.
#pragma once

#include <bit>
#include <cstdint>

namespace pare {

// Exact, subnormals and NaN payloads included.
constexpr float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, magnitude = h & 0x7FFFu;
  if (magnitude >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  // Exponents differ by 112; the multiplication normalizes subnormals too.
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f));
}

// Rounds to nearest, ties to even; beyond 65,519 infinity. A NaN stays a NaN, quiet.
constexpr uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7E00u | (magnitude >> 13 & 0x1FFu);
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;
  if (magnitude < 0x38800000u) {
    // Below 2^-14 an fp16 step is 2^-24, which is the last bit of a float in [0.5, 1).
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return sign | static_cast<uint16_t>((magnitude + 0xFFFu + odd - (112u << 23)) >> 13);
}

constexpr float bfloat_to_float(uint16_t b) { return std::bit_cast<float>(uint32_t{b} << 16); }

// Rounds to nearest, ties to even. A NaN stays a NaN, quiet.
constexpr uint16_t float_to_bfloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace pare
