// Element and block formats. Block formats are ggml's, byte for byte (docs/formats/blocks.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace pare {

enum class DType : uint8_t {
  F32,
  F16,
  BF16,
  F64,
  I8,
  I16,
  I32,
  I64,
  U8,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ4_NL,
  IQ4_XS,
};
inline constexpr int kDTypeCount = 21;

struct DTypeInfo {
  std::string_view name;  // "Q4_K"; how files, messages and --json spell it
  uint16_t block_items;   // elements in a block along the innermost dimension; 1 for plain types
  uint16_t block_bytes;
};

constexpr DTypeInfo dtype_info(DType t) {
  constexpr std::array<DTypeInfo, kDTypeCount> table = {{
      {"F32", 1, 4},        {"F16", 1, 2},      {"BF16", 1, 2},     {"F64", 1, 8},      {"I8", 1, 1},
      {"I16", 1, 2},        {"I32", 1, 4},      {"I64", 1, 8},      {"U8", 1, 1},       {"Q4_0", 32, 18},
      {"Q4_1", 32, 20},     {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},   {"Q2_K", 256, 84},
      {"Q3_K", 256, 110},   {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210}, {"IQ4_NL", 32, 18},
      {"IQ4_XS", 256, 136},
  }};
  return table[static_cast<size_t>(t)];
}
constexpr std::string_view dtype_name(DType t) { return dtype_info(t).name; }
constexpr bool is_quantized(DType t) { return dtype_info(t).block_items > 1; }
std::optional<DType> dtype_from_name(std::string_view name);  // case-insensitive

// Bytes of `items` elements; nothing if items is no multiple of the block or the product overflows.
std::optional<uint64_t> dtype_bytes(DType t, uint64_t items);

}  // namespace pare
