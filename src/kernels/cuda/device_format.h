// Byte layout of a weight in device memory (docs/formats/packed_cuda.md): shared by the host's packer and every kernel
// that reads it. Constants only.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace pare::cuda {

inline constexpr int kTileRows = 16;      // output rows of a tile: M of mma.m16n8k16
inline constexpr int kGroupColumns = 32;  // columns of a group: two K steps of mma.m16n8k16

// What a record holds beside its quants. "Pairs" of rows are (r, r + 8), as one lane of an mma holds them; each array
// is [8 pairs] of what follows, arrays named "per group" are [groups][8 pairs].
enum class DeviceScales : uint8_t {
  kNone,          // the values themselves
  kHalf,          // per group: fp16 d of both rows                             value = d * q
  kHalfMin,       // per group: fp16 d of both rows, fp16 m of both rows         value = d * q + m
  kSub,           // per group: i8 s of both rows; then fp16 d of both rows      value = d * s * q
  kSubMin,        // per group: u8 s of both rows, u8 m of both rows; then fp16 d of both rows, fp16 dmin of both rows
                  //                                                            value = d * s * q - dmin * m
  kSubHalves,     // as kSub, s of both rows for columns 0-15, then for columns 16-31
  kSubMinHalves,  // as kSubHalves, each byte s + 16 * m; then d and dmin as kSubMin
};

struct DeviceFormat {
  // Which planes a quant is spread over: bits 0-3, the next two, the next one, or a signed byte. `plain` is the width
  // of a floating-point item.
  bool nibbles, pairs, bit, bytes;
  uint8_t plain;
  bool table;      // the nibble indexes kIq4Table
  uint8_t offset;  // of the unsigned quants: q = u - offset
  DeviceScales scales;
  uint16_t groups;  // in a record
};

inline constexpr DeviceFormat kDeviceF32 = {false, false, false, false, 4, false, 0, DeviceScales::kNone, 1};
inline constexpr DeviceFormat kDeviceHalf = {false, false, false, false, 2, false, 0, DeviceScales::kNone, 1};
inline constexpr DeviceFormat kDeviceQ4_0 = {true, false, false, false, 0, false, 8, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceQ4_1 = {true, false, false, false, 0, false, 0, DeviceScales::kHalfMin, 1};
inline constexpr DeviceFormat kDeviceQ5_0 = {true, false, true, false, 0, false, 16, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceQ5_1 = {true, false, true, false, 0, false, 0, DeviceScales::kHalfMin, 1};
inline constexpr DeviceFormat kDeviceQ8_0 = {false, false, false, true, 0, false, 0, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceQ2_K = {false, true, false, false, 0, false, 0, DeviceScales::kSubMinHalves, 8};
inline constexpr DeviceFormat kDeviceQ3_K = {false, true, true, false, 0, false, 4, DeviceScales::kSubHalves, 8};
inline constexpr DeviceFormat kDeviceQ4_K = {true, false, false, false, 0, false, 0, DeviceScales::kSubMin, 8};
inline constexpr DeviceFormat kDeviceQ5_K = {true, false, true, false, 0, false, 0, DeviceScales::kSubMin, 8};
// Half a source block: a smaller record, for one more d in 128 columns.
inline constexpr DeviceFormat kDeviceQ6_K = {true, true, false, false, 0, false, 32, DeviceScales::kSubHalves, 4};
inline constexpr DeviceFormat kDeviceIQ4_NL = {true, false, false, false, 0, true, 0, DeviceScales::kHalf, 1};
inline constexpr DeviceFormat kDeviceIQ4_XS = {true, false, false, false, 0, true, 0, DeviceScales::kSub, 8};

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

// A record is planes of quants, [groups][32 lanes] of 8 bytes (nibbles), 4 (pairs), 2 (bit), 16 (bytes), or
// [groups][2 K steps][32 lanes] of 8 * plain bytes; then the scales.
constexpr int nibble_bytes(const DeviceFormat& f) { return f.nibbles ? f.groups * 256 : 0; }
constexpr int pairs_offset(const DeviceFormat& f) { return nibble_bytes(f); }
constexpr int bit_offset(const DeviceFormat& f) { return pairs_offset(f) + (f.pairs ? f.groups * 128 : 0); }
constexpr int scales_offset(const DeviceFormat& f) {
  return bit_offset(f) + (f.bit ? f.groups * 64 : 0) + f.groups * 512 * ((f.bytes ? 1 : 0) + f.plain);
}
// Bytes of one group's scales for its 8 pairs of rows, and of what follows the groups.
constexpr int group_scale_bytes(DeviceScales s) {
  switch (s) {
    case DeviceScales::kNone: return 0;
    case DeviceScales::kSub: return 8 * 2;
    case DeviceScales::kHalfMin: return 8 * 8;
    default: return 8 * 4;
  }
}
constexpr bool has_minimum(DeviceScales s) {
  return s == DeviceScales::kHalfMin || s == DeviceScales::kSubMin || s == DeviceScales::kSubMinHalves;
}
constexpr bool has_halves(DeviceScales s) { return s == DeviceScales::kSubHalves || s == DeviceScales::kSubMinHalves; }
constexpr bool has_sub_scales(DeviceScales s) { return s >= DeviceScales::kSub; }
constexpr int base_offset(const DeviceFormat& f) { return scales_offset(f) + f.groups * group_scale_bytes(f.scales); }
constexpr int record_bytes(const DeviceFormat& f) {
  return base_offset(f) + (has_sub_scales(f.scales) ? 8 * (has_minimum(f.scales) ? 8 : 4) : 0);
}
constexpr int record_columns(const DeviceFormat& f) { return f.groups * kGroupColumns; }

constexpr int64_t records_of(const DeviceFormat& f, int64_t k) {
  return (k + record_columns(f) - 1) / record_columns(f);
}
constexpr int64_t tile_bytes(const DeviceFormat& f, int64_t k) { return records_of(f, k) * record_bytes(f); }
constexpr int64_t tiles_of(int64_t n) { return (n + kTileRows - 1) / kTileRows; }

}  // namespace pare::cuda
