// Packs ggml block rows into tiles of 16 rows (packed_format.h) and unpacks them again.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/checked.h"
#include "base/half.h"
#include "kernels/linear.h"
#include "kernels/packed_format.h"
#include "kernels/packed_row.h"
#include "kernels/source_block.h"

namespace pare {
namespace {

void store32(uint8_t* p, uint32_t v) { std::memcpy(p, &v, sizeof v); }

// Writes the 32 quants at u of row `r` into a block's zeroed quant bytes.
void write_quants(const PackedFormat& f, const uint8_t* u, int64_t r, uint8_t* q) {
  uint8_t* planes = q + (f.nibbles ? 256 : 0);
  uint8_t* bit_plane = planes + (f.pairs ? 128 : 0);
  const int pair_shift = f.nibbles ? 4 : 0, bit_shift = f.nibbles ? 4 : 2;
  for (int g = 0; g < 8; ++g) {
    const uint32_t word = load32(u + 4 * g);  // four columns of this row
    if (f.bytes) store32(q + 64 * g + 4 * r, word);
    if (f.nibbles) {
      uint8_t* at = q + 64 * (g / 2) + 4 * r;
      store32(at, load32(at) | (word & 0x0F0F0F0F) << (g % 2 * 4));
    }
    if (f.pairs) {
      uint8_t* at = planes + 64 * (g / 4) + 4 * r;
      store32(at, load32(at) | (word >> pair_shift & 0x03030303) << (g % 4 * 2));
    }
    if (f.bit) store32(bit_plane + 4 * r, load32(bit_plane + 4 * r) | (word >> bit_shift & 0x01010101) << g);
  }
}

// The inverse of write_quants.
void read_quants(const PackedFormat& f, const uint8_t* q, int64_t r, uint8_t* u) {
  const uint8_t* planes = q + (f.nibbles ? 256 : 0);
  const uint8_t* bit_plane = planes + (f.pairs ? 128 : 0);
  const int pair_shift = f.nibbles ? 4 : 0, bit_shift = f.nibbles ? 4 : 2;
  for (int g = 0; g < 8; ++g) {
    uint32_t word = 0;
    if (f.bytes) word = load32(q + 64 * g + 4 * r);
    if (f.nibbles) word |= load32(q + 64 * (g / 2) + 4 * r) >> (g % 2 * 4) & 0x0F0F0F0F;
    if (f.pairs) word |= (load32(planes + 64 * (g / 4) + 4 * r) >> (g % 4 * 2) & 0x03030303) << pair_shift;
    if (f.bit) word |= (load32(bit_plane + 4 * r) >> g & 0x01010101) << bit_shift;
    store32(u + 4 * g, word);
  }
}

void write_header(const PackedFormat& f, const SourceBlock& s, int64_t block, int64_t r, uint8_t* header) {
  if (f.blocks < 8) {
    std::memcpy(header + block % f.blocks * 32 + 2 * r, &s.d, 2);
    if (f.blocks == 1) std::memcpy(header + kHeaderM + 2 * r, &s.m, 2);
    return;
  }
  std::memcpy(header + kHeaderD + 2 * r, &s.d, 2);
  std::memcpy(header + kHeaderM + 2 * r, &s.m, 2);
  for (int j = 0; j < (f.header_bytes - kHeaderSub) / 16 && j < 16; ++j) {
    if (f.math == BlockMath::kMin32) {
      header[kHeaderSub + 16 * j + r] = j < 8 ? s.sub[j] : s.sub_min[j - 8];
    } else {
      header[kHeaderSub + 16 * j + r] = s.sub[j];
    }
  }
}

void pack_block_tile(DType dtype, const PackedFormat& f, const uint8_t* rows, int64_t n_rows, int64_t k,
                     uint8_t* tile) {
  const DTypeInfo info = dtype_info(dtype);
  const int64_t source_blocks = k / info.block_items, blocks_each = info.block_items / kActBlock;
  std::memset(tile, 0, static_cast<size_t>(packed_tile_bytes(f, k / kActBlock)));
  SourceBlock s;
  for (int64_t sb = 0; sb < source_blocks; ++sb) {
    for (int64_t r = 0; r < n_rows; ++r) {
      read_source_block(dtype, rows + (r * source_blocks + sb) * info.block_bytes, &s);
      const int64_t first = sb * blocks_each;
      write_header(f, s, first, r, tile + packed_header_offset(f, first));
      for (int64_t b = 0; b < blocks_each; ++b) {
        write_quants(f, s.u + kActBlock * b, r, tile + packed_quant_offset(f, first + b));
      }
    }
  }
}

// [K][16] of the source's own type.
void pack_plain_tile(int64_t item_bytes, const uint8_t* rows, int64_t n_rows, int64_t k, uint8_t* tile) {
  std::memset(tile, 0, static_cast<size_t>(k * kRowTile * item_bytes));
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t i = 0; i < k; ++i) {
      std::memcpy(tile + (i * kRowTile + r) * item_bytes, rows + (r * k + i) * item_bytes,
                  static_cast<size_t>(item_bytes));
    }
  }
}

bool is_float(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16; }

int64_t tile_bytes(DType dtype, int64_t k) {
  const PackedFormat* f = packed_format(dtype);
  return f != nullptr ? packed_tile_bytes(*f, k / kActBlock) : k * kRowTile * dtype_info(dtype).block_bytes;
}

}  // namespace

size_t packed_weight_bytes(DType dtype, int64_t n, int64_t k) {
  if (packed_format(dtype) == nullptr && !is_float(dtype)) return 0;
  if (n <= 0 || k <= 0 || k % dtype_info(dtype).block_items != 0) return 0;
  // Every packed format stays below 8 bytes a weight, headers included, so this product bounds all that
  // follow.
  if (!checked_product<int64_t>({round_up(std::min(n, INT64_MAX - kRowTile), kRowTile), k, 8})) return 0;
  return static_cast<size_t>(ceil_div(n, kRowTile) * tile_bytes(dtype, k));
}

void pack_weight_tiles(DType dtype, const std::byte* rows, int64_t n, int64_t k, int64_t tile_begin, int64_t tile_end,
                       std::byte* packed) {
  const PackedFormat* f = packed_format(dtype);
  const DTypeInfo info = dtype_info(dtype);
  const int64_t row_bytes = k / info.block_items * info.block_bytes;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t row0 = tile * kRowTile, n_rows = std::min(kRowTile, n - row0);
    const auto* source = reinterpret_cast<const uint8_t*>(rows) + row0 * row_bytes;
    auto* out = reinterpret_cast<uint8_t*>(packed) + tile * tile_bytes(dtype, k);
    if (f != nullptr) {
      pack_block_tile(dtype, *f, source, n_rows, k, out);
    } else {
      pack_plain_tile(info.block_bytes, source, n_rows, k, out);
    }
  }
}

bool wants_quantized_input(DType dtype) { return packed_format(dtype) != nullptr; }

float read_packed_float(const PackedWeight& w, int64_t row, int64_t i) {
  const auto* tile = reinterpret_cast<const uint8_t*>(w.data) + row / kRowTile * tile_bytes(w.dtype, w.k);
  const int64_t at = i * kRowTile + row % kRowTile;
  if (w.dtype == DType::F16) return half_to_float(load16(tile + 2 * at));
  if (w.dtype == DType::BF16) return bfloat_to_float(load16(tile + 2 * at));
  return std::bit_cast<float>(load32(tile + 4 * at));
}

PackedBlock read_packed_block(const PackedWeight& w, int64_t row, int64_t block) {
  const PackedFormat& f = *packed_format(w.dtype);
  const auto* tile = reinterpret_cast<const uint8_t*>(w.data) + row / kRowTile * tile_bytes(w.dtype, w.k);
  const int64_t r = row % kRowTile, j = block % f.blocks;
  const uint8_t* header = tile + packed_header_offset(f, block);
  PackedBlock out;
  uint8_t u[kActBlock];
  read_quants(f, tile + packed_quant_offset(f, block), r, u);
  const bool symmetric = f.math == BlockMath::kSym32 || f.math == BlockMath::kSym16;
  for (int64_t i = 0; i < kActBlock; ++i) {
    out.value[i] = f.bytes ? static_cast<int8_t>(u[i]) : f.table ? kIq4Table[u[i]] : u[i];
    if (symmetric && !f.bytes && !f.table) out.value[i] -= 1 << f.offset_log2;
  }
  if (f.blocks < 8) {
    out.d = half_to_float(load16(header + 32 * j + 2 * r));
    if (f.blocks == 1) out.m = half_to_float(load16(header + kHeaderM + 2 * r));
    return out;
  }
  out.d = half_to_float(load16(header + kHeaderD + 2 * r));
  out.m = half_to_float(load16(header + kHeaderM + 2 * r));
  const uint8_t* sub = header + kHeaderSub + r;
  switch (f.math) {
    case BlockMath::kSym32: out.d *= static_cast<float>(static_cast<int8_t>(sub[16 * j])); break;
    case BlockMath::kMin32:
      out.d *= static_cast<float>(sub[16 * j]);
      out.m *= -static_cast<float>(sub[16 * (8 + j)]);
      break;
    case BlockMath::kSym16:
    case BlockMath::kMin16:
      for (int64_t half = 0; half < 2; ++half) {
        const uint8_t s = sub[16 * (2 * j + half)];
        out.scale[half] = f.math == BlockMath::kSym16 ? static_cast<int8_t>(s) : s & 15;
        out.min[half] = s >> 4;
      }
  }
  return out;
}

void unpack_weight_row(const PackedWeight& w, int64_t row, float* out) {
  const PackedFormat* f = packed_format(w.dtype);
  if (f == nullptr) {
    for (int64_t i = 0; i < w.k; ++i) out[i] = read_packed_float(w, row, i);
    return;
  }
  for (int64_t b = 0; b < w.k / kActBlock; ++b, out += kActBlock) {
    const PackedBlock p = read_packed_block(w, row, b);
    for (int64_t i = 0; i < kActBlock; ++i) {
      const int64_t half = i / 16;
      const auto value = static_cast<float>(p.value[i]);
      switch (f->math) {
        case BlockMath::kSym32: out[i] = p.d * value; break;
        case BlockMath::kMin32: out[i] = p.d * value + p.m; break;
        case BlockMath::kSym16: out[i] = p.d * static_cast<float>(p.scale[half]) * value; break;
        case BlockMath::kMin16:
          out[i] = p.d * static_cast<float>(p.scale[half]) * value - p.m * static_cast<float>(p.min[half]);
          break;
      }
    }
  }
}

size_t act_rows_bytes(int64_t t, int64_t k) {
  return static_cast<size_t>(t * ceil_div(k, kActBlock)) * sizeof(ActBlock);
}

void place_act_rows(std::byte* block, int64_t t, int64_t k, ActRows* rows) {
  rows->t = t;
  rows->k = k;
  rows->blocks = reinterpret_cast<ActBlock*>(block);
}

}  // namespace pare
