// A random sequence that stands twice in a context, `distance` tokens apart: a model that retrieves predicts the second
// copy, one that does not is at the mercy of chance (ln of the number of words, at best, in nats).
#pragma once

#include <cstdint>
#include <vector>

#include "pare/status.h"
#include "text/tokenizer.h"

namespace pare {

inline constexpr int32_t kCopyHalf = 64;  // tokens of the second copy in the prompt, and as many told in decode steps
inline constexpr int32_t kCopyLead = 8;   // of those in the prompt, the first: too few to know what is repeated

struct CopyCase {
  // BOS if the model has one, random tokens, the first copy somewhere in them, and the first half of the second copy.
  std::vector<TokenId> prompt;
  std::vector<TokenId> rest;  // the second half
  int32_t scored_from = 0;    // prompt position of the first token whose prediction counts
};

// `length` tokens of prompt. Tokens are independent and uniform over 2,048 common words of the vocabulary (those of
// " " and lower-case letters with the lowest ids), over all its ordinary entries where it has too few. kInvalidArgument
// unless 2 * kCopyHalf <= distance <= length - kCopyHalf - 1.
Expected<CopyCase> make_copy(const Tokenizer& tokenizer, uint64_t seed, int32_t length, int32_t distance);

}  // namespace pare
