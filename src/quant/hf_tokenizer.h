// A Hugging Face tokenizer as GGUF's tokenizer.ggml.* keys.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "io/metadata.h"
#include "pare/status.h"

namespace pare {

// Adds the keys of a byte-level BPE tokenizer.json to `out`: tokens (padded with unused ones to `vocab`), types,
// merges, and the special ids that `config` (config.json, flattened) and tokenizer_config.json name.
// `pre_tokenizer` is GGUF's name for the splitting rule ("qwen2"), which the file spells as a pattern.
// kUnsupported for other kinds of tokenizer, kDataLoss for holes, duplicates and ids beyond `vocab`.
Status add_tokenizer_keys(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                          const Metadata& config, std::string_view pre_tokenizer, int64_t vocab, Metadata* out);

}  // namespace pare
