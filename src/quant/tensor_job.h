// One tensor of a conversion: where its values come from, what is done to them, what is written.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "io/tensor_entry.h"
#include "io/tensor_stream.h"
#include "pare/status.h"

namespace pare {

// How output rows of a query or key matrix are taken from input rows, within each head of D rows.
enum class RowMove : uint8_t {
  kNone,
  kInterleave,  // output 2i and 2i+1 from input i and i + D/2 (GGUF's llama)
  kSplit,       // the inverse
};

struct TensorJob {
  TensorSpec spec;                      // what is written; as many elements as the source
  const TensorEntry* source = nullptr;  // null: `values`
  std::vector<float> values;
  RowMove move = RowMove::kNone;
  int64_t head_dim = 0;  // even; divides the rows; used with `move`
  float add = 0.0f;      // to every element
};

// Produces the jobs' tensors in bounded memory, rows in parallel on `pool` (null: this thread). Tensors that
// nothing is done to are copied byte for byte, so that no format is decoded and encoded again. kUnsupported
// for integer tensors that would change. `jobs` and what they point to must outlive the producer.
TensorProducer make_tensor_producer(std::span<const TensorJob> jobs, ThreadPool* pool);

}  // namespace pare
