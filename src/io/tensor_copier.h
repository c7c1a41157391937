// The part that all writers of model files share: checking what they are given and copying tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/atomic_file.h"
#include "io/tensor_entry.h"
#include "io/tensor_stream.h"
#include "pare/status.h"

namespace pare {

// Bytes of each tensor, all of them valid, names not empty and not twice; kInvalidArgument names the first
// tensor that is not.
Expected<std::vector<uint64_t>> check_specs(std::span<const TensorSpec> tensors);

// Copies what `produce` makes of tensor `index` into `file`, and checks that it is exactly `bytes`.
class TensorCopier {
 public:
  TensorCopier(const TensorProducer& produce, const WriteProgress& progress, uint64_t total)
      : produce_(produce), progress_(progress), total_(total) {}

  Status copy(size_t index, const TensorSpec& spec, uint64_t bytes, AtomicFile* file);

 private:
  const TensorProducer& produce_;
  const WriteProgress& progress_;
  uint64_t total_, done_ = 0;
};

}  // namespace pare
