// Channel mask files, `.pth` archives and the pickles inside them: refused or read, and what was read is a mask that
// can be written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/mask_file.h"
#include "io/torch_pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  // By itself, since the checksums of an archive keep nearly every mutation from getting there.
  const auto record = pare::read_torch_pickle(bytes);
  if (record.ok() && (record->shape.size() != record->strides.size() || record->offset < 0)) std::abort();
  const auto mask = pare::read_channel_mask(bytes, "fuzz");
  if (!mask.ok()) return 0;
  if (!pare::check_channel_mask(*mask).ok()) std::abort();
  const auto text = pare::format_channel_mask(*mask);
  if (!text.ok() || !pare::read_channel_mask(std::as_bytes(std::span(*text)), "").ok()) std::abort();
  return 0;
}
