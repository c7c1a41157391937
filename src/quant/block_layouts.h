// Field offsets and 6-bit scale packing of the block formats, shared by the decoders and encoders of src/quant.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"

namespace pare {

inline constexpr int kSuperBlock = 256;  // elements of a K-format block

inline uint8_t byte_at(const std::byte* p, size_t i) { return std::to_integer<uint8_t>(p[i]); }

inline uint16_t load_u16(const std::byte* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
inline uint32_t load_u32(const std::byte* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
inline float load_half(const std::byte* p) { return half_to_float(load_u16(p)); }
inline void store_half(std::byte* p, float value) {
  const uint16_t half = float_to_half(value);
  std::memcpy(p, &half, sizeof(half));
}

// The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes: bytes 0-3 and 4-7 hold scales and minima
// 0-3 in their low 6 bits and the top two bits of scales and minima 4-7 above them; bytes 8-11 hold the low
// nibbles of scale (low) and minimum (high) 4-7.
struct ScalesAndMins {
  std::array<uint8_t, 8> scale, min;
};

inline ScalesAndMins unpack_scales(const std::byte* p) {
  ScalesAndMins out;
  for (int i = 0; i < 4; ++i) {
    const uint8_t a = byte_at(p, i), b = byte_at(p, i + 4), c = byte_at(p, i + 8);
    out.scale[i] = a & 63;
    out.min[i] = b & 63;
    out.scale[i + 4] = (c & 15) | (a >> 6) << 4;
    out.min[i + 4] = (c >> 4) | (b >> 6) << 4;
  }
  return out;
}

inline void pack_scales(const ScalesAndMins& in, std::byte* p) {
  for (int i = 0; i < 4; ++i) {
    p[i] = std::byte(in.scale[i] | (in.scale[i + 4] >> 4) << 6);
    p[i + 4] = std::byte(in.min[i] | (in.min[i + 4] >> 4) << 6);
    p[i + 8] = std::byte((in.scale[i + 4] & 15) | (in.min[i + 4] & 15) << 4);
  }
}

}  // namespace pare
