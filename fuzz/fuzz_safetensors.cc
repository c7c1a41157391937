// safetensors files and shard indexes: refused or read, and tensors lie inside the bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = pare::read_safetensors(bytes);
  if (file.ok()) {
    size_t covered = 0;
    for (const pare::TensorEntry& entry : file->tensors) {
      if (entry.data.data() < bytes.data() || entry.data.data() + entry.data.size() > bytes.data() + size) std::abort();
      covered += entry.data.size();
    }
    if (covered + file->data_offset != size) std::abort();
  }
  const auto index = pare::read_safetensors_index(std::string_view(reinterpret_cast<const char*>(data), size));
  if (index.ok()) {
    for (const auto& [tensor, name] : *index) {
      if (name.find('/') != name.npos || name.starts_with('.')) std::abort();
    }
  }
  return 0;
}
