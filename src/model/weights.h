// Weights of a loaded model: packed matrices and fp32 vectors, owned here, and the loader that fills them.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "io/model_file.h"
#include "model/model.h"
#include "ops/accelerator.h"
#include "ops/ops.h"

namespace pare {

// How the rows of a matrix are ordered in the file.
enum class RowOrder : uint8_t {
  kPlain,
  kInterleavedHeads,  // GGUF llama Q/K: within a head, rows 2i and 2i+1 are channels i and i + D/2
};

class WeightStore {
 public:
  uint64_t bytes() const { return bytes_; }

 private:
  friend class WeightLoader;
  std::vector<AlignedBuffer> buffers_;
  std::vector<std::shared_ptr<std::byte>> device_buffers_;
  uint64_t bytes_ = 0;
};

// Reads tensors by name; problems are collected so that one error lists every missing and every unknown name.
// Packing runs on the pool; the source pages of a packed tensor are dropped at once.
class WeightLoader {
 public:
  WeightLoader(const ModelFile& file, const WeightPlace& place, WeightStore* store)
      : file_(file), pool_(*place.pool), accelerator_(place.accelerator.get()), store_(*store) {}

  bool has(std::string_view name) const { return file_.find(name) != nullptr; }
  // [n, k] in any block or half/single format. head_dim is used by kInterleavedHeads only.
  ops::Weight matrix(const std::string& name, int64_t n, int64_t k, RowOrder order = RowOrder::kPlain,
                     int64_t head_dim = 0);
  // fp32 vector of n values, each plus `add`.
  const float* vector(const std::string& name, int64_t n, float add = 0.0f, RowOrder order = RowOrder::kPlain,
                      int64_t head_dim = 0);
  // The same in host memory wherever the weights go; empty when it is missing.
  std::vector<float> host_vector(const std::string& name, int64_t n);
  // One row of a [n, k] matrix as an fp32 vector of k values.
  const float* matrix_row(const std::string& name, int64_t n, int64_t k, int64_t row);
  // Bytes that a weight holds where it lies.
  size_t packed_bytes(const ops::Weight& w) const { return packed_bytes(w.dtype, w.n, w.k); }
  // Names that may be present and are not needed (buffers that the configuration implies).
  void ignore(std::string name) { used_.insert(std::move(name)); }

  // The first problem, or the list of missing tensors, or the list of tensors nobody asked for.
  Status finish() const;

 private:
  const TensorEntry* take(const std::string& name, int64_t n, int64_t k);
  size_t packed_bytes(DType dtype, int64_t n, int64_t k) const;
  std::byte* allocate(size_t bytes);
  // The host bytes where the weights go; null after an error.
  const std::byte* place(std::span<const std::byte> host);
  void pack(const TensorEntry& entry, const std::byte* rows, int64_t n, int64_t k, std::byte* packed);
  const float* place_floats(std::span<const float> values);

  const ModelFile& file_;
  ThreadPool& pool_;
  ops::Accelerator* accelerator_;
  WeightStore& store_;
  std::set<std::string, std::less<>> used_;
  std::vector<std::string> missing_;
  Status error_;
};

}  // namespace pare
