// The tensor inside a `.pth` file, as torch.save writes one: a zip archive with a pickle that describes it
// (io/torch_pickle.h) and a member with its storage. Nothing in the file is executed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "pare/status.h"

namespace pare {

struct TorchTensor {
  std::vector<int64_t> shape;  // outermost first, at most kMaxTensorDims
  std::vector<float> values;   // row-major, whatever the strides were; doubles rounded
};

// Float, double, half, bfloat16, uint8, int8 and bool tensors, little-endian. Members that a tensor does not need are
// not read. Errors begin with the path. kDataLoss: an archive or pickle that contradicts itself, elements outside the
// storage; kUnsupported: opcodes, globals and types beyond the list, big-endian files; kLimitExceeded beyond the
// kMaxTorch* of base/limits.h.
Expected<TorchTensor> read_torch_tensor(const std::filesystem::path& path);
// The same of a file in memory; messages name no path.
Expected<TorchTensor> read_torch_tensor(std::span<const std::byte> file);

}  // namespace pare
