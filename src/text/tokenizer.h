// Tokenizers: text <-> ids. One class per family behind this interface; immutable after construction, so
// every method may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/metadata.h"
#include "pare/status.h"

namespace pare {

using TokenId = int32_t;
inline constexpr TokenId kNoToken = -1;

enum class TokenKind : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct EncodeOptions {
  bool add_special = true;    // BOS/EOS (or [CLS]/[SEP]) as the model's files say
  bool parse_special = true;  // "<|im_start|>" in the text becomes its control token; off for untrusted text
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text`. Invalid UTF-8 never fails: bytes outside a code point are encoded as the family encodes
  // raw bytes (byte-level BPE: the byte; SentencePiece: byte fallback; WordPiece: U+FFFD). Work is O(n log n)
  // in bytes whatever the text. kInvalidArgument above kMaxPromptBytes.
  virtual Expected<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options) const = 0;

  // Bytes of one token as they appear in running text (may be part of a code point). Control and unknown
  // tokens give "" unless `special`; ids out of range give "".
  virtual std::string token_bytes(TokenId id, bool special = false) const = 0;

  // Text of a sequence: token_bytes joined, with the family's leading-space rule applied at the start.
  virtual std::string decode(std::span<const TokenId> ids, bool special = false) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual TokenKind kind(TokenId id) const = 0;
  virtual std::string_view token_text(TokenId id) const = 0;    // as the vocabulary spells it
  virtual TokenId find_token(std::string_view text) const = 0;  // exact vocabulary entry, or kNoToken
  virtual TokenId bos() const = 0;                              // kNoToken when the model has none
  virtual TokenId eos() const = 0;
  virtual TokenId pad() const = 0;
  // Every id that ends a turn (eos, <|im_end|>, <end_of_turn>, <|eot_id|> ...), ascending.
  virtual std::span<const TokenId> end_of_generation() const = 0;
  virtual std::string_view family() const = 0;         // "bpe", "spm", "wordpiece"
  virtual std::string_view pre_tokenizer() const = 0;  // "qwen2", "" where the family has none
  // Work units of the last stage for `text` (merges tried plus queue operations): lets tests show that
  // adversarial input costs O(n log n) without asserting seconds.
  virtual uint64_t count_steps(std::string_view text) const = 0;
};

// From GGUF metadata ("tokenizer.ggml.*"). Errors name the key: holes, duplicates, merges out of range,
// unknown model or pre-tokenizer.
Expected<std::unique_ptr<Tokenizer>> make_tokenizer_from_gguf(const Metadata& metadata);

// From the text of Hugging Face's tokenizer.json, with tokenizer_config.json (may be empty) for the special
// tokens.
Expected<std::unique_ptr<Tokenizer>> make_tokenizer_from_json(std::string_view tokenizer_json,
                                                              std::string_view tokenizer_config_json);

// From BERT's vocab.txt (one token a line, the id is the line), for folders without a tokenizer.json.
Expected<std::unique_ptr<Tokenizer>> make_tokenizer_from_vocab_txt(std::string_view vocab_txt,
                                                                   std::string_view tokenizer_config_json);

// Turns a stream of tokens into text that is always whole code points.
class StreamDecoder {
 public:
  // at_start: the stream is a whole sequence, so that the family's leading-space rule applies; false when it
  // continues a prompt. The tokenizer outlives the decoder.
  explicit StreamDecoder(const Tokenizer* tokenizer, bool at_start = true)
      : tokenizer_(tokenizer), at_start_(at_start) {}
  // Text that became complete with this token; holds back at most 3 bytes of an unfinished code point. Bytes
  // that can never become valid are replaced by U+FFFD.
  std::string push(TokenId id);
  // What is held back, as U+FFFD if unfinished.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
  bool at_start_;
};

}  // namespace pare
