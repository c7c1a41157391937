// BERT's WordPiece: normalized text, cut at spaces and punctuation, then the longest token from the left each
// time.
#include "text/tokenizer_base.h"
#include "text/unicode_normalize.h"
#include "text/utf8.h"

namespace pare {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// The blocks of Chinese characters as BERT's reference lists them.
bool is_cjk(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// ASCII symbols count as punctuation ("$", "+"), others do not.
bool is_isolated(char32_t c) {
  const bool ascii =
      (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) || (c >= 0x7B && c <= 0x7E);
  return ascii || is_punctuation(c);
}

class WordPieceTokenizer final : public TokenizerBase {
 public:
  WordPieceTokenizer(TokenizerParts parts, WordPieceOptions options)
      : TokenizerBase(std::move(parts), true), options_(std::move(options)) {
    for (TokenId id = 0; id < vocab().size(); ++id) {
      const std::string_view text = vocab().text(id);
      const bool normal = vocab().kind(id) == TokenKind::kNormal;
      if (normal) trie_.insert(text, id);
      pieces_.append(normal ? piece_of(text) : std::string(text));
    }
    word_root_ = trie_.walk(options_.word_prefix);
    continuation_root_ = trie_.walk(options_.continuation_prefix);
  }

  std::string_view family() const override { return "wordpiece"; }
  std::string_view pre_tokenizer() const override { return ""; }

 protected:
  Status encode_stretch(std::string_view text, bool, std::vector<TokenId>* out, uint64_t* steps) const override {
    const std::u32string normalized = normalize(text);
    std::string word;
    size_t chars = 0;
    const auto flush = [&] {
      if (!word.empty()) encode_word(word, chars, out, steps);
      word.clear();
      chars = 0;
    };
    for (const char32_t c : normalized) {
      if (is_white_space(c)) {
        flush();
        continue;
      }
      const bool alone = is_isolated(c);
      if (alone) flush();
      utf8_append(c, &word);
      ++chars;
      if (alone) flush();
    }
    flush();
    return ok_status();
  }

 private:
  std::string piece_of(std::string_view text) const {
    const bool starts_word = options_.continuation_prefix.empty() ? text.starts_with(options_.word_prefix)
                                                                  : !text.starts_with(options_.continuation_prefix);
    const std::string& prefix = starts_word ? options_.word_prefix : options_.continuation_prefix;
    std::string piece(starts_word ? " " : "");
    return piece.append(text.substr(prefix.size()));
  }

  std::u32string normalize(std::string_view text) const {
    std::u32string cleaned;
    cleaned.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = utf8_step(text, at);
      at += step.size;
      char32_t c = step.valid ? step.code_point : kReplacement;
      if (options_.clean_text) {
        const bool blank = c == '\t' || c == '\n' || c == '\r';
        if (c == 0 || c == kReplacement || (!blank && is_control(c))) continue;
      }
      // Before the decomposition, which may lead to a block outside of the list.
      if (options_.isolate_cjk && is_cjk(c)) {
        cleaned.append({U' ', c, U' '});
      } else {
        cleaned.push_back(c);
      }
    }
    if (options_.strip_accents) {
      cleaned = to_nfd(cleaned);
      std::erase_if(cleaned, is_nonspacing_mark);
    }
    if (!options_.lowercase) return cleaned;
    std::u32string lower;
    lower.reserve(cleaned.size());
    for (const char32_t c : cleaned) append_lower_case(c, &lower);
    return lower;
  }

  void encode_word(std::string_view word, size_t chars, std::vector<TokenId>* out, uint64_t* steps) const {
    const size_t before = out->size();
    uint32_t root = word_root_;
    for (size_t at = 0; chars <= options_.word_chars_max && at < word.size(); root = continuation_root_) {
      const TokenTrie::Match match = trie_.longest(word, at, root, steps);
      if (match.id == kNoToken) break;
      out->push_back(match.id);
      at += match.size;
      if (at == word.size()) return;
    }
    // One part that is no token makes the whole word unknown.
    out->resize(before);
    if (parts().unk != kNoToken) out->push_back(parts().unk);
  }

  WordPieceOptions options_;
  TokenTrie trie_;
  uint32_t word_root_ = TokenTrie::kNoNode, continuation_root_ = TokenTrie::kNoNode;
};

}  // namespace

Expected<std::unique_ptr<Tokenizer>> make_wordpiece(TokenizerParts parts, const WordPieceOptions& options) {
  return std::unique_ptr<Tokenizer>(std::make_unique<WordPieceTokenizer>(std::move(parts), options));
}

}  // namespace pare
