// One case through one engine: what it answers, and how far its predictions are from a reference's on the same tokens.
//
// Both engines read the same prompt. The reference answers greedily; its answer is then told to the candidate token by
// token (Request::forced), so that selectors are met while the prompt is read and KV policies in every decode step.
// Engines run one sequence at a time, without prefix sharing, and nothing else. Calls are from the engine's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "eval/prompt.h"
#include "pare/engine.h"

namespace pare {

// What reading and answering cost. Pairs are 0 on an accelerator, which does not count them.
struct ProbeCost {
  int64_t prompt_pairs = 0, decode_pairs = 0;  // query-key pairs: until the first token, and after it
  int64_t decode_rows = 0;
  // KV bytes: the most that a step of this engine held so far, which is while the prompt is read; and before the last
  // step of the answer, when a policy has let go what it does not keep.
  int64_t kv_bytes_peak = 0, kv_bytes_held = 0;
  double ttft_ms = 0;
};

// Logits of rows of one sequence, each with the token that stands or is told after it.
struct ScoredRows {
  std::vector<float> logits;    // [rows][vocab]
  std::vector<TokenId> tokens;  // [rows]
};

struct ReferenceAnswer {
  std::vector<TokenId> tokens;  // of the answer proper, an end token included
  std::string text;
  bool ended = false;  // by an end token
  ScoredRows scored;   // the first tokens of the answer, at most as many as asked for
  // Of the prompt's own tokens from position `prompt_from` on; empty unless that was asked for.
  std::vector<double> prompt_nll;
  ProbeCost cost;
};

struct Comparison {
  std::vector<double> kl;     // KL(reference || candidate) in nats, one a scored token
  std::vector<uint8_t> same;  // whether both find the same token most likely
  // The candidate's most likely token, and how far the second stands below it (top_margin).
  std::vector<TokenId> likeliest;
  std::vector<double> margin;
  // Log-likelihood of the scored tokens under the candidate, negated, in nats.
  std::vector<double> nll;
  std::vector<uint8_t> hit;        // whether the candidate finds the scored token most likely
  std::vector<double> prompt_nll;  // as above
  ProbeCost cost;
};

// Asked between steps; true: stop (kCancelled).
using ProbeStop = std::function<bool()>;

// The greedy answer, at most `max_tokens` long, with the logits of its first `scored_max` tokens.
Expected<ReferenceAnswer> answer_case(Engine& engine, const PromptIds& ids, int32_t max_tokens, int32_t scored_max,
                                      const ProbeStop& stop);
// The logits that lead to the tokens `rest`, told after the prompt. prompt_from: 0, or the first position of the prompt
// whose token is scored too.
Expected<ReferenceAnswer> tell_case(Engine& engine, const PromptIds& ids, const std::vector<TokenId>& rest,
                                    int32_t prompt_from, const ProbeStop& stop);
// The tokens of `reference` told to `engine`, row by row against it.
Expected<Comparison> compare_case(Engine& engine, const PromptIds& ids, const ScoredRows& reference,
                                  int32_t prompt_from, const ProbeStop& stop);

// Over one row each; spans of equal size, not empty.
double log_sum_exp(std::span<const float> logits);
double kl_divergence(std::span<const float> reference, std::span<const float> candidate);
TokenId most_likely(std::span<const float> logits);  // ties: the lowest id
// The largest logit less the second largest: by as many nats the first token is likelier. 0 for a row of one.
double top_margin(std::span<const float> logits);

}  // namespace pare
