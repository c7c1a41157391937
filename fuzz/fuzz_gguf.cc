// GGUF files: the reader must refuse or read every byte string, tensors must lie inside it, and what was read
// must decode.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "io/gguf.h"
#include "quant/blocks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto file = pare::read_gguf(bytes);
  if (!file.ok()) return 0;
  for (const pare::TensorEntry& entry : file->tensors) {
    if (entry.data.data() < bytes.data() || entry.data.data() + entry.data.size() > bytes.data() + size) std::abort();
    const pare::DTypeInfo info = pare::dtype_info(entry.dtype);
    std::vector<float> row(entry.data.size() / info.block_bytes * info.block_items);
    const bool decoded = pare::dequantize_row(entry.dtype, entry.data, row).ok();
    if (decoded != pare::can_dequantize(entry.dtype)) std::abort();
  }
  return 0;
}
