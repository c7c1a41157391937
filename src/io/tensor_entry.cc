#include "io/tensor_entry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/checked.h"
#include "base/limits.h"

namespace pare {

Expected<uint64_t> tensor_bytes(DType dtype, std::span<const int64_t> shape) {
  if (shape.empty() || shape.size() > kMaxTensorDims) {
    return data_loss(fmt::format("{} dimensions, allowed 1 to {}", shape.size(), kMaxTensorDims));
  }
  int64_t items = 1;
  for (const int64_t dim : shape) {
    if (dim < 0) return data_loss(fmt::format("shape [{}] has a negative dimension", fmt::join(shape, ", ")));
    const auto product = checked_mul<int64_t>(items, dim);
    if (!product) return data_loss(fmt::format("shape [{}] has more elements than 2^63", fmt::join(shape, ", ")));
    items = *product;
  }
  const DTypeInfo info = dtype_info(dtype);
  if (shape.back() % info.block_items != 0) {
    return data_loss(fmt::format("rows of {} elements are no multiple of {}'s block of {}", shape.back(), info.name,
                                 info.block_items));
  }
  const auto bytes = dtype_bytes(dtype, static_cast<uint64_t>(items));
  if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX)) {
    return data_loss(fmt::format("shape [{}] as {} has more bytes than 2^63", fmt::join(shape, ", "), info.name));
  }
  return *bytes;
}

}  // namespace pare
