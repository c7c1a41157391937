// Random packed weights and activations for the kernel tests.
#pragma once

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/rng.h"
#include "kernels/linear.h"

namespace pare {

inline constexpr DType kBlockTypes[] = {DType::Q4_0, DType::Q4_1, DType::Q5_0,   DType::Q5_1,
                                        DType::Q8_0, DType::Q2_K, DType::Q3_K,   DType::Q4_K,
                                        DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS};
inline constexpr DType kFloatTypes[] = {DType::F32, DType::F16, DType::BF16};

// Byte offsets of the fp16 scales in a source block; -1: none.
struct ScaleFields {
  int d, m;
};
inline ScaleFields scale_fields(DType t) {
  switch (t) {
    case DType::Q4_1:
    case DType::Q5_1:
    case DType::Q4_K:
    case DType::Q5_K: return {0, 2};
    case DType::Q2_K: return {80, 82};
    case DType::Q3_K: return {108, -1};
    case DType::Q6_K: return {208, -1};
    default: return {0, -1};
  }
}

// Random normal fp16 with an exponent in [2^-12, 2^-4] and either sign.
inline uint16_t random_half(Philox& rng) { return static_cast<uint16_t>((rng() & 0x83FF) | (3 + rng.below(8)) << 10); }

// Source bytes of n rows of k: every bit random, except that scales and plain floats are finite.
inline std::vector<std::byte> random_weight(DType t, int64_t n, int64_t k, Philox& rng) {
  const DTypeInfo info = dtype_info(t);
  std::vector<std::byte> bytes(static_cast<size_t>(n * k / info.block_items * info.block_bytes));
  if (t == DType::F32 || t == DType::F16 || t == DType::BF16) {
    for (size_t i = 0; i < bytes.size(); i += info.block_bytes) {
      const float value = rng.normal();
      const auto bfloat = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      const uint16_t half = random_half(rng);
      std::memcpy(&bytes[i],
                  t == DType::F32   ? static_cast<const void*>(&value)
                  : t == DType::F16 ? &half
                                    : &bfloat,
                  info.block_bytes);
    }
    return bytes;
  }
  for (std::byte& b : bytes) b = static_cast<std::byte>(rng() & 255);
  for (size_t i = 0; i < bytes.size(); i += info.block_bytes) {
    for (const int at : {scale_fields(t).d, scale_fields(t).m}) {
      const uint16_t half = random_half(rng);
      if (at >= 0) std::memcpy(&bytes[i + static_cast<size_t>(at)], &half, 2);
    }
  }
  return bytes;
}

struct TestWeight {
  AlignedBuffer buffer;
  PackedWeight packed;

  TestWeight(DType t, int64_t n, int64_t k, const std::vector<std::byte>& source) {
    buffer = AlignedBuffer::allocate(packed_weight_bytes(t, n, k)).value();
    pack_weight_tiles(t, source.data(), n, k, 0, (n + kRowTile - 1) / kRowTile, buffer.data());
    packed = {t, n, k, buffer.data()};
  }
};

struct TestRows {
  std::vector<float> x;
  AlignedBuffer buffer;
  ActRows rows;

  TestRows(int64_t t, int64_t k, int64_t ld) : x(static_cast<size_t>(t * ld)) {
    buffer = AlignedBuffer::allocate(act_rows_bytes(t, k)).value();
    place_act_rows(buffer.data(), t, k, &rows);
    rows.f32 = x.data();
    rows.ld = ld;
  }
};

}  // namespace pare
