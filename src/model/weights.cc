#include "model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "quant/blocks.h"

namespace pare {
namespace {

// Source bytes packed before their pages are let go: an embedding table may be most of a model, and would otherwise
// be in memory twice.
constexpr int64_t kSliceBytes = 16 << 20;

// File row that holds row `r` of the half-split order.
int64_t source_row(int64_t r, RowOrder order, int64_t head_dim) {
  if (order == RowOrder::kPlain) return r;
  const int64_t head = r / head_dim, channel = r % head_dim, half = head_dim / 2;
  return head * head_dim + (channel < half ? 2 * channel : 2 * (channel - half) + 1);
}

std::string join_names(const std::vector<std::string>& names) {
  constexpr size_t kShown = 20;
  std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + std::min(kShown, names.size()), ", "));
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

}  // namespace

std::byte* WeightLoader::allocate(size_t bytes) {
  auto buffer = AlignedBuffer::allocate(bytes);
  if (!buffer.ok()) {
    if (error_.ok()) error_ = buffer.status().with_context("weights");
    return nullptr;
  }
  store_.buffers_.push_back(std::move(*buffer));
  store_.bytes_ += bytes;
  return store_.buffers_.back().data();
}

const TensorEntry* WeightLoader::take(const std::string& name, int64_t n, int64_t k) {
  if (!error_.ok()) return nullptr;
  used_.insert(name);
  const TensorEntry* entry = file_.find(name);
  if (!entry) {
    missing_.push_back(name);
    return nullptr;
  }
  int64_t items = 1;
  for (int64_t d : entry->shape) items *= d;
  const bool matches = k == 1 ? items == n && entry->shape.back() == n
                              : entry->shape.size() == 2 && entry->shape[0] == n && entry->shape[1] == k;
  if (!matches) {
    error_ = data_loss(fmt::format("tensor '{}' has shape [{}], expected [{}{}]", name, fmt::join(entry->shape, ", "),
                                   n, k == 1 ? std::string() : fmt::format(", {}", k)));
    return nullptr;
  }
  return entry;
}

ops::Weight WeightLoader::matrix(const std::string& name, int64_t n, int64_t k, RowOrder order, int64_t head_dim) {
  const TensorEntry* entry = take(name, n, k);
  if (!entry) return {};
  const size_t bytes = packed_weight_bytes(entry->dtype, n, k);
  if (bytes == 0) {
    error_ =
        unsupported(fmt::format("tensor '{}': no kernel for {} with rows of {}", name, dtype_name(entry->dtype), k));
    return {};
  }
  std::byte* packed = allocate(bytes);
  if (!packed) return {};
  const std::byte* rows = entry->data.data();
  std::vector<std::byte> reordered;
  if (order != RowOrder::kPlain) {
    const size_t row_bytes = entry->data.size() / n;
    reordered.resize(entry->data.size());
    for (int64_t r = 0; r < n; ++r) {
      std::memcpy(reordered.data() + r * row_bytes, rows + source_row(r, order, head_dim) * row_bytes, row_bytes);
    }
    rows = reordered.data();
  }
  const int64_t tiles = ceil_div(n, kRowTile);
  const int64_t tile_bytes = ceil_div<int64_t>(static_cast<int64_t>(entry->data.size()), tiles);
  const int64_t per_slice = std::max<int64_t>(1, kSliceBytes / tile_bytes);
  for (int64_t begin = 0; begin < tiles; begin += per_slice) {
    const int64_t end = std::min(tiles, begin + per_slice);
    const int64_t per_task = std::max<int64_t>(1, (end - begin) / (pool_.threads() * 8));
    pool_.run(ceil_div(end - begin, per_task), [&](int64_t task, int) {
      const int64_t first = begin + task * per_task;
      pack_weight_tiles(entry->dtype, rows, n, k, first, std::min(end, first + per_task), packed);
    });
    const size_t done = std::min(entry->data.size(), static_cast<size_t>(end * kRowTile) * (entry->data.size() / n));
    file_.drop_resident(entry->data.first(done));
  }
  return ops::Weight{entry->dtype, n, k, packed};
}

const float* WeightLoader::vector(const std::string& name, int64_t n, float add, RowOrder order, int64_t head_dim) {
  const TensorEntry* entry = take(name, n, 1);
  if (!entry) return nullptr;
  auto* out = reinterpret_cast<float*>(allocate(round_up<size_t>(n, 16) * sizeof(float)));
  if (!out) return nullptr;
  std::vector<float> values(n);
  if (Status status = dequantize_row(entry->dtype, entry->data, values); !status.ok()) {
    error_ = status.with_context(fmt::format("tensor '{}'", name));
    return nullptr;
  }
  for (int64_t i = 0; i < n; ++i) out[i] = values[source_row(i, order, head_dim)] + add;
  return out;
}

Status WeightLoader::finish() const {
  PARE_RETURN_IF_ERROR(error_);
  if (!missing_.empty()) return data_loss(fmt::format("missing tensors: {}", join_names(missing_)));
  std::vector<std::string> unknown;
  for (const TensorEntry& entry : file_.tensors()) {
    if (!used_.contains(entry.name)) unknown.push_back(entry.name);
  }
  if (!unknown.empty())
    return data_loss(fmt::format("tensors that this architecture does not have: {}", join_names(unknown)));
  return ok_status();
}

}  // namespace pare
