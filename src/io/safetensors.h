// safetensors files: reader, and writers for one file and for indexed shards. Byte layout and what is refused:
// docs/formats/safetensors.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor_entry.h"
#include "io/tensor_stream.h"
#include "pare/status.h"

namespace pare {

struct SafetensorsContents {
  uint64_t data_offset = 0;                     // where tensor data begins
  std::map<std::string, std::string> metadata;  // "__metadata__"
  std::vector<TensorEntry> tensors;             // in the order of their data, which points into the bytes read
};

// Reads a whole file; `bytes` must outlive the tensors. Tensors must cover the data without holes or overlaps.
// BOOL tensors are read as U8, scalars as shape {1}. kDataLoss for bytes that contradict themselves,
// kUnsupported for other element types, kLimitExceeded beyond base/limits.h.
Expected<SafetensorsContents> read_safetensors(std::span<const std::byte> bytes);

// The tensor -> file map of a "model.safetensors.index.json". File names are plain names in the index's folder.
Expected<std::map<std::string, std::string, std::less<>>> read_safetensors_index(std::string_view json);

// Writes one file atomically. kInvalidArgument names the tensor whose type safetensors does not have (block
// formats), or that occurs twice.
Status write_safetensors(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata,
                         std::span<const TensorSpec> tensors, const TensorProducer& produce,
                         const WriteProgress& progress = {});

// Writes `folder`/model.safetensors when everything fits in `max_shard_bytes` of data, else
// model-00001-of-0000N.safetensors ... and, last, model.safetensors.index.json. A tensor larger than the limit
// gets a shard of its own. Files appear only after all of them are written.
Status write_safetensors_model(const std::filesystem::path& folder, const std::map<std::string, std::string>& metadata,
                               std::span<const TensorSpec> tensors, uint64_t max_shard_bytes,
                               const TensorProducer& produce, const WriteProgress& progress = {});

}  // namespace pare
