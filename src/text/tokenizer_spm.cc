// SentencePiece-style BPE: the text with its spaces as U+2581, merged by score; what is no token falls back
// to bytes.
#include <array>
#include <bit>
#include <bitset>

#include "text/symbol_merge.h"
#include "text/tokenizer_base.h"
#include "text/utf8.h"

namespace pare {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t hit = std::min(text.find(from, at), text.size());
    out.append(text.substr(at, hit - at));
    at = hit;
    if (hit < text.size()) {
      out.append(to);
      at += from.size();
    }
  }
  return out;
}

// Smaller for a higher score, in the order of floats; the two zeros are equal.
uint32_t priority_of(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);
  return ~(bits >> 31 != 0 ? ~bits : bits | 0x8000'0000u);
}

class SpmTokenizer final : public TokenizerBase {
 public:
  SpmTokenizer(TokenizerParts parts, PairTable merges, bool by_rank, bool add_space_prefix)
      : TokenizerBase(std::move(parts), add_space_prefix),
        merges_(std::move(merges)),
        by_rank_(by_rank),
        add_space_prefix_(add_space_prefix) {
    byte_ids_.fill(kNoToken);
    for (TokenId id = 0; id < vocab().size(); ++id) {
      const std::string_view text = vocab().text(id);
      switch (vocab().kind(id)) {
        case TokenKind::kNormal: pieces_.append(replace_all(text, kSpace, " ")); break;
        case TokenKind::kByte: {
          const int byte = byte_of_spelling(text);
          const char piece = static_cast<char>(byte);
          pieces_.append(byte < 0 ? std::string_view() : std::string_view(&piece, 1));
          if (byte >= 0) byte_ids_[static_cast<size_t>(byte)] = id;
          break;
        }
        case TokenKind::kUnused: pieces_.append({}); break;
        default: pieces_.append(text);
      }
      for (size_t at = text.find(kSpace, 1); at != text.npos; at = text.find(kSpace, at + 1)) {
        before_space_.set(static_cast<unsigned char>(text[at - 1]));
      }
    }
  }

  std::string_view family() const override { return "spm"; }
  std::string_view pre_tokenizer() const override { return ""; }

 protected:
  Status encode_stretch(std::string_view text, bool first, std::vector<TokenId>* out, uint64_t* steps) const override {
    std::string escaped = add_space_prefix_ && first ? std::string(kSpace) : std::string();
    escaped += replace_all(text, " ", kSpace);
    SymbolMerger merger;
    // No merge crosses a place before U+2581 where no token could span it, so such places cut the work into
    // words.
    size_t begin = 0;
    for (size_t at = escaped.find(kSpace, 1); at != escaped.npos; at = escaped.find(kSpace, at + 1)) {
      if (before_space_.test(static_cast<unsigned char>(escaped[at - 1]))) continue;
      encode_word(std::string_view(escaped).substr(begin, at - begin), &merger, out, steps);
      begin = at;
    }
    encode_word(std::string_view(escaped).substr(begin), &merger, out, steps);
    return ok_status();
  }

 private:
  // Token that text may become. Control, unknown and byte tokens are never made from text that spells them.
  TokenId mergeable(std::string_view text) const {
    if (text.size() > vocab().longest_bytes()) return kNoToken;
    const TokenId id = vocab().find(text);
    if (id == kNoToken) return kNoToken;
    const TokenKind kind = vocab().kind(id);
    const bool ordinary = kind == TokenKind::kNormal || kind == TokenKind::kUserDefined || kind == TokenKind::kUnused;
    return ordinary ? id : kNoToken;
  }

  void encode_word(std::string_view word, SymbolMerger* merger, std::vector<TokenId>* out, uint64_t* steps) const {
    merger->clear();
    for (size_t at = 0; at < word.size();) {
      const size_t size = utf8_step(word, at).size;
      merger->add(static_cast<uint32_t>(at), static_cast<uint32_t>(size), mergeable(word.substr(at, size)));
      at += size;
    }
    const auto by_score = [this, word](const Symbol& left, const Symbol& right) -> MergeResult {
      const TokenId id = mergeable(word.substr(left.begin, left.size + right.size));
      if (id == kNoToken) return {0, kNoToken};
      return {priority_of(parts().scores[static_cast<size_t>(id)]), id};
    };
    const auto by_rank = [this](const Symbol& left, const Symbol& right) -> MergeResult {
      const auto* merge = merges_.find(static_cast<uint32_t>(left.id), static_cast<uint32_t>(right.id));
      return merge == nullptr ? MergeResult{0, kNoToken} : MergeResult{merge->rank, merge->id};
    };
    if (by_rank_) {
      merger->run(by_rank, steps);
    } else {
      merger->run(by_score, steps);
    }
    for (uint32_t i = 0; i != kNoSymbol; i = merger->symbols[i].next) emit(word, merger->symbols[i], out);
  }

  void emit(std::string_view word, const Symbol& symbol, std::vector<TokenId>* out) const {
    if (symbol.id != kNoToken) {
      out->push_back(symbol.id);
      return;
    }
    const size_t before = out->size();
    for (const char c : word.substr(symbol.begin, symbol.size)) {
      const TokenId id = byte_ids_[static_cast<unsigned char>(c)];
      if (id == kNoToken) {
        out->resize(before);
        if (parts().unk != kNoToken) out->push_back(parts().unk);
        return;
      }
      out->push_back(id);
    }
  }

  PairTable merges_;
  std::array<TokenId, 256> byte_ids_;
  std::bitset<256> before_space_;  // bytes that stand before U+2581 inside some token
  bool by_rank_, add_space_prefix_;
};

}  // namespace

Expected<std::unique_ptr<Tokenizer>> make_spm(TokenizerParts parts, const SpmOptions& options, std::string_view place) {
  PARE_ASSIGN_OR_RETURN(PairTable merges, make_merge_table(parts.vocab, options.merges, place));
  return std::unique_ptr<Tokenizer>(std::make_unique<SpmTokenizer>(std::move(parts), std::move(merges),
                                                                   !options.merges.empty(), options.add_space_prefix));
}

}  // namespace pare
