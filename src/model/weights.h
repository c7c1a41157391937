// Weights of a loaded model: packed matrices and fp32 vectors, owned here, and the loader that fills them.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "io/model_file.h"
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
  uint64_t bytes_ = 0;
};

// Reads tensors by name; problems are collected so that one error lists every missing and every unknown name.
// Packing runs on the pool; the source pages of a packed tensor are dropped at once.
class WeightLoader {
 public:
  WeightLoader(const ModelFile& file, ThreadPool* pool, WeightStore* store)
      : file_(file), pool_(*pool), store_(*store) {}

  bool has(std::string_view name) const { return file_.find(name) != nullptr; }
  // [n, k] in any block or half/single format. head_dim is used by kInterleavedHeads only.
  ops::Weight matrix(const std::string& name, int64_t n, int64_t k, RowOrder order = RowOrder::kPlain,
                     int64_t head_dim = 0);
  // fp32 vector of n values, each plus `add`.
  const float* vector(const std::string& name, int64_t n, float add = 0.0f, RowOrder order = RowOrder::kPlain,
                      int64_t head_dim = 0);
  // Names that may be present and are not needed (buffers that the configuration implies).
  void ignore(std::string name) { used_.insert(std::move(name)); }

  // The first problem, or the list of missing tensors, or the list of tensors nobody asked for.
  Status finish() const;

 private:
  const TensorEntry* take(const std::string& name, int64_t n, int64_t k);
  std::byte* allocate(size_t bytes);

  const ModelFile& file_;
  ThreadPool& pool_;
  WeightStore& store_;
  std::set<std::string, std::less<>> used_;
  std::vector<std::string> missing_;
  Status error_;
};

}  // namespace pare
