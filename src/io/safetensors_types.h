// Element type names of safetensors, shared by its reader and writer.
#pragma once

#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace pare {

// The type's spelling in a safetensors header; empty for block formats.
constexpr std::string_view safetensors_type_name(DType dtype) {
  return is_quantized(dtype) ? std::string_view() : dtype_name(dtype);
}

// BOOL is one byte, 0 or 1, and reads as U8.
inline std::optional<DType> safetensors_type(std::string_view name) {
  constexpr DType kTypes[] = {DType::F32, DType::F16, DType::BF16, DType::F64, DType::I8,
                              DType::I16, DType::I32, DType::I64,  DType::U8};
  if (name == "BOOL") return DType::U8;
  for (const DType dtype : kTypes) {
    if (safetensors_type_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

}  // namespace pare
