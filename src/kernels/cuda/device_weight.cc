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

// One quant of a unit into its zeroed planes. Bits lie so that a shift and a mask give both halves of a register at
// once (fragments.cuh).
void put_quant(const DeviceFormat& f, int row, int column, uint8_t u, uint8_t* unit) {
  const int group = column / kGroupColumns, step = column / 16 % 2;
  const Place p = place_of(row, column % 16);
  if (f.bytes) {
    // Two registers share a word: bytes are lower halves of both, then upper halves of both.
    unit[16 * (32 * group + p.lane) + 8 * step + p.reg / 2 * 4 + p.half * 2 + p.reg % 2] = u;
    return;
  }
  uint64_t rest = u;
  if (f.nibbles) {
    or_bits(unit + 16 * p.lane + 8 * group + 4 * step, 4, (rest & 15) << (16 * p.half + 4 * p.reg));
    rest >>= 4;
  }
  if (f.pairs) {
    or_bits(unit + pairs_offset(f) + 8 * p.lane + 4 * group, 4, (rest & 3) << (16 * p.half + 8 * step + 2 * p.reg));
    rest >>= 2;
  }
  if (f.bit) {
    or_bits(unit + bit_offset(f) + 4 * p.lane + 2 * group, 2, (rest & 1) << (8 * p.half + 4 * step + p.reg));
  }
}

// The scales of group `from` of a source block as group `group` of a record.
void put_group_scales(const DeviceFormat& f, const SourceBlock& s, int from, int group, int row, uint8_t* header) {
  const int pair = row % 8, upper = row / 8, bytes = unit_scale_bytes(f.scales), within = group % 2;
  const auto put_half = [](uint8_t* at, uint16_t half) { std::memcpy(at, &half, 2); };
  uint8_t* at = header + (group / 2 * 8 + pair) * bytes;
  switch (f.scales) {
    case DeviceScales::kNone: break;
    case DeviceScales::kHalf: put_half(at + 4 * within + 2 * upper, s.d); break;
    case DeviceScales::kHalfMin:
      put_half(at + 4 * within + 2 * upper, s.d);
      put_half(at + 8 + 4 * within + 2 * upper, s.m);
      break;
    case DeviceScales::kSub: at[2 * within + upper] = s.sub[from]; break;
    case DeviceScales::kSubMin:
      at[4 * within + upper] = s.sub[from];
      at[4 * within + 2 + upper] = s.sub_min[from];
      break;
    case DeviceScales::kSubHalves:
    case DeviceScales::kSubMinHalves:
      at[4 * within + upper] = s.sub[2 * from];
      at[4 * within + 2 + upper] = s.sub[2 * from + 1];
      break;
  }
}

// Rows beyond N and columns beyond K keep zero bits: their zero scales make zeros of whatever their quants mean.
void pack_block_tile(DType dtype, const DeviceFormat& f, const uint8_t* rows, int64_t n_rows, int64_t k,
                     uint8_t* tile) {
  const DTypeInfo info = dtype_info(dtype);
  const int64_t source_blocks = k / info.block_items;
  const int groups_each = info.block_items / kGroupColumns, record_groups = record_columns(f) / kGroupColumns;
  SourceBlock s;
  for (int64_t b = 0; b < source_blocks; ++b) {
    uint8_t* record = tile + b * groups_each / record_groups * record_bytes(f);
    const int first_group = static_cast<int>(b * groups_each % record_groups);
    uint8_t* header = record + header_offset(f);
    for (int64_t r = 0; r < n_rows; ++r) {
      const int row = static_cast<int>(r);
      read_source_block(dtype, rows + (r * source_blocks + b) * info.block_bytes, &s);
      if (has_base(f.scales)) {
        uint8_t* base = header + base_offset(f) + row % 8 * base_bytes(f.scales) + row / 8 * 2;
        std::memcpy(base, &s.d, 2);
        if (has_minimum(f.scales)) std::memcpy(base + 4, &s.m, 2);
      }
      for (int g = 0; g < groups_each; ++g) put_group_scales(f, s, g, first_group + g, row, header);
      for (int i = 0; i < info.block_items; ++i) {
        const int column = first_group * kGroupColumns + i;
        put_quant(f, row, column % unit_columns(f), s.u[i], record + column / unit_columns(f) * unit_quant_bytes(f));
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
