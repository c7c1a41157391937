// A stored row read as plan/kv_layout.h describes it, sharing no code with the kernels.
#pragma once

#include <limits>

#include "attention_world.h"

namespace pare::test {

// Values at the ends of what codecs hold.
inline constexpr float kSpecialValues[] = {65504.0f, -65504.0f, 1e30f,   -1e30f,
                                           0.0f,     -0.0f,     1e-8f,   std::numeric_limits<float>::quiet_NaN(),
                                           -1e-8f,   0x1p-25f,  3.0e38f, -3.0e38f};

inline const char* codec_name(Codec codec) {
  static constexpr const char* kNames[] = {"F32", "F16", "Bf16", "I8", "I4", "I2"};
  return kNames[static_cast<int>(codec)];
}

// Bits [at, at + n) of a plane, little-endian, n a divisor of 8.
inline uint32_t bits_of(const std::byte* plane, int64_t at, int n) {
  uint32_t out = 0;
  for (int b = 0; b < n; ++b) out |= (static_cast<uint32_t>(plane[(at + b) / 8]) >> ((at + b) % 8) & 1u) << b;
  return out;
}
inline uint16_t half_at(const std::byte* p) {
  return static_cast<uint16_t>(static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8);
}

// The element at `index` of a plane; quantized ones with the scale pair number `pair`, of which *scale is told.
inline float element(Codec codec, const std::byte* plane, int64_t index, const std::byte* scales, int64_t pair,
                     float* scale = nullptr) {
  if (codec == Codec::F32) {
    float x;
    std::memcpy(&x, plane + index * 4, 4);
    return x;
  }
  if (codec == Codec::F16) return half_to_float(half_at(plane + index * 2));
  if (codec == Codec::Bf16) return bfloat_to_float(half_at(plane + index * 2));
  const int bits = codec == Codec::I8 ? 8 : codec == Codec::I4 ? 4 : 2;
  const float step = half_to_float(half_at(scales + pair * 4)), zero = half_to_float(half_at(scales + pair * 4 + 2));
  if (scale != nullptr) *scale = step;
  return std::fma(step, static_cast<float>(bits_of(plane, index * bits, bits)), zero);
}

// Channel c of row r of the page that begins at `page`.
inline float k_in_page(const RowFormat& f, const std::byte* page, int r, int c, float* scale = nullptr) {
  int64_t at = int64_t{r} * f.k_width + c;
  if (f.order == Order::Tiles) at = (int64_t{r / 16} * f.k_width + c) * 16 + r % 16;
  if (f.order == Order::Tiles && f.k_codec == Codec::Bf16) {
    at = ((int64_t{r / 16} * (f.k_width / 2) + c / 2) * 16 + r % 16) * 2 + c % 2;
  }
  const int64_t pair = is_quantized(f.k_codec) ? int64_t{r / f.k_group} * f.k_width + c : 0;
  return element(f.k_codec, page + f.k, at, is_quantized(f.k_codec) ? page + f.ks : nullptr, pair, scale);
}
inline float v_in_page(const RowFormat& f, const std::byte* page, int r, int c, float* scale = nullptr,
                       int page_rows = kPageRows) {
  int64_t at = int64_t{r} * f.v_width + c;
  if (f.order == Order::Tiles && f.v_codec == Codec::Bf16) {
    at = ((int64_t{c / 16} * (page_rows / 2) + r / 2) * 16 + c % 16) * 2 + r % 2;
  }
  const int64_t pair = is_quantized(f.v_codec) ? int64_t{r} * (f.v_width / f.v_group) + c / f.v_group : 0;
  return element(f.v_codec, page + f.v, at, is_quantized(f.v_codec) ? page + f.vs : nullptr, pair, scale);
}

inline float stored_k(const World& w, int zone, int g, int row, int c, float* scale = nullptr) {
  int r;
  const std::byte* page = w.page_of(zone, g, row, &r);
  return k_in_page(w.formats[zone * w.shape.kv_heads + g], page, r, c, scale);
}
inline float stored_v(const World& w, int zone, int g, int row, int c, float* scale = nullptr) {
  int r;
  const std::byte* page = w.page_of(zone, g, row, &r);
  return v_in_page(w.formats[zone * w.shape.kv_heads + g], page, r, c, scale, w.page_rows(zone));
}

// The row as a key of the oracle: kept channels times alpha at their places among all D, zeros elsewhere.
inline OracleKey stored_row(const World& w, int zone, int g, int row) {
  const RowFormat& f = w.formats[zone * w.shape.kv_heads + g];
  OracleKey key{std::vector<float>(w.shape.d, 0.0f), std::vector<float>(w.shape.d)};
  for (int c = 0; c < f.k_width; ++c) {
    const float x = stored_k(w, zone, g, row, c);
    if (f.chan < 0) {
      key.k[c] = x;
    } else {
      key.k[w.channels[f.chan + c].id] = x * w.channels[f.chan + c].alpha;
    }
  }
  for (int c = 0; c < f.v_width; ++c) key.v[c] = stored_v(w, zone, g, row, c);
  return key;
}

}  // namespace pare::test
