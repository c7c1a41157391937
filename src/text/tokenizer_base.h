// What the tokenizer families share: vocabulary, special tokens, the frame of encode and decode.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "text/vocab.h"

namespace pare {

// A token that is cut out of the text before the family's own algorithm sees it.
struct AddedToken {
  TokenId id = kNoToken;
  std::string text;
  bool strip_left = false, strip_right = false;  // swallows white space beside it
};

// Everything that a model file says about a tokenizer, whatever its family.
struct TokenizerParts {
  Vocab vocab;
  std::vector<float> scores;  // SentencePiece-style: one per token
  TokenId bos = kNoToken, eos = kNoToken, pad = kNoToken, unk = kNoToken;
  std::vector<TokenId> prefix, suffix;  // what add_special puts around the text
  std::vector<TokenId> end_of_generation;
  std::vector<AddedToken> added;  // control tokens among them are found only with parse_special
};

// Whether a token spelled so controls the model whatever type its file gives it: ends of turns, and the markers of
// fill-in-the-middle. Converters lose that flag, so llama.cpp goes by the spelling, and so does the GGUF reader.
bool is_control_spelling(std::string_view text);

// Adds to parts->end_of_generation the ids given, and the tokens that by their spelling end a turn
// ("<|im_end|>").
void collect_end_of_generation(const std::vector<TokenId>& ids, TokenizerParts* parts);

class TokenizerBase : public Tokenizer {
 public:
  Expected<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options) const final;
  std::string token_bytes(TokenId id, bool special) const final;
  std::string decode(std::span<const TokenId> ids, bool special) const final;
  int32_t vocab_size() const final { return parts_.vocab.size(); }
  TokenKind kind(TokenId id) const final;
  std::string_view token_text(TokenId id) const final;
  TokenId find_token(std::string_view text) const final { return parts_.vocab.find(text); }
  TokenId bos() const final { return parts_.bos; }
  TokenId eos() const final { return parts_.eos; }
  TokenId pad() const final { return parts_.pad; }
  std::span<const TokenId> end_of_generation() const final { return parts_.end_of_generation; }
  uint64_t count_steps(std::string_view text) const final;

 protected:
  // strip_leading_space: decode drops one space at the start of a sequence, which encode put there.
  TokenizerBase(TokenizerParts parts, bool strip_leading_space);

  // Ids of one stretch of text without added tokens, never empty, appended to *out. `first`: nothing or an
  // added token stands before it. Adds its work to *steps.
  virtual Status encode_stretch(std::string_view text, bool first, std::vector<TokenId>* out,
                                uint64_t* steps) const = 0;

  const Vocab& vocab() const { return parts_.vocab; }
  const TokenizerParts& parts() const { return parts_; }

  // What each token stands for in running text, filled by the family's constructor: one entry per id.
  StringPool pieces_;

 private:
  // Cuts added tokens out and encodes what lies between.
  Status encode_body(std::string_view text, bool parse_special, std::vector<TokenId>* out, uint64_t* steps) const;

  TokenizerParts parts_;
  TokenTrie all_added_, plain_added_;  // with and without control tokens; ids are indices into parts_.added
  bool strip_leading_space_;
};

// The byte of a byte token's spelling "<0x0A>", or -1.
int byte_of_spelling(std::string_view text);

struct Merge {
  std::string_view left, right;
};
// (id of left, id of right) -> (index, id of both joined). kDataLoss names `place` and the index: too many, a
// part or the result is no token, or there twice.
Expected<PairTable> make_merge_table(const Vocab& vocab, const std::vector<Merge>& merges, std::string_view place);

struct BpeOptions {
  std::vector<std::string> patterns;  // of the pre-tokenizer; used when `pre` is empty
  std::string pre;                    // name of the pre-tokenizer
  bool ignore_merges = false;
  bool normalize_nfc = false;
};
// Byte-level BPE. `place` names where the merges came from, for messages.
Expected<std::unique_ptr<Tokenizer>> make_bpe(TokenizerParts parts, const BpeOptions& options,
                                              const std::vector<Merge>& merges, std::string_view place);

struct SpmOptions {
  bool add_space_prefix = true;
  std::vector<Merge> merges;  // by rank; when empty, scores decide
};
// SentencePiece-style BPE: spaces are U+2581, unknown characters fall back to bytes.
Expected<std::unique_ptr<Tokenizer>> make_spm(TokenizerParts parts, const SpmOptions& options, std::string_view place);

struct WordPieceOptions {
  std::string word_prefix;           // GGUF: U+2581; tokenizer.json: ""
  std::string continuation_prefix;   // GGUF: "";     tokenizer.json: "##"
  size_t word_chars_max = SIZE_MAX;  // longer words are unknown
  bool clean_text = true, isolate_cjk = true, strip_accents = true, lowercase = true;
};
// Greedy longest match, after BERT's normalization.
Expected<std::unique_ptr<Tokenizer>> make_wordpiece(TokenizerParts parts, const WordPieceOptions& options);

}  // namespace pare
