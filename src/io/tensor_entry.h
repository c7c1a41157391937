// A tensor as it lies in a model file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pare/status.h"
#include "tensor/dtype.h"

namespace pare {

// What a writer must know before it sees the data.
struct TensorSpec {
  std::string name;
  DType dtype = DType::F32;
  // Row-major, outermost first (GGUF's ne reversed), 1 to kMaxTensorDims dimensions; a scalar is {1}.
  std::vector<int64_t> shape;
};

// `data` points into the file that the entry came from, has exactly the bytes of dtype and shape, and may be
// unaligned: read it through memcpy or the block codecs.
struct TensorEntry {
  std::string name;
  DType dtype = DType::F32;
  std::vector<int64_t> shape;  // as in TensorSpec
  std::span<const std::byte> data;
};

// Bytes of a tensor, or why there is no such tensor: no or more than kMaxTensorDims dimensions, a negative one,
// a row that is no multiple of the block, a size beyond int64. The message does not name the tensor.
Expected<uint64_t> tensor_bytes(DType dtype, std::span<const int64_t> shape);

}  // namespace pare
