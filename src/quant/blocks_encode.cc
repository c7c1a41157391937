// Bit-equal to the gguf package: the same fp32 operations in the same order, so reciprocals stay reciprocals.
#include "quant/blocks_encode.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "quant/block_layouts.h"

namespace pare {
namespace {

constexpr int kItems = 32;

float inverse(float d) { return d == 0.0f ? 0.0f : 1.0f / d; }

// The element of largest magnitude, the first of equals, with its sign.
float extreme(const float* in) {
  float best = in[0];
  for (int i = 1; i < kItems; ++i) {
    if (std::abs(in[i]) > std::abs(best)) best = in[i];
  }
  return best;
}

// Truncated to a code; tiny scales make the product infinite or NaN, which converts to nothing else here.
uint8_t code(float value, int max) {
  return static_cast<uint8_t>(std::clamp(std::isnan(value) ? 0.0f : std::trunc(value), 0.0f, static_cast<float>(max)));
}

void store_nibbles(const uint8_t* q, std::byte* out) {
  for (int i = 0; i < 16; ++i) out[i] = std::byte((q[i] & 15) | (q[i + 16] & 15) << 4);
}

void store_high_bits(const uint8_t* q, std::byte* out) {
  uint32_t bits = 0;
  for (int i = 0; i < kItems; ++i) bits |= uint32_t{q[i]} >> 4 << i;
  std::memcpy(out, &bits, sizeof(bits));
}

void encode_q4_0(const float* in, std::byte* out) {
  const float d = extreme(in) / -8.0f, id = inverse(d);
  uint8_t q[kItems];
  for (int i = 0; i < kItems; ++i) q[i] = code(in[i] * id + 8.5f, 15);
  store_half(out, d);
  store_nibbles(q, out + 2);
}

void encode_q4_1(const float* in, std::byte* out) {
  const auto [min, max] = std::minmax_element(in, in + kItems);
  const float d = (*max - *min) / 15.0f, id = inverse(d);
  uint8_t q[kItems];
  for (int i = 0; i < kItems; ++i) q[i] = code((in[i] - *min) * id + 0.5f, 15);
  store_half(out, d);
  store_half(out + 2, *min);
  store_nibbles(q, out + 4);
}

void encode_q5_0(const float* in, std::byte* out) {
  const float d = extreme(in) / -16.0f, id = inverse(d);
  uint8_t q[kItems];
  for (int i = 0; i < kItems; ++i) q[i] = code(in[i] * id + 16.5f, 31);
  store_half(out, d);
  store_high_bits(q, out + 2);
  store_nibbles(q, out + 6);
}

void encode_q5_1(const float* in, std::byte* out) {
  const auto [min, max] = std::minmax_element(in, in + kItems);
  const float d = (*max - *min) / 31.0f, id = inverse(d);
  uint8_t q[kItems];
  for (int i = 0; i < kItems; ++i) q[i] = code((in[i] - *min) * id + 0.5f, 31);
  store_half(out, d);
  store_half(out + 2, *min);
  store_high_bits(q, out + 4);
  store_nibbles(q, out + 8);
}

void encode_q8_0(const float* in, std::byte* out) {
  const float d = std::abs(extreme(in)) / 127.0f, id = inverse(d);
  store_half(out, d);
  for (int i = 0; i < kItems; ++i) {
    const float scaled = in[i] * id;
    // Halves go away from zero; a subnormal scale has an infinite inverse.
#ifdef PARE_FAULT_QUANT_ROUNDING
    const float rounded = std::isfinite(scaled) ? std::clamp(std::trunc(scaled), -127.0f, 127.0f) : 0.0f;
#else
    const float rounded = std::isfinite(scaled) ? std::clamp(std::round(scaled), -127.0f, 127.0f) : 0.0f;
#endif
    out[2 + i] = std::byte(static_cast<uint8_t>(static_cast<int8_t>(rounded)));
  }
}

}  // namespace

BlockEncoder find_block_encoder(DType dtype) {
  switch (dtype) {
    case DType::Q4_0: return encode_q4_0;
    case DType::Q4_1: return encode_q4_1;
    case DType::Q5_0: return encode_q5_0;
    case DType::Q5_1: return encode_q5_1;
    case DType::Q8_0: return encode_q8_0;
    case DType::Q4_K: return encode_q4_k;
    case DType::Q6_K: return encode_q6_k;
    default: return nullptr;
  }
}

}  // namespace pare
