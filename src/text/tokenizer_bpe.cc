// Byte-level BPE (GPT-2): words of the pre-tokenizer, spelled one character per byte, merged by rank.
#include <array>

#include "text/pre_tokenizer.h"
#include "text/symbol_merge.h"
#include "text/tokenizer_base.h"
#include "text/unicode_normalize.h"
#include "text/utf8.h"

namespace pare {
namespace {

// GPT-2's spelling of bytes: printable Latin-1 characters stand for themselves, the others for U+0100
// onwards.
struct ByteSpelling {
  std::array<char32_t, 256> of_byte{};
  std::array<int16_t, 0x180> to_byte{};
  constexpr ByteSpelling() {
    to_byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      of_byte[b] = printable ? static_cast<char32_t>(b) : next++;
      to_byte[of_byte[b]] = static_cast<int16_t>(b);
    }
  }
};
constexpr ByteSpelling kSpelling;

// The bytes that `text` spells, or `text` itself when it is no such spelling.
std::string bytes_of(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (!step.valid || step.code_point >= kSpelling.to_byte.size() || kSpelling.to_byte[step.code_point] < 0) {
      return std::string(text);
    }
    out.push_back(static_cast<char>(kSpelling.to_byte[step.code_point]));
    at += step.size;
  }
  return out;
}

class BpeTokenizer final : public TokenizerBase {
 public:
  BpeTokenizer(TokenizerParts parts, PreTokenizer pre, PairTable merges, const BpeOptions& options)
      : TokenizerBase(std::move(parts), false),
        pre_(std::move(pre)),
        merges_(std::move(merges)),
        ignore_merges_(options.ignore_merges),
        normalize_nfc_(options.normalize_nfc) {
    for (size_t b = 0; b < 256; ++b) {
      std::string spelled;
      utf8_append(kSpelling.of_byte[b], &spelled);
      const TokenId id = vocab().find(spelled);
      // An added token that happens to be one such character is that character, not the byte.
      byte_ids_[b] = id != kNoToken && vocab().kind(id) == TokenKind::kNormal ? id : kNoToken;
    }
    for (TokenId id = 0; id < vocab().size(); ++id) {
      const TokenKind kind = vocab().kind(id);
      if (kind == TokenKind::kNormal) {
        const std::string bytes = bytes_of(vocab().text(id));
        if (ignore_merges_) words_.insert(bytes, id);
        pieces_.append(bytes);
      } else {
        pieces_.append(kind == TokenKind::kUnused ? std::string_view() : vocab().text(id));
      }
    }
  }

  std::string_view family() const override { return "bpe"; }
  std::string_view pre_tokenizer() const override { return pre_.name(); }

 protected:
  Status encode_stretch(std::string_view text, bool, std::vector<TokenId>* out, uint64_t* steps) const override {
    std::string normalized;
    if (normalize_nfc_ && to_nfc(text, &normalized)) text = normalized;
    std::vector<uint32_t> ends;
    PARE_RETURN_IF_ERROR(pre_.split(text, &ends));
    SymbolMerger merger;
    uint32_t begin = 0;
    for (const uint32_t end : ends) {
      encode_word(text.substr(begin, end - begin), &merger, out, steps);
      begin = end;
    }
    return ok_status();
  }

 private:
  void encode_word(std::string_view word, SymbolMerger* merger, std::vector<TokenId>* out, uint64_t* steps) const {
    if (ignore_merges_) {
      const TokenTrie::Match whole = words_.longest(word, 0, TokenTrie::kRoot, steps);
      if (whole.size == word.size()) {
        out->push_back(whole.id);
        return;
      }
    }
    merger->clear();
    for (uint32_t i = 0; i < word.size(); ++i) merger->add(i, 1, byte_ids_[static_cast<unsigned char>(word[i])]);
    merger->run(
        [this](const Symbol& left, const Symbol& right) -> MergeResult {
          const auto* merge = merges_.find(static_cast<uint32_t>(left.id), static_cast<uint32_t>(right.id));
          return merge == nullptr ? MergeResult{0, kNoToken} : MergeResult{merge->rank, merge->id};
        },
        steps);
    for (uint32_t i = 0; i != kNoSymbol; i = merger->symbols[i].next) {
      // A byte that the vocabulary lacks has no id; llama.cpp drops it too, and the models never saw it.
      if (merger->symbols[i].id != kNoToken) out->push_back(merger->symbols[i].id);
    }
  }

  PreTokenizer pre_;
  PairTable merges_;
  TokenTrie words_;  // with ignore_merges: whole tokens by their bytes
  std::array<TokenId, 256> byte_ids_;
  bool ignore_merges_, normalize_nfc_;
};

}  // namespace

Expected<std::unique_ptr<Tokenizer>> make_bpe(TokenizerParts parts, const BpeOptions& options,
                                              const std::vector<Merge>& merges, std::string_view place) {
  PARE_ASSIGN_OR_RETURN(PreTokenizer pre, options.pre.empty() ? PreTokenizer::from_patterns(options.patterns)
                                                              : PreTokenizer::from_name(options.pre));
  PARE_ASSIGN_OR_RETURN(PairTable table, make_merge_table(parts.vocab, merges, place));
  return std::unique_ptr<Tokenizer>(
      std::make_unique<BpeTokenizer>(std::move(parts), std::move(pre), std::move(table), options));
}

}  // namespace pare
