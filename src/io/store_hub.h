// Models of a Hugging Face hub, by its HTTP API.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "io/store.h"
#include "pare/status.h"

namespace pare {

inline constexpr int64_t kMaxHubListingBytes = 16 << 20;
inline constexpr int64_t kMaxHubFiles = 65'536;

struct HubName {
  std::string owner, repo;
  std::string file;  // path inside the repository; empty: the whole model
};

// "hf:OWNER/REPO" or "hf:OWNER/REPO:FILE". Every segment must be a plain file name: not empty, no leading
// dot, no backslash, no control character, at most 255 bytes.
Expected<HubName> parse_hub_name(std::string_view text);
bool is_hub_name(std::string_view text);  // starts with "hf:"

struct HubFile {
  std::string name;
  int64_t bytes;       // kUnknownBytes when the listing does not say
  std::string sha256;  // empty for a small file kept in git itself
};

// The files of a listing's JSON that make `name` usable, in the order to fetch them: the file itself; else
// the only .gguf; else safetensors (whole or in shards) with their configuration and tokenizer, config.json
// last. kNotFound and kInvalidArgument list what there is instead; kDataLoss for JSON that is no listing.
Expected<std::vector<HubFile>> choose_hub_files(const HubName& name, const std::string& listing);

// Where a pulled hub model lies, or kNotFound.
Expected<std::filesystem::path> hub_model_path(const HubName& name, const std::filesystem::path& store);

// pull_model for a hub name.
Expected<std::filesystem::path> pull_from_hub(const HubName& name, const std::filesystem::path& store,
                                              const PullOptions& options, const PullProgress& progress);

}  // namespace pare
