// Type numbers of the GGUF format, shared by its reader and writer.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace pare {

enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

struct GgufTensorType {
  uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;  // nothing: known, and not read by pare
};

// The row of a number, or null for a number that no known version assigns.
const GgufTensorType* find_gguf_tensor_type(uint32_t number);
// The row of a format; null for U8, which GGUF does not have.
const GgufTensorType* find_gguf_tensor_type(DType dtype);

}  // namespace pare
