// Reads the blocks of docs/formats/blocks.md.
#include "kernels/source_block.h"

#include <cstring>

namespace pare {
namespace {

void split_nibbles(const uint8_t* qs, int count, uint8_t* low, uint8_t* high) {
  for (int i = 0; i < count; ++i) {
    low[i] = qs[i] & 15;
    high[i] = qs[i] >> 4;
  }
}

void add_fifth_bits(const uint8_t* qh, uint8_t* u) {
  const uint32_t bits = load32(qh);
  for (int i = 0; i < 32; ++i) u[i] = static_cast<uint8_t>(u[i] | (bits >> i & 1) << 4);
}

// The 6-bit scales and minima of Q4_K and Q5_K: 8 + 8 values in 12 bytes.
void read_k_scales(const uint8_t* s, SourceBlock* out) {
  for (int j = 0; j < 4; ++j) {
    out->sub[j] = s[j] & 63;
    out->sub_min[j] = s[j + 4] & 63;
    out->sub[j + 4] = static_cast<uint8_t>((s[j + 8] & 15) | (s[j] >> 6) << 4);
    out->sub_min[j + 4] = static_cast<uint8_t>((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
  }
}

void read_q2_k(const uint8_t* p, SourceBlock* out) {
  std::memcpy(out->sub, p, 16);
  const uint8_t* qs = p + 16;
  for (int e = 0; e < 256; ++e) out->u[e] = qs[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2) & 3;
  out->d = load16(p + 80);
  out->m = load16(p + 82);
}

void read_q3_k(const uint8_t* p, SourceBlock* out) {
  const uint8_t *high = p, *qs = p + 32, *scales = p + 96;
  for (int e = 0; e < 256; ++e) {
    const int low = qs[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2) & 3;
    out->u[e] = static_cast<uint8_t>(low | (high[e % 32] >> (e / 32) & 1) << 2);
  }
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
    out->sub[j] = static_cast<uint8_t>((low | (scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32);
  }
  out->d = load16(p + 108);
}

void read_q4_k(const uint8_t* p, const uint8_t* qs, const uint8_t* fifth, SourceBlock* out) {
  out->d = load16(p);
  out->m = load16(p + 2);
  read_k_scales(p + 4, out);
  for (int j = 0; j < 4; ++j) split_nibbles(qs + 32 * j, 32, out->u + 64 * j, out->u + 64 * j + 32);
  if (fifth == nullptr) return;
  for (int e = 0; e < 256; ++e) {
    out->u[e] = static_cast<uint8_t>(out->u[e] | (fifth[e % 32] >> (e / 32) & 1) << 4);
  }
}

void read_q6_k(const uint8_t* p, SourceBlock* out) {
  const uint8_t *low = p, *high = p + 128;
  for (int half = 0; half < 2; ++half, low += 64, high += 32) {
    uint8_t* u = out->u + 128 * half;
    split_nibbles(low, 64, u, u + 64);
    for (int e = 0; e < 128; ++e) u[e] = static_cast<uint8_t>(u[e] | (high[e % 32] >> (e / 32 * 2) & 3) << 4);
  }
  std::memcpy(out->sub, p + 192, 16);
  out->d = load16(p + 208);
}

void read_iq4_xs(const uint8_t* p, SourceBlock* out) {
  out->d = load16(p);
  const uint16_t high = load16(p + 2);
  for (int b = 0; b < 8; ++b) {
    const int low = p[4 + b / 2] >> (b % 2 * 4) & 15;
    out->sub[b] = static_cast<uint8_t>((low | (high >> (2 * b) & 3) << 4) - 32);
    split_nibbles(p + 8 + 16 * b, 16, out->u + 32 * b, out->u + 32 * b + 16);
  }
}

}  // namespace

void read_source_block(DType dtype, const uint8_t* p, SourceBlock* out) {
  uint8_t* u = out->u;
  switch (dtype) {
    case DType::Q2_K: return read_q2_k(p, out);
    case DType::Q3_K: return read_q3_k(p, out);
    case DType::Q4_K: return read_q4_k(p, p + 16, nullptr, out);
    case DType::Q5_K: return read_q4_k(p, p + 48, p + 16, out);
    case DType::Q6_K: return read_q6_k(p, out);
    case DType::IQ4_XS: return read_iq4_xs(p, out);
    default: break;
  }
  out->d = load16(p);
  switch (dtype) {
    case DType::Q4_0:
    case DType::IQ4_NL: return split_nibbles(p + 2, 16, u, u + 16);
    case DType::Q4_1: out->m = load16(p + 2); return split_nibbles(p + 4, 16, u, u + 16);
    case DType::Q5_0: split_nibbles(p + 6, 16, u, u + 16); return add_fifth_bits(p + 2, u);
    case DType::Q5_1:
      out->m = load16(p + 2);
      split_nibbles(p + 8, 16, u, u + 16);
      return add_fifth_bits(p + 4, u);
    default: std::memcpy(u, p + 2, 32);  // Q8_0
  }
}

}  // namespace pare
