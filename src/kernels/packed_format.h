// Byte layout of packed block-format weights, shared by the packer, the oracle and every CPU level
// (docs/formats/packed.md). Constants and one struct only: files compiled for a CPU level may include this
// header.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace pare {

// How a block of 32 products becomes one fp32 addition. I, S: integer sums of u*q and of q over the block;
// Ia, Ib, Sa, Sb: over its halves; x: activation scale; d, m: what the header holds. Every product in
// parentheses is rounded once, fma is fused, the integer parts are exact.
enum class BlockMath : uint8_t {
  kSym32,  // acc = fma(I - offset*S, (d*x), acc)
  kMin32,  // acc = fma(I, (d*x), acc); acc = fma(m, (x*S), acc)
  kSym16,  // acc = fma(a*(Ia - offset*Sa) + b*(Ib - offset*Sb), (d*x), acc)
  kMin16,  // acc = fma(a*Ia + b*Ib, (d*x), acc); acc = fma(-(ma*Sa + mb*Sb), (m*x), acc)
};

// A tile is a run of super-blocks: a header (scales of 16 rows), then for each block of 32 columns its
// quants: `nibbles` (256 bytes: low 4 bits), `pairs` (128: the next two bits), `bit` (64: the next bit), or
// `bytes` (512).
struct PackedFormat {
  BlockMath math;
  bool nibbles, pairs, bit, bytes;
  bool table;           // the nibble indexes kIq4Table
  uint8_t offset_log2;  // of the symmetric formats: value = u - 2^offset_log2
  uint8_t blocks;       // blocks of 32 columns in a super-block; 2 pairs fp16 scales into one cache line
  uint16_t header_bytes;
  uint16_t quant_bytes;  // of one block
};

inline constexpr int8_t kIq4Table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Headers. blocks == 1 or 2: fp16 d[16] of each block; blocks == 1 has fp16 m[16] after it. blocks == 8: fp16
// d[16], fp16 dmin[16] (or unused), then bytes [sub][16]: scales of the 8 blocks or 16 half-blocks, then
// minima likewise (kMin16: both in one byte, scale in the low nibble).
inline constexpr uint16_t kHeaderD = 0, kHeaderM = 32, kHeaderSub = 64, kHeaderSubMin = 64 + 128;

inline constexpr PackedFormat kPackedQ4_0 = {BlockMath::kSym32, true, false, false, false, false, 3, 2, 64, 256};
inline constexpr PackedFormat kPackedQ4_1 = {BlockMath::kMin32, true, false, false, false, false, 0, 1, 64, 256};
inline constexpr PackedFormat kPackedQ5_0 = {BlockMath::kSym32, true, false, true, false, false, 4, 2, 64, 320};
inline constexpr PackedFormat kPackedQ5_1 = {BlockMath::kMin32, true, false, true, false, false, 0, 1, 64, 320};
inline constexpr PackedFormat kPackedQ8_0 = {BlockMath::kSym32, false, false, false, true, false, 7, 2, 64, 512};
inline constexpr PackedFormat kPackedQ2_K = {BlockMath::kMin16, false, true, false, false, false, 0, 8, 320, 128};
inline constexpr PackedFormat kPackedQ3_K = {BlockMath::kSym16, false, true, true, false, false, 2, 8, 320, 192};
inline constexpr PackedFormat kPackedQ4_K = {BlockMath::kMin32, true, false, false, false, false, 0, 8, 320, 256};
inline constexpr PackedFormat kPackedQ5_K = {BlockMath::kMin32, true, false, true, false, false, 0, 8, 320, 320};
inline constexpr PackedFormat kPackedQ6_K = {BlockMath::kSym16, true, true, false, false, false, 5, 8, 320, 384};
inline constexpr PackedFormat kPackedIQ4_NL = {BlockMath::kSym32, true, false, false, false, true, 7, 2, 64, 256};
inline constexpr PackedFormat kPackedIQ4_XS = {BlockMath::kSym32, true, false, false, false, true, 7, 8, 192, 256};

// Null for formats that multiply in fp32.
static constexpr const PackedFormat* packed_format(DType dtype) {
  switch (dtype) {
    case DType::Q4_0: return &kPackedQ4_0;
    case DType::Q4_1: return &kPackedQ4_1;
    case DType::Q5_0: return &kPackedQ5_0;
    case DType::Q5_1: return &kPackedQ5_1;
    case DType::Q8_0: return &kPackedQ8_0;
    case DType::Q2_K: return &kPackedQ2_K;
    case DType::Q3_K: return &kPackedQ3_K;
    case DType::Q4_K: return &kPackedQ4_K;
    case DType::Q5_K: return &kPackedQ5_K;
    case DType::Q6_K: return &kPackedQ6_K;
    case DType::IQ4_NL: return &kPackedIQ4_NL;
    case DType::IQ4_XS: return &kPackedIQ4_XS;
    default: return nullptr;
  }
}

// Bytes of one tile of 16 rows and `blocks` blocks; the last super-block may be cut short (never in
// 256-formats).
static constexpr int64_t packed_tile_bytes(const PackedFormat& f, int64_t blocks) {
  return (blocks + f.blocks - 1) / f.blocks * f.header_bytes + blocks * f.quant_bytes;
}

// Where block b's super-block header and its quants begin in a tile.
static constexpr int64_t packed_header_offset(const PackedFormat& f, int64_t b) {
  return b / f.blocks * (f.header_bytes + f.blocks * f.quant_bytes);
}
static constexpr int64_t packed_quant_offset(const PackedFormat& f, int64_t b) {
  return packed_header_offset(f, b) + f.header_bytes + b % f.blocks * f.quant_bytes;
}

}  // namespace pare
