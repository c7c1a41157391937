#include "tensor/dtype.h"

#include "base/checked.h"

namespace pare {

std::optional<DType> dtype_from_name(std::string_view name) {
  const auto upper = [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; };
  for (int i = 0; i < kDTypeCount; ++i) {
    const std::string_view candidate = dtype_name(static_cast<DType>(i));
    if (candidate.size() != name.size()) continue;
    bool same = true;
    for (size_t c = 0; c < name.size() && same; ++c) same = upper(name[c]) == candidate[c];
    if (same) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::optional<uint64_t> dtype_bytes(DType t, uint64_t items) {
  const DTypeInfo info = dtype_info(t);
  if (items % info.block_items != 0) return std::nullopt;
  return checked_mul<uint64_t>(items / info.block_items, info.block_bytes);
}

}  // namespace pare
