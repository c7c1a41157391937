#include "io/tensor_copier.h"

#include <fmt/format.h>

#include <string_view>
#include <unordered_set>

#include "base/limits.h"
#include "io/quote_name.h"

namespace pare {

Expected<std::vector<uint64_t>> check_specs(std::span<const TensorSpec> tensors) {
  if (tensors.size() > static_cast<size_t>(kMaxTensors)) {
    return limit_exceeded(fmt::format("{} tensors, limit {}", tensors.size(), kMaxTensors));
  }
  std::vector<uint64_t> bytes;
  std::unordered_set<std::string_view> names;
  for (const TensorSpec& spec : tensors) {
    if (spec.name.empty() || static_cast<int64_t>(spec.name.size()) > kMaxKeyBytes) {
      return invalid_argument(fmt::format("tensor name {} has {} bytes, allowed 1 to {}", quote_name(spec.name),
                                          spec.name.size(), kMaxKeyBytes));
    }
    if (!names.insert(spec.name).second) {
      return invalid_argument(fmt::format("tensor {} is given twice", quote_name(spec.name)));
    }
    const auto size = tensor_bytes(spec.dtype, spec.shape);
    if (!size.ok()) {
      return invalid_argument(fmt::format("tensor {}: {}", quote_name(spec.name), size.status().message()));
    }
    bytes.push_back(*size);
  }
  return bytes;
}

Status TensorCopier::copy(size_t index, const TensorSpec& spec, uint64_t bytes, AtomicFile* file) {
  uint64_t written = 0;
  const TensorSink sink = [&](std::span<const std::byte> piece) -> Status {
    if (piece.size() > bytes - written) {
      return internal_error(
          fmt::format("tensor {}: more than its {} bytes were produced", quote_name(spec.name), bytes));
    }
    PARE_RETURN_IF_ERROR(file->write(piece));
    written += piece.size();
    done_ += piece.size();
    if (progress_ && !progress_(done_, total_)) return cancelled("interrupted");
    return ok_status();
  };
  PARE_RETURN_IF_ERROR(produce_(index, sink));
  if (written == bytes) return ok_status();
  return internal_error(fmt::format("tensor {}: {} of {} bytes were produced", quote_name(spec.name), written, bytes));
}

}  // namespace pare
