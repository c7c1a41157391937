#include "eval/tasks/copy.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "eval/tasks/haystack.h"

namespace pare {
namespace {

constexpr size_t kWordsMin = 256, kWordsMax = 2048;

bool is_word(const std::string& bytes) {
  return bytes.size() >= 3 && bytes[0] == ' ' &&
         std::all_of(bytes.begin() + 1, bytes.end(), [](char c) { return c >= 'a' && c <= 'z'; });
}

// What is repeated: common words, which stand early in a vocabulary. Vocabularies without words give what they have.
std::vector<TokenId> ordinary_tokens(const Tokenizer& tokenizer) {
  std::vector<TokenId> words, normal, bytes;
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const TokenKind kind = tokenizer.kind(id);
    if (kind == TokenKind::kByte) bytes.push_back(id);
    if (kind != TokenKind::kNormal) continue;
    normal.push_back(id);
    if (words.size() < kWordsMax && is_word(tokenizer.token_bytes(id))) words.push_back(id);
  }
  if (words.size() >= kWordsMin) return words;
  return normal.size() >= 2 ? normal : bytes;
}

}  // namespace

Expected<CopyCase> make_copy(const Tokenizer& tokenizer, uint64_t seed, int32_t length, int32_t distance) {
  if (distance < 2 * kCopyHalf || distance > length - kCopyHalf - 1) {
    return invalid_argument(fmt::format("a copy at distance {} in {} tokens, allowed {} to {}", distance, length,
                                        2 * kCopyHalf, length - kCopyHalf - 1));
  }
  const std::vector<TokenId> ordinary = ordinary_tokens(tokenizer);
  if (ordinary.size() < 2) return invalid_argument("the vocabulary has no ordinary tokens to repeat");
  Philox rng = task_rng(seed, TaskStream::kContent);
  const auto draw = [&] { return ordinary[rng.below(static_cast<uint32_t>(ordinary.size()))]; };
  std::vector<TokenId> copied;
  for (int32_t i = 0; i < 2 * kCopyHalf; ++i) copied.push_back(draw());
  CopyCase c;
  rng = task_rng(seed, TaskStream::kFiller);
  for (int32_t i = 0; i < length; ++i) c.prompt.push_back(draw());
  if (tokenizer.bos() != kNoToken) c.prompt[0] = tokenizer.bos();
  const int32_t second = length - kCopyHalf, first = second - distance;
  for (int32_t i = 0; i < 2 * kCopyHalf; ++i) c.prompt[first + i] = copied[i];
  for (int32_t i = 0; i < kCopyHalf; ++i) c.prompt[second + i] = copied[i];
  c.rest.assign(copied.begin() + kCopyHalf, copied.end());
  c.scored_from = second + kCopyLead;
  return c;
}

}  // namespace pare
