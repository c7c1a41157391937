// Elements of stored rows, one at a time, in every codec and order (plan/kv_layout.h): what the oracles read and write.
// Rows are counted inside their page. No bounds are checked.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "plan/kv_layout.h"

namespace pare::ref {

inline int64_t k_index(const RowFormat& f, int64_t row, int64_t c) {
  if (f.order == Order::Rows) return row * f.k_width + c;
  if (f.k_codec == Codec::Bf16) return ((row / 16) * (f.k_width / 2) + c / 2) * 32 + (row % 16) * 2 + c % 2;
  return ((row / 16) * f.k_width + c) * 16 + row % 16;
}
inline int64_t v_index(const RowFormat& f, int64_t page_rows, int64_t row, int64_t c) {
  if (f.order == Order::Rows || f.v_codec != Codec::Bf16) return row * f.v_width + c;
  return ((c / 16) * (page_rows / 2) + row / 2) * 32 + (c % 16) * 2 + row % 2;
}

// A quantized group's scale and zero, as stored.
struct ScalePair {
  uint16_t scale, zero;  // fp16
};
static_assert(sizeof(ScalePair) == 4);

inline int64_t ks_index(const RowFormat& f, int64_t row, int64_t c) { return (row / f.k_group) * f.k_width + c; }
inline int64_t vs_index(const RowFormat& f, int64_t row, int64_t c) {
  return row * (f.v_width / f.v_group) + c / f.v_group;
}

// F32, F16 and Bf16.
inline float load_plain(Codec codec, const std::byte* plane, int64_t index) {
  if (codec == Codec::F32) {
    float x;
    std::memcpy(&x, plane + index * 4, 4);
    return x;
  }
  uint16_t x;
  std::memcpy(&x, plane + index * 2, 2);
  return codec == Codec::F16 ? half_to_float(x) : bfloat_to_float(x);
}
inline void store_plain(Codec codec, std::byte* plane, int64_t index, float value) {
  if (codec == Codec::F32) {
    std::memcpy(plane + index * 4, &value, 4);
    return;
  }
  const uint16_t x = codec == Codec::F16 ? float_to_half(value) : float_to_bfloat(value);
  std::memcpy(plane + index * 2, &x, 2);
}

// I8, I4 and I2. Storing keeps the other codes of the byte.
inline uint32_t load_code(Codec codec, const std::byte* plane, int64_t index) {
  const int64_t bit = index * codec_bits(codec);
  return static_cast<uint32_t>(plane[bit / 8]) >> (bit % 8) & ((1u << codec_bits(codec)) - 1);
}
inline void store_code(Codec codec, std::byte* plane, int64_t index, uint32_t code) {
  const int64_t bit = index * codec_bits(codec);
  const uint32_t mask = ((1u << codec_bits(codec)) - 1) << (bit % 8);
  const uint32_t old = static_cast<uint32_t>(plane[bit / 8]);
  plane[bit / 8] = static_cast<std::byte>((old & ~mask) | code << (bit % 8));
}
float load_scaled(Codec codec, const std::byte* plane, int64_t index, const std::byte* scales, int64_t pair);

// Element (row, channel) of K or V of the page at `base`, as the kernels must see it.
inline float load_k(const RowFormat& f, const std::byte* base, int64_t row, int64_t c) {
  const int64_t index = k_index(f, row, c);
  if (!is_quantized(f.k_codec)) return load_plain(f.k_codec, base + f.k, index);
  return load_scaled(f.k_codec, base + f.k, index, base + f.ks, ks_index(f, row, c));
}
inline float load_v(const RowFormat& f, int64_t page_rows, const std::byte* base, int64_t row, int64_t c) {
  const int64_t index = v_index(f, page_rows, row, c);
  if (!is_quantized(f.v_codec)) return load_plain(f.v_codec, base + f.v, index);
  return load_scaled(f.v_codec, base + f.v, index, base + f.vs, vs_index(f, row, c));
}

}  // namespace pare::ref
