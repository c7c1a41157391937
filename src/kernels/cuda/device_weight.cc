#include "kernels/cuda/device_weight.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "kernels/cuda/device_format.h"
#include "kernels/source_block.h"

namespace pare::cuda {
namespace {

// Where element (row, column) of a 16 x 16 step lies in the A operand of mma.m16n8k16: register `reg` of lane `lane`,
// its lower or upper half.
struct Place {
  int lane, reg, half;
};
Place place_of(int row, int column) { return {row % 8 * 4 + column % 8 / 2, row / 8 + column / 8 * 2, column % 2}; }

void or_bits(uint8_t* at, size_t bytes, uint64_t bits) {
  uint64_t word = 0;
  std::memcpy(&word, at, bytes);
  word |= bits;
  std::memcpy(at, &word, bytes);
}

// One quant of group `group` into the zeroed planes of a record. Bits lie so that a shift and a mask give both halves
// of a register at once (fragments.cuh).
void put_quant(const DeviceFormat& f, int group, int row, int column, uint8_t u, uint8_t* record) {
  const int step = column / 16;
  const Place p = place_of(row, column % 16);
  const int at = 32 * group + p.lane;
  if (f.bytes) {
    // Two registers share a word: bytes are lower halves of both, then upper halves of both.
    record[16 * at + 8 * step + p.reg / 2 * 4 + p.half * 2 + p.reg % 2] = u;
    return;
  }
  uint64_t rest = u;
  if (f.nibbles) {
    or_bits(record + 8 * at + 4 * step, 4, (rest & 15) << (16 * p.half + 4 * p.reg));
    rest >>= 4;
  }
  if (f.pairs) {
    or_bits(record + pairs_offset(f) + 4 * at, 4, (rest & 3) << (16 * p.half + 8 * step + 2 * p.reg));
    rest >>= 2;
  }
  if (f.bit) or_bits(record + bit_offset(f) + 2 * at, 2, (rest & 1) << (8 * p.half + 4 * step + p.reg));
}

void put_scales(const DeviceFormat& f, const SourceBlock& s, int first_group, int row, uint8_t* record) {
  const int pair = row % 8, upper = row / 8;
  const auto put_half = [](uint8_t* at, uint16_t half) { std::memcpy(at, &half, 2); };
  uint8_t* base = record + base_offset(f) + pair * (has_minimum(f.scales) ? 8 : 4) + 2 * upper;
  if (has_sub_scales(f.scales)) {
    put_half(base, s.d);
    if (has_minimum(f.scales)) put_half(base + 4, s.m);
  }
  for (int g = 0; g < f.groups; ++g) {
    const int bytes = group_scale_bytes(f.scales), from = first_group + g;
    uint8_t* at = record + scales_offset(f) + g * bytes + pair * (bytes / 8);
    switch (f.scales) {
      case DeviceScales::kNone: break;
      case DeviceScales::kHalf: put_half(at + 2 * upper, s.d); break;
      case DeviceScales::kHalfMin:
        put_half(at + 2 * upper, s.d);
        put_half(at + 4 + 2 * upper, s.m);
        break;
      case DeviceScales::kSub: at[upper] = s.sub[from]; break;
      case DeviceScales::kSubMin:
        at[upper] = s.sub[from];
        at[2 + upper] = s.sub_min[from];
        break;
      case DeviceScales::kSubHalves:
      case DeviceScales::kSubMinHalves:
        at[upper] = s.sub[2 * from];
        at[2 + upper] = s.sub[2 * from + 1];
        break;
    }
  }
}

// Rows beyond N keep zero bits: their zero scales make zeros of whatever their quants mean.
void pack_block_tile(DType dtype, const DeviceFormat& f, const uint8_t* rows, int64_t n_rows, int64_t k,
                     uint8_t* tile) {
  const DTypeInfo info = dtype_info(dtype);
  const int64_t source_blocks = k / info.block_items;
  const int records_each = info.block_items / record_columns(f);
  SourceBlock s;
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t b = 0; b < source_blocks; ++b) {
      read_source_block(dtype, rows + (r * source_blocks + b) * info.block_bytes, &s);
      for (int part = 0; part < records_each; ++part) {
        uint8_t* record = tile + (b * records_each + part) * record_bytes(f);
        const int first_group = part * f.groups;
        put_scales(f, s, first_group, static_cast<int>(r), record);
        for (int i = 0; i < record_columns(f); ++i) {
          put_quant(f, i / kGroupColumns, static_cast<int>(r), i % kGroupColumns, s.u[first_group * kGroupColumns + i],
                    record);
        }
      }
    }
  }
}

void pack_plain_tile(const DeviceFormat& f, const uint8_t* rows, int64_t n_rows, int64_t k, uint8_t* tile) {
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      const Place p = place_of(static_cast<int>(r), static_cast<int>(c % 16));
      std::memcpy(tile + ((c / 16 * 32 + p.lane) * 8 + 2 * p.reg + p.half) * f.plain, rows + (r * k + c) * f.plain,
                  f.plain);
    }
  }
}

}  // namespace

size_t device_weight_bytes(DType dtype, int64_t n, int64_t k) {
  const DeviceFormat* f = device_format(dtype);
  if (f == nullptr || n <= 0 || k <= 0 || k % dtype_info(dtype).block_items != 0) return 0;
  // Every format stays below 8 bytes a weight, padding of K included, so this product bounds all that follows.
  const int64_t most_rows = INT64_MAX - kTileRows, most_columns = INT64_MAX - record_columns(*f);
  if (n > most_rows || k > most_columns) return 0;
  if (!checked_product<int64_t>({round_up<int64_t>(n, kTileRows), round_up<int64_t>(k, record_columns(*f)), 8})) {
    return 0;
  }
  return static_cast<size_t>(tiles_of(n) * tile_bytes(*f, k));
}

int64_t device_weight_tiles(int64_t n) { return tiles_of(n); }

void pack_device_weight(DType dtype, const std::byte* rows, int64_t n, int64_t k, int64_t tile_begin, int64_t tile_end,
                        std::byte* packed) {
  const DeviceFormat& f = *device_format(dtype);
  const DTypeInfo info = dtype_info(dtype);
  const int64_t row_bytes = k / info.block_items * info.block_bytes, bytes = tile_bytes(f, k);
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t row0 = tile * kTileRows, n_rows = std::min<int64_t>(kTileRows, n - row0);
    const auto* source = reinterpret_cast<const uint8_t*>(rows) + row0 * row_bytes;
    auto* out = reinterpret_cast<uint8_t*>(packed) + tile * bytes;
    std::memset(out, 0, static_cast<size_t>(bytes));
    if (f.plain != 0) {
      pack_plain_tile(f, source, n_rows, k, out);
    } else {
      pack_block_tile(dtype, f, source, n_rows, k, out);
    }
  }
}

}  // namespace pare::cuda
