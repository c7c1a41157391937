// Byte layout of a weight in device memory (docs/formats/packed_cuda.md): shared by the host's packer and every kernel
// that reads it. Constants only.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace pare::cuda {

inline constexpr int kTileRows = 16;      // output rows of a tile: M of mma.m16n8k16
inline constexpr int kGroupColumns = 32;  // columns of a group: two K steps of mma.m16n8k16

// What a record holds beside its quants: the scales of its units, then the base. Each is an array of 8 "pairs" of rows
// (r, r + 8), as one lane of an mma holds them. For each group of a unit, unless it says otherwise:
enum class DeviceScales : uint8_t {
  kNone,          // the values themselves
  kHalf,          // fp16 d of both rows                                      value = d * q
  kHalfMin,       // both groups' fp16 d of both rows, then both groups' m    value = d * q + m
  kSub,           // i8 s of both rows; base: fp16 d of both rows             value = d * s * q
  kSubMin,        // u8 s of both rows, u8 m of both rows; base: fp16 d of both rows, fp16 dmin of both rows
                  //                                                          value = d * s * q - dmin * m
  kSubHalves,     // as kSub, s of both rows for columns 0-15, then for columns 16-31
  kSubMinHalves,  // as kSubHalves, each byte s + 16 * m; base as kSubMin
};

struct DeviceFormat {
  // Which planes a quant is spread over: bits 0-3, the next two, the next one, or a signed byte. `plain` is the width
  // of a floating-point item.
  bool nibbles, pairs, bit, bytes;
  uint8_t plain;
  bool table;      // the nibble indexes kIq4Table
  uint8_t offset;  // of the unsigned quants: q = u - offset
  DeviceScales scales;
  uint8_t units;  // in a record
};

inline constexpr DeviceFormat kDeviceF32 = {false, false, false, false, 4, false, 0, DeviceScales::kNone, 1};
inline constexpr DeviceFormat kDeviceHalf = {false, false, false, false, 2, false, 0, DeviceScales::kNone, 1};
inline constexpr DeviceFormat kDeviceQ4_0 = {true, false, false, false, 0, false, 8, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceQ4_1 = {true, false, false, false, 0, false, 0, DeviceScales::kHalfMin, 1};
inline constexpr DeviceFormat kDeviceQ5_0 = {true, false, true, false, 0, false, 16, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceQ5_1 = {true, false, true, false, 0, false, 0, DeviceScales::kHalfMin, 1};
inline constexpr DeviceFormat kDeviceQ8_0 = {false, false, false, true, 0, false, 0, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceQ2_K = {false, true, false, false, 0, false, 0, DeviceScales::kSubMinHalves, 4};
inline constexpr DeviceFormat kDeviceQ3_K = {false, true, true, false, 0, false, 4, DeviceScales::kSubHalves, 4};
inline constexpr DeviceFormat kDeviceQ4_K = {true, false, false, false, 0, false, 0, DeviceScales::kSubMin, 4};
inline constexpr DeviceFormat kDeviceQ5_K = {true, false, true, false, 0, false, 0, DeviceScales::kSubMin, 4};
inline constexpr DeviceFormat kDeviceQ6_K = {true, true, false, false, 0, false, 32, DeviceScales::kSubHalves, 4};
inline constexpr DeviceFormat kDeviceIQ4_NL = {true, false, false, false, 0, true, 0, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceIQ4_XS = {true, false, false, false, 0, true, 0, DeviceScales::kSub, 4};

// Null for types that no kernel multiplies.
constexpr const DeviceFormat* device_format(DType dtype) {
  switch (dtype) {
    case DType::F32: return &kDeviceF32;
    case DType::F16:
    case DType::BF16: return &kDeviceHalf;
    case DType::Q4_0: return &kDeviceQ4_0;
    case DType::Q4_1: return &kDeviceQ4_1;
    case DType::Q5_0: return &kDeviceQ5_0;
    case DType::Q5_1: return &kDeviceQ5_1;
    case DType::Q8_0: return &kDeviceQ8_0;
    case DType::Q2_K: return &kDeviceQ2_K;
    case DType::Q3_K: return &kDeviceQ3_K;
    case DType::Q4_K: return &kDeviceQ4_K;
    case DType::Q5_K: return &kDeviceQ5_K;
    case DType::Q6_K: return &kDeviceQ6_K;
    case DType::IQ4_NL: return &kDeviceIQ4_NL;
    case DType::IQ4_XS: return &kDeviceIQ4_XS;
    default: return nullptr;
  }
}

constexpr bool has_minimum(DeviceScales s) {
  return s == DeviceScales::kHalfMin || s == DeviceScales::kSubMin || s == DeviceScales::kSubMinHalves;
}
constexpr bool has_halves(DeviceScales s) { return s == DeviceScales::kSubHalves || s == DeviceScales::kSubMinHalves; }
constexpr bool has_base(DeviceScales s) { return s >= DeviceScales::kSub; }

// A unit is what a warp takes at once: two groups, one of plain values. Its planes of quants, in this order, hold for
// each lane: nibbles 16 bytes ([group][K step] words), pairs 8 ([group] words), bit 4 ([group] half words); bytes are
// [group][lane] of 16 bytes; plain values [K step][lane] of 8 items.
constexpr int unit_groups(const DeviceFormat& f) { return f.plain != 0 ? 1 : 2; }
constexpr int unit_columns(const DeviceFormat& f) { return unit_groups(f) * kGroupColumns; }
constexpr int pairs_offset(const DeviceFormat& f) { return f.nibbles ? 512 : 0; }
constexpr int bit_offset(const DeviceFormat& f) { return pairs_offset(f) + (f.pairs ? 256 : 0); }
constexpr int unit_quant_bytes(const DeviceFormat& f) {
  return bit_offset(f) + (f.bit ? 128 : 0) + (f.bytes ? 1024 : 0) + 512 * f.plain;
}
// Of one pair of rows.
constexpr int unit_scale_bytes(DeviceScales s) {
  switch (s) {
    case DeviceScales::kNone: return 0;
    case DeviceScales::kHalfMin: return 16;
    case DeviceScales::kSub: return 4;
    default: return 8;
  }
}
constexpr int base_bytes(DeviceScales s) { return !has_base(s) ? 0 : has_minimum(s) ? 8 : 4; }

// Columns that one minimum stands for, whose inputs are summed for it.
constexpr int sum_columns(const DeviceFormat& f) { return has_halves(f.scales) ? 16 : 32; }

// A record is the quants of its units, then its header: the scales of its units, then the base.
constexpr int header_offset(const DeviceFormat& f) { return f.units * unit_quant_bytes(f); }
constexpr int base_offset(const DeviceFormat& f) { return f.units * 8 * unit_scale_bytes(f.scales); }  // in the header
constexpr int header_bytes(const DeviceFormat& f) { return base_offset(f) + 8 * base_bytes(f.scales); }
constexpr int record_bytes(const DeviceFormat& f) { return header_offset(f) + header_bytes(f); }
constexpr int record_columns(const DeviceFormat& f) { return f.units * unit_columns(f); }

constexpr int64_t records_of(const DeviceFormat& f, int64_t k) {
  return (k + record_columns(f) - 1) / record_columns(f);
}
constexpr int64_t tile_bytes(const DeviceFormat& f, int64_t k) { return records_of(f, k) * record_bytes(f); }
constexpr int64_t tiles_of(int64_t n) { return (n + kTileRows - 1) / kTileRows; }

}  // namespace pare::cuda
