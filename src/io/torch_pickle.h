// The pickle inside a `.pth` file of one tensor, read as data: a stack machine with the opcodes that torch.save
// writes for a tensor and three kinds of global. Nothing is imported, constructed or called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pare/status.h"

namespace pare {

enum class TorchType : uint8_t { kFloat, kDouble, kHalf, kBfloat16, kByte, kChar, kBool };
int64_t torch_type_bytes(TorchType type);

// A tensor as the pickle describes it. Every field is checked by itself: sizes are not negative, at most
// kMaxTensorDims of them, as many strides as sizes. Whether the elements lie inside the storage is the reader's check.
struct TorchTensorRecord {
  TorchType type = TorchType::kFloat;
  std::string storage_key;    // digits; names the member data/KEY
  int64_t storage_items = 0;  // of the storage, >= 0
  int64_t offset = 0;         // items, >= 0
  std::vector<int64_t> shape, strides;
};

// kUnsupported names the opcode or the global that is not on the list; kDataLoss the field that is wrong and where.
// Bounded by the pickle's length: no recursion, no allocation from a number in it.
Expected<TorchTensorRecord> read_torch_pickle(std::span<const std::byte> pickle);

}  // namespace pare
