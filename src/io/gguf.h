// GGUF, versions 2 and 3, little-endian: reader and writer. Byte layout and what is refused:
// docs/formats/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "io/metadata.h"
#include "io/tensor_entry.h"
#include "io/tensor_stream.h"
#include "pare/status.h"

namespace pare {

inline constexpr uint32_t kGgufVersion = 3;  // what the writer writes
inline constexpr uint64_t kGgufDefaultAlignment = 32;

struct GgufContents {
  uint32_t version = 0;
  uint64_t alignment = kGgufDefaultAlignment;
  uint64_t data_offset = 0;  // where tensor data begins; everything before it is the header
  // Signed integers as int64, unsigned ones as uint64, so that a writer restores the signedness. Nested arrays
  // are flattened in order.
  Metadata metadata;
  std::vector<TensorEntry> tensors;  // in the file's order; data points into the bytes given to read_gguf
};

// Reads a whole file. `bytes` must outlive the tensors. Nothing is allocated for a count or length before the
// file is known to be long enough for it. kDataLoss for bytes that contradict themselves, kUnsupported for
// versions, types and byte orders that are known and not read here, kLimitExceeded beyond base/limits.h.
// Cost: linear in the header; tensor data is not touched.
Expected<GgufContents> read_gguf(std::span<const std::byte> bytes);

// Whether the bytes begin as a GGUF file does.
bool is_gguf(std::span<const std::byte> bytes);

// Writes `path` atomically: the file appears when it is whole, and a failure leaves what was there before.
// `metadata` may name general.alignment (a power of two, 8 to 65,536). Integers are written in the narrowest
// of 32 and 64 bits with the variant's signedness, arrays of integers as signed; numbers as float32 when that
// loses nothing, else float64. `produce` is asked for the tensors in order. kInvalidArgument names the key or
// tensor that the format (or read_gguf) would refuse.
Status write_gguf(const std::filesystem::path& path, const Metadata& metadata, std::span<const TensorSpec> tensors,
                  const TensorProducer& produce, const WriteProgress& progress = {});

}  // namespace pare
