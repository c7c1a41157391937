// Files of channel masks: pare's own (JSON, docs/formats/channel_mask.md) and the binary tensors that LeanK's authors
// publish (`.pth`, io/torch_tensor_file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "pare/status.h"
#include "plan/channel_mask.h"

namespace pare {

inline constexpr int32_t kMaskWidthUnit = 16;

// GGUF stores the Q and K rows of `llama` models so that RoPE pairs are neighbours: half-split channel c is row 2c, or
// 2 (c - D/2) + 1 for the second half. pare itself counts half-split everywhere.
constexpr int32_t interleaved_channel(int32_t c, int32_t head_dim) {
  return c < head_dim / 2 ? 2 * c : 2 * (c - head_dim / 2) + 1;
}
constexpr int32_t half_split_channel(int32_t c, int32_t head_dim) { return c / 2 + (c % 2) * (head_dim / 2); }

enum class ChannelOrder : uint8_t { kHalfSplit, kInterleaved };

// Sizes within base/limits.h and kMaxMaskChannels, an even head dimension that is a multiple of 16, a list for every
// head; ids ascending and below head_dim, a multiple of 16 of them; alpha in (0, 1] and a value of fp16. The message
// names the field, and the layer and head.
Status check_channel_mask(const ChannelMask& mask);

// Either kind of file, told apart by its first bytes. Errors begin with the path and name the field: kDataLoss for what
// contradicts itself (checksum, width, digits), kUnsupported for another version or RoPE layout, kLimitExceeded.
Expected<ChannelMask> read_channel_mask(const std::filesystem::path& path);
// The same of bytes in memory. `source` is for the provenance of a `.pth`; messages do not name it.
Expected<ChannelMask> read_channel_mask(std::span<const std::byte> bytes, std::string_view source);

// Writes the JSON form atomically. kInvalidArgument as check_channel_mask.
Status write_channel_mask(const std::filesystem::path& path, const ChannelMask& mask,
                          ChannelOrder order = ChannelOrder::kHalfSplit);
// The text of that file.
Expected<std::string> format_channel_mask(const ChannelMask& mask, ChannelOrder order = ChannelOrder::kHalfSplit);

}  // namespace pare
