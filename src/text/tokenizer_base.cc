#include "text/tokenizer_base.h"

#include <algorithm>

#include "base/limits.h"

namespace pare {
namespace {

// Spellings of the tokens with which models end a turn or a document.
constexpr std::string_view kEndSpellings[] = {"<|eot_id|>",
                                              "<|im_end|>",
                                              "<|end|>",
                                              "<|return|>",
                                              "<|call|>",
                                              "<end_of_turn>",
                                              "<|endoftext|>",
                                              "</s>",
                                              "<|eom_id|>",
                                              "<EOT>",
                                              "_<EOT>",
                                              "<|end_of_text|>",
                                              "<eos>",
                                              "[EOS]",
                                              "<|EOT|>",
                                              "[EOT]",
                                              "<end_of_utterance>",
                                              "<｜end▁of▁sentence｜>"};

constexpr std::string_view kFillSpellings[] = {
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>",    "<｜fim▁begin｜>", "<PRE>",          "▁<PRE>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>",    "<｜fim▁hole｜>",  "<SUF>",          "▁<SUF>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>",    "<｜fim▁end｜>",   "<MID>",          "▁<MID>",
    "<|fim_pad|>",    "<fim-pad>",    "<fim_pad>",       "<PAD>",           "[PAD]",          "<|fim_repo|>",
    "<|repo_name|>",  "<fim-repo>",   "<REPO>",          "<reponame>",      "<|file_sep|>",   "<|prefix|>",
    "<|suffix|>",     "<|middle|>",   "<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"};

// The white space that strip_left and strip_right swallow.
bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool hidden_in_text(TokenKind kind) { return kind == TokenKind::kControl || kind == TokenKind::kUnknown; }

}  // namespace

bool is_control_spelling(std::string_view text) {
  return std::ranges::count(kEndSpellings, text) > 0 || std::ranges::count(kFillSpellings, text) > 0;
}

void collect_end_of_generation(const std::vector<TokenId>& ids, TokenizerParts* parts) {
  std::vector<TokenId>& out = parts->end_of_generation;
  for (const TokenId id : ids) {
    if (id != kNoToken) out.push_back(id);
  }
  for (const std::string_view spelling : kEndSpellings) {
    const TokenId id = parts->vocab.find(spelling);
    if (id == kNoToken) continue;
    // As an ordinary token it is text that merges happened to build; Gemma's "</s>" is HTML's end of struck
    // text.
    const TokenKind kind = parts->vocab.kind(id);
    if (kind == TokenKind::kControl || (kind == TokenKind::kUserDefined && spelling != "</s>")) out.push_back(id);
  }
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
}

TokenizerBase::TokenizerBase(TokenizerParts parts, bool strip_leading_space)
    : parts_(std::move(parts)), strip_leading_space_(strip_leading_space) {
  for (size_t i = 0; i < parts_.added.size(); ++i) {
    const AddedToken& token = parts_.added[i];
    const auto index = static_cast<TokenId>(i);
    all_added_.insert(token.text, index);
    if (!hidden_in_text(parts_.vocab.kind(token.id))) plain_added_.insert(token.text, index);
  }
}

TokenKind TokenizerBase::kind(TokenId id) const {
  return parts_.vocab.contains(id) ? parts_.vocab.kind(id) : TokenKind::kUnused;
}

std::string_view TokenizerBase::token_text(TokenId id) const {
  return parts_.vocab.contains(id) ? parts_.vocab.text(id) : std::string_view();
}

std::string TokenizerBase::token_bytes(TokenId id, bool special) const {
  if (!parts_.vocab.contains(id)) return "";
  if (!special && hidden_in_text(parts_.vocab.kind(id))) return "";
  return std::string(pieces_[static_cast<size_t>(id)]);
}

std::string TokenizerBase::decode(std::span<const TokenId> ids, bool special) const {
  std::string out;
  bool at_start = strip_leading_space_;
  for (const TokenId id : ids) {
    if (!parts_.vocab.contains(id)) continue;
    const bool hidden = hidden_in_text(parts_.vocab.kind(id));
    if (hidden && !special) continue;
    std::string_view piece = pieces_[static_cast<size_t>(id)];
    if (at_start && !hidden) {
      if (piece.starts_with(' ')) piece.remove_prefix(1);
      at_start = false;
    }
    out.append(piece);
  }
  return out;
}

Status TokenizerBase::encode_body(std::string_view text, bool parse_special, std::vector<TokenId>* out,
                                  uint64_t* steps) const {
  const TokenTrie& added = parse_special ? all_added_ : plain_added_;
  size_t begin = 0;  // of the stretch that no added token has claimed
  bool first = true;
  const auto flush = [&](size_t end) -> Status {
    if (end <= begin) return ok_status();
    const Status status = encode_stretch(text.substr(begin, end - begin), first, out, steps);
    first = false;
    return status;
  };
  for (size_t at = 0; at < text.size() && !added.empty();) {
    if (!added.starts(text[at])) {
      ++at;
      continue;
    }
    const TokenTrie::Match match = added.longest(text, at, TokenTrie::kRoot, steps);
    if (match.id == kNoToken) {
      ++at;
      continue;
    }
    const AddedToken& token = parts_.added[static_cast<size_t>(match.id)];
    size_t end = at;
    while (token.strip_left && end > begin && is_ascii_space(text[end - 1])) --end;
    PARE_RETURN_IF_ERROR(flush(end));
    out->push_back(token.id);
    first = true;
    at += match.size;
    while (token.strip_right && at < text.size() && is_ascii_space(text[at])) ++at;
    begin = at;
  }
  return flush(text.size());
}

Expected<std::vector<TokenId>> TokenizerBase::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > static_cast<size_t>(kMaxPromptBytes)) {
    return invalid_argument("the prompt has " + std::to_string(text.size()) + " bytes, limit " +
                            std::to_string(kMaxPromptBytes));
  }
  std::vector<TokenId> out;
  out.reserve(text.size() / 3 + 2);
  uint64_t steps = 0;
  if (options.add_special) out.insert(out.end(), parts_.prefix.begin(), parts_.prefix.end());
  PARE_RETURN_IF_ERROR(encode_body(text, options.parse_special, &out, &steps));
  if (options.add_special) out.insert(out.end(), parts_.suffix.begin(), parts_.suffix.end());
  return out;
}

uint64_t TokenizerBase::count_steps(std::string_view text) const {
  std::vector<TokenId> out;
  uint64_t steps = 0;
  (void)encode_body(text, true, &out, &steps);
  return steps;
}

Expected<PairTable> make_merge_table(const Vocab& vocab, const std::vector<Merge>& merges, std::string_view place) {
  if (merges.size() > static_cast<size_t>(kMaxMerges)) {
    return data_loss(std::string(place) + ": " + std::to_string(merges.size()) + " merges, limit " +
                     std::to_string(kMaxMerges));
  }
  PairTable table;
  table.reserve(merges.size());
  std::string joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto fail = [&](const std::string& what) {
      return data_loss(std::string(place) + "[" + std::to_string(i) + "] '" + std::string(merges[i].left) + " " +
                       std::string(merges[i].right) + "': " + what);
    };
    joined.assign(merges[i].left).append(merges[i].right);
    const TokenId left = vocab.find(merges[i].left), right = vocab.find(merges[i].right), both = vocab.find(joined);
    if (left == kNoToken) return fail("the left part is no token");
    if (right == kNoToken) return fail("the right part is no token");
    if (both == kNoToken) return fail("the result is no token");
    if (!table.insert(static_cast<uint32_t>(left), static_cast<uint32_t>(right), {static_cast<uint32_t>(i), both})) {
      return fail("the same merge stands there twice");
    }
  }
  return table;
}

int byte_of_spelling(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const int high = digit(text[3]), low = digit(text[4]);
  return high < 0 || low < 0 ? -1 : 16 * high + low;
}

}  // namespace pare
