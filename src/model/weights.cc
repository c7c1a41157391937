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

size_t WeightLoader::packed_bytes(DType dtype, int64_t n, int64_t k) const {
  return accelerator_ ? accelerator_->weight_bytes(dtype, n, k) : packed_weight_bytes(dtype, n, k);
}

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

const std::byte* WeightLoader::place(std::span<const std::byte> host) {
  auto memory = accelerator_->allocate(host.size());
  Status status = memory.ok() ? accelerator_->upload(memory->get(), host) : memory.status();
  if (!status.ok()) {
    if (error_.ok()) error_ = status.with_context("weights");
    return nullptr;
  }
  store_.bytes_ += host.size();
  store_.device_buffers_.push_back(std::move(*memory));
  return store_.device_buffers_.back().get();
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
  const size_t bytes = packed_bytes(entry->dtype, n, k);
  if (bytes == 0) {
    error_ =
        unsupported(fmt::format("tensor '{}': no kernel for {} with rows of {}", name, dtype_name(entry->dtype), k));
    return {};
  }
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
  if (!accelerator_) {
    std::byte* packed = allocate(bytes);
    if (!packed) return {};
    pack(*entry, rows, n, k, packed);
    return ops::Weight{entry->dtype, n, k, packed};
  }
  auto staging = AlignedBuffer::allocate(bytes);
  if (!staging.ok()) {
    error_ = staging.status().with_context("weights");
    return {};
  }
  pack(*entry, rows, n, k, staging->data());
  const std::byte* packed = place({staging->data(), bytes});
  return packed ? ops::Weight{entry->dtype, n, k, packed} : ops::Weight{};
}

void WeightLoader::pack(const TensorEntry& entry, const std::byte* rows, int64_t n, int64_t k, std::byte* packed) {
  const int64_t tiles = ceil_div(n, kRowTile);
  const int64_t tile_bytes = ceil_div<int64_t>(static_cast<int64_t>(entry.data.size()), tiles);
  const int64_t per_slice = std::max<int64_t>(1, kSliceBytes / tile_bytes);
  for (int64_t begin = 0; begin < tiles; begin += per_slice) {
    const int64_t end = std::min(tiles, begin + per_slice);
    const int64_t per_task = std::max<int64_t>(1, (end - begin) / (pool_.threads() * 8));
    pool_.run(ceil_div(end - begin, per_task), [&](int64_t task, int) {
      const int64_t first = begin + task * per_task, last = std::min(end, first + per_task);
      if (accelerator_) {
        accelerator_->pack_weight_tiles(entry.dtype, rows, n, k, first, last, packed);
      } else {
        pack_weight_tiles(entry.dtype, rows, n, k, first, last, packed);
      }
    });
    const size_t done = std::min(entry.data.size(), static_cast<size_t>(end * kRowTile) * (entry.data.size() / n));
    file_.drop_resident(entry.data.first(done));
  }
}

const float* WeightLoader::place_floats(std::span<const float> values) {
  if (accelerator_) return reinterpret_cast<const float*>(place(std::as_bytes(values)));
  auto* out = reinterpret_cast<float*>(allocate(round_up<size_t>(values.size(), 16) * sizeof(float)));
  if (out) std::copy(values.begin(), values.end(), out);
  return out;
}

std::vector<float> WeightLoader::host_vector(const std::string& name, int64_t n) {
  const TensorEntry* entry = take(name, n, 1);
  if (!entry) return {};
  std::vector<float> values(static_cast<size_t>(n));
  if (Status status = dequantize_row(entry->dtype, entry->data, values); !status.ok()) {
    error_ = status.with_context(fmt::format("tensor '{}'", name));
    return {};
  }
  return values;
}

const float* WeightLoader::vector(const std::string& name, int64_t n, float add, RowOrder order, int64_t head_dim) {
  const std::vector<float> values = host_vector(name, n);
  if (values.empty()) return nullptr;
  std::vector<float> ordered(values.size());
  for (int64_t i = 0; i < n; ++i) ordered[i] = values[source_row(i, order, head_dim)] + add;
  return place_floats(ordered);
}

const float* WeightLoader::matrix_row(const std::string& name, int64_t n, int64_t k, int64_t row) {
  const TensorEntry* entry = take(name, n, k);
  if (!entry) return nullptr;
  const size_t row_bytes = entry->data.size() / n;
  std::vector<float> values(static_cast<size_t>(k));
  if (Status status = dequantize_row(entry->dtype, entry->data.subspan(row * row_bytes, row_bytes), values);
      !status.ok()) {
    error_ = status.with_context(fmt::format("tensor '{}'", name));
    return nullptr;
  }
  return place_floats(values);
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
