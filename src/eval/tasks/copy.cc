#include "eval/tasks/copy.h"

#include <fmt/format.h>

#include "eval/tasks/haystack.h"

namespace pare {

Expected<CopyCase> make_copy(const Tokenizer& tokenizer, uint64_t seed, int32_t length, int32_t distance) {
  if (distance < 2 * kCopyHalf || distance > length - kCopyHalf - 1) {
    return invalid_argument(fmt::format("a copy at distance {} in {} tokens, allowed {} to {}", distance, length,
                                        2 * kCopyHalf, length - kCopyHalf - 1));
  }
  std::vector<TokenId> ordinary;
  // Vocabularies of bytes alone have no other tokens.
  for (const TokenKind kind : {TokenKind::kNormal, TokenKind::kByte}) {
    for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
      if (tokenizer.kind(id) == kind) ordinary.push_back(id);
    }
    if (ordinary.size() >= 2) break;
  }
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
