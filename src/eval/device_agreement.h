// Whether two engines over the same weights say the same: one on the CPU and one on a card, or any two configurations
// whose answers should be equal up to rounding.
//
// Prompt by prompt the reference answers greedily. Its answer is told to the other engine token by token
// (Request::forced), so that all positions are compared in the same context; then the other engine answers by itself,
// which shows how long both stay together. Both engines run one sequence at a time, without prefix sharing. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/probe.h"
#include "eval/tasks/haystack.h"

namespace pare {

// One told position at which the two find different tokens most likely. A near tie has a margin that is not much more
// than the gap; a fault seldom has.
struct Disagreement {
  int32_t prompt = 0;                // index into Agreement::prompts
  int32_t position = 0;              // in the answer, from 0
  TokenId reference = 0, other = 0;  // most likely for each
  // Log-probability of its most likely token over that of its second, in nats, for each.
  double reference_margin = 0, other_margin = 0;
  double gap = 0;  // as Agreement::gap
};

struct AgreementPrompt {
  uint64_t seed = 0;
  int32_t prompt_tokens = 0;
  int32_t answer_tokens = 0;  // told; an end token included
  int32_t agreed = 0;         // told positions at which both find the same token most likely
  int32_t diverged_at = -1;   // first position at which the other's own answer differs; -1: nowhere
};

struct Agreement {
  std::vector<AgreementPrompt> prompts;
  std::vector<Disagreement> disagreements;
  // Over all told positions, in order, in nats: |log p(token) of the reference - of the other| of the reference's
  // token; KL(reference || other).
  std::vector<double> gap, kl;

  int64_t positions() const { return static_cast<int64_t>(gap.size()); }
  int64_t agreed() const { return positions() - static_cast<int64_t>(disagreements.size()); }
};

// Compares on one prompt and adds what was found; an error or a stop (kCancelled) leaves `found` as it was. At most
// `answer_tokens` are told. `seed` is only written down.
Status compare_devices(Engine& reference, Engine& other, const PromptIds& prompt, uint64_t seed, int32_t answer_tokens,
                       const ProbeStop& stop, Agreement* found);

// `tokens` tokens of sentences of the haystack, as the tokenizer begins a text (BOS where it adds one). A function of
// the seed, the haystack and the tokenizer. `tokens` is at least 1.
Expected<PromptIds> text_prompt(const Tokenizer& tokenizer, const Haystack& haystack, uint64_t seed, int32_t tokens);

// Mean, smallest value that no less than 99 percent do not exceed, and largest; all 0 for an empty sample.
struct GapSpread {
  double mean = 0, p99 = 0, max = 0;
};
GapSpread gap_spread(std::vector<double> sample);

}  // namespace pare
