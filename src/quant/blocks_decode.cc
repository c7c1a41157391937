#include "quant/blocks_decode.h"

#include <cstdint>

#include "quant/block_layouts.h"

namespace pare {
namespace {

// Values of IQ4_NL's 4-bit codes.
constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// The 32-element formats keep element i in the low and element i + 16 in the high nibble of byte i.

void decode_q4_0(const std::byte* b, float* out) {
  const float d = load_half(b);
  for (int i = 0; i < 16; ++i) {
    const uint8_t q = byte_at(b, 2 + i);
    out[i] = d * static_cast<float>((q & 15) - 8);
    out[i + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

void decode_q4_1(const std::byte* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  for (int i = 0; i < 16; ++i) {
    const uint8_t q = byte_at(b, 4 + i);
    out[i] = d * static_cast<float>(q & 15) + m;
    out[i + 16] = d * static_cast<float>(q >> 4) + m;
  }
}

void decode_q5_0(const std::byte* b, float* out) {
  const float d = load_half(b);
  const uint32_t high = load_u32(b + 2);
  for (int i = 0; i < 16; ++i) {
    const uint8_t q = byte_at(b, 6 + i);
    out[i] = d * static_cast<float>(static_cast<int>((q & 15) | (high >> i & 1) << 4) - 16);
    out[i + 16] = d * static_cast<float>(static_cast<int>((q >> 4) | (high >> (i + 16) & 1) << 4) - 16);
  }
}

void decode_q5_1(const std::byte* b, float* out) {
  const float d = load_half(b), m = load_half(b + 2);
  const uint32_t high = load_u32(b + 4);
  for (int i = 0; i < 16; ++i) {
    const uint8_t q = byte_at(b, 8 + i);
    out[i] = d * static_cast<float>((q & 15) | (high >> i & 1) << 4) + m;
    out[i + 16] = d * static_cast<float>((q >> 4) | (high >> (i + 16) & 1) << 4) + m;
  }
}

void decode_q8_0(const std::byte* b, float* out) {
  const float d = load_half(b);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(byte_at(b, 2 + i))) * d;
}

// The K formats hold 128 (2 and 3 bits) or 64 (4 and 5 bits) consecutive elements in 32 bytes: byte l has
// elements l, l + 32, ... from its low bits up.

void decode_q2_k(const std::byte* b, float* out) {
  const std::byte* quants = b + 16;
  const float d = load_half(b + 80), dmin = load_half(b + 82);
  for (int group = 0; group < 16; ++group) {
    const uint8_t scale = byte_at(b, group);
    const float dl = d * static_cast<float>(scale & 15), ml = dmin * static_cast<float>(scale >> 4);
    const std::byte* q = quants + group / 8 * 32 + group % 2 * 16;
    const int shift = group / 2 % 4 * 2;
    for (int i = 0; i < 16; ++i) out[group * 16 + i] = dl * static_cast<float>(byte_at(q, i) >> shift & 3) - ml;
  }
}

void decode_q3_k(const std::byte* b, float* out) {
  const std::byte *quants = b + 32, *scales = b + 96;
  const float d = load_half(b + 108);
  for (int group = 0; group < 16; ++group) {
    const int low = byte_at(scales, group % 8) >> (group / 8 * 4) & 15;
    const int high = byte_at(scales, 8 + group % 4) >> (group / 4 * 2) & 3;
    const float dl = d * static_cast<float>((low | high << 4) - 32);
    const std::byte* q = quants + group / 8 * 32 + group % 2 * 16;
    const std::byte* mask = b + group % 2 * 16;
    const int shift = group / 2 % 4 * 2, bit = group / 2;
    for (int i = 0; i < 16; ++i) {
      // A clear mask bit subtracts 4.
      const int value = (byte_at(q, i) >> shift & 3) - ((byte_at(mask, i) >> bit & 1) ? 0 : 4);
      out[group * 16 + i] = dl * static_cast<float>(value);
    }
  }
}

void decode_q4_k(const std::byte* b, float* out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  const ScalesAndMins s = unpack_scales(b + 4);
  for (int group = 0; group < 8; ++group) {
#ifdef PARE_FAULT_QUANT_NEIGHBOUR_SCALE
    const float dl = d * static_cast<float>(s.scale[group ^ 1]), ml = dmin * static_cast<float>(s.min[group]);
#else
    const float dl = d * static_cast<float>(s.scale[group]), ml = dmin * static_cast<float>(s.min[group]);
#endif
    const std::byte* q = b + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) out[group * 32 + i] = dl * static_cast<float>(byte_at(q, i) >> shift & 15) - ml;
  }
}

void decode_q5_k(const std::byte* b, float* out) {
  const float d = load_half(b), dmin = load_half(b + 2);
  const ScalesAndMins s = unpack_scales(b + 4);
  const std::byte* high = b + 16;
  for (int group = 0; group < 8; ++group) {
    const float dl = d * static_cast<float>(s.scale[group]), ml = dmin * static_cast<float>(s.min[group]);
    const std::byte* q = b + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = (byte_at(q, i) >> shift & 15) | (byte_at(high, i) >> group & 1) << 4;
      out[group * 32 + i] = dl * static_cast<float>(value) - ml;
    }
  }
}

void decode_q6_k(const std::byte* b, float* out) {
  const std::byte *high = b + 128, *scales = b + 192;
  const float d = load_half(b + 208);
  for (int group = 0; group < 16; ++group) {
    const float dl = d * static_cast<float>(static_cast<int8_t>(byte_at(scales, group)));
    const int half = group / 8, within = group % 8;  // 128 elements of 8 groups
    const std::byte* q = b + half * 64 + within % 4 * 16;
    const std::byte* h = high + half * 32 + within % 2 * 16;
    const int shift = within / 4 * 4, high_shift = within / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      const int value = (byte_at(q, i) >> shift & 15) | (byte_at(h, i) >> high_shift & 3) << 4;
      out[group * 16 + i] = dl * static_cast<float>(value - 32);
    }
  }
}

void decode_iq4_nl(const std::byte* b, float* out) {
  const float d = load_half(b);
  for (int i = 0; i < 16; ++i) {
    const uint8_t q = byte_at(b, 2 + i);
    out[i] = d * static_cast<float>(kNonLinear[q & 15]);
    out[i + 16] = d * static_cast<float>(kNonLinear[q >> 4]);
  }
}

void decode_iq4_xs(const std::byte* b, float* out) {
  const float d = load_half(b);
  const uint16_t scales_high = load_u16(b + 2);
  for (int group = 0; group < 8; ++group) {
    const int low = byte_at(b, 4 + group / 2) >> (group % 2 * 4) & 15;
    const int high = scales_high >> (2 * group) & 3;
    const float dl = d * static_cast<float>((low | high << 4) - 32);
    const std::byte* q = b + 8 + group * 16;
    for (int i = 0; i < 16; ++i) {
      const uint8_t code = byte_at(q, i);
      out[group * 32 + i] = dl * static_cast<float>(kNonLinear[code & 15]);
      out[group * 32 + i + 16] = dl * static_cast<float>(kNonLinear[code >> 4]);
    }
  }
}

}  // namespace

BlockDecoder find_block_decoder(DType dtype) {
  switch (dtype) {
    case DType::Q4_0: return decode_q4_0;
    case DType::Q4_1: return decode_q4_1;
    case DType::Q5_0: return decode_q5_0;
    case DType::Q5_1: return decode_q5_1;
    case DType::Q8_0: return decode_q8_0;
    case DType::Q2_K: return decode_q2_k;
    case DType::Q3_K: return decode_q3_k;
    case DType::Q4_K: return decode_q4_k;
    case DType::Q5_K: return decode_q5_k;
    case DType::Q6_K: return decode_q6_k;
    case DType::IQ4_NL: return decode_iq4_nl;
    case DType::IQ4_XS: return decode_iq4_xs;
    default: return nullptr;
  }
}

}  // namespace pare
