// Cuts text into the words inside which byte-level BPE merges. A pre-tokenizer is a list of patterns: the
// first cuts the text into its matches and the gaps between them, each further one cuts those pieces again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"

namespace pare {

// Immutable, any thread.
class PreTokenizer {
 public:
  // By the name that tokenizer.ggml.pre gives ("qwen2", "llama3", "default" ...). kUnsupported names an
  // unknown one.
  static Expected<PreTokenizer> from_name(std::string_view name);
  // Patterns of a tokenizer.json, in order. When they are those of a known pre-tokenizer, name() is its name,
  // else "custom". kDataLoss with the position for a pattern that does not compile.
  static Expected<PreTokenizer> from_patterns(const std::vector<std::string>& patterns);

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // Canonical name: "llama-bpe" for its alias "llama3".
  std::string_view name() const;

  // Sets *ends to where each piece ends, ascending; the last is text.size(). Pieces cover the text. Bytes
  // outside a code point are cut like control characters, and like U+FFFD: none of them is a letter, number,
  // mark, punctuation or space. Linear in the text for the named pre-tokenizers; other patterns may backtrack
  // and are stopped by a match limit: kLimitExceeded. Text above 4 GiB - 1 is the caller's error.
  Status split(std::string_view text, std::vector<uint32_t>* ends) const;

 private:
  struct Impl;
  explicit PreTokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What the model files of a pre-tokenizer leave unsaid.
struct PreTokenizerRules {
  std::string_view name;         // canonical
  bool add_bos_default = false;  // when tokenizer.ggml.add_bos_token is absent
  bool ignore_merges = false;    // a word that is a token is that token, whatever the merges give
  bool add_sep_default = false;  // when tokenizer.ggml.add_eos_token is absent: RoBERTa's [SEP] at the end
};

// For any name that from_name knows.
Expected<PreTokenizerRules> pre_tokenizer_rules(std::string_view name);

// Canonical names, for tools and messages.
std::vector<std::string_view> pre_tokenizer_names();

}  // namespace pare
