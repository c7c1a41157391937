// The published patterns of the known pre-tokenizers. They are part of the models' formats: a different cut
// gives different ids. Sources: the tokenizer.json of each model, and for "default" what llama.cpp runs when
// a GGUF file names no pre-tokenizer.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "text/pre_tokenizer.h"

namespace pare {

struct KnownPreTokenizer {
  PreTokenizerRules rules;
  std::span<const std::string_view> aliases;
  std::span<const std::string_view> patterns;
  // How tokenizer.json files spell the same patterns, where the spelling differs.
  std::span<const std::string_view> json_patterns;
};

std::span<const KnownPreTokenizer> known_pre_tokenizers();

// By canonical name or alias; null when unknown.
const KnownPreTokenizer* find_pre_tokenizer(std::string_view name);

// The patterns that tokenizer.json's ByteLevel (use_regex), Digits and Punctuation stand for.
extern const std::string_view kGpt2Pattern, kOneDigitPattern, kDigitsPattern, kOnePunctuationPattern,
    kPunctuationPattern;

}  // namespace pare
