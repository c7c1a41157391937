// A request to generate text, and what comes back. Plain values: nothing here is shared between requests.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/status.h"

namespace pare {

using RequestId = uint64_t;

// How the next token is chosen. Order: logit bias, repetition penalty, frequency and presence penalties, top-k,
// typical, top-p, min-p, temperature, draw. Ties go to the lowest id.
struct SamplingParams {
  float temperature = 0.0f;         // [0, 100]; 0 is greedy
  int32_t top_k = 0;                // >= 0; 0 = all
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  float typical_p = 1.0f;           // (0, 1]
  float repetition_penalty = 1.0f;  // (0, 100]; counts prompt and answer
  float frequency_penalty = 0.0f;   // [-100, 100]; counts the answer
  float presence_penalty = 0.0f;    // [-100, 100]; counts the answer
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
};

// Logits of one row as the model gave them: row `position` predicts the token at position + 1. Valid in the call only.
using LogitObserver = std::function<void(int32_t branch, int32_t position, std::span<const float> logits)>;

struct Request {
  std::vector<int32_t> tokens;  // the prompt, at least one
  int32_t max_tokens = 256;     // per sample, >= 1; the context bounds it too
  int32_t samples = 1;          // branches that share the prompt's KV
  SamplingParams sampling;
  std::vector<std::string> stop;  // generation ends before any of these texts
  bool ignore_eos = false;
  // The first tokens of every answer, taken in place of what would have been drawn: the model reads them one decode
  // step each, as if it had chosen them (teacher forcing). At most max_tokens; they end an answer as drawn ones do. Not
  // with logprobs or penalties, which are of what was drawn.
  std::vector<int32_t> forced;
  int32_t logprobs = -1;        // -1: none; n >= 0: of the chosen token and of the n most likely
  bool observe_prompt = false;  // on_logits sees every prompt row too, once, as branch 0's (perplexity)
  int32_t observe_from = 0;     // with observe_prompt: the first row that on_logits sees, in [0, tokens)
  // With observe_prompt: a selector that leaves keys out for the sake of the last rows (Caps::dense_prompts) reads this
  // prompt densely, since its inner rows predict nothing that the model would; true: as it reads any other.
  bool observe_sparse = false;
  LogitObserver on_logits;  // may be empty
};

// Every field within the ranges above and within base/limits.h; ids in [0, vocab). Errors name field and value.
Status validate(const Request& request, int32_t vocab, int32_t context_max);

enum class FinishReason : uint8_t { kNone, kStopToken, kStopString, kLength, kCancelled, kFailed };
std::string_view finish_reason_name(FinishReason reason);

struct TokenLogprob {
  int32_t id = -1;
  float logprob = 0.0f;
};

// One new token of one branch, or its end. Views are valid in the call only.
struct TokenEvent {
  RequestId request = 0;
  int32_t branch = 0;
  int32_t token = -1;     // -1: no token came with this event
  std::string_view text;  // text that became certain; "" while a code point or a stop string is open
  float logprob = 0.0f;   // when logprobs >= 0
  std::span<const TokenLogprob> top;
  FinishReason finish = FinishReason::kNone;
  const Status* error = nullptr;  // when finish is kFailed
};
// Called from Engine::step, on its thread. Must not call the engine except cancel().
using EventSink = std::function<void(const TokenEvent&)>;

// What a request cost; final once its last branch has finished.
struct RequestStats {
  int32_t prompt_tokens = 0, cached_tokens = 0;  // of the prompt, taken over from the prefix cache
  int32_t generated_tokens = 0;                  // all branches
  int32_t preemptions = 0;
  // Some selector read the prompt densely: shorter than its min_tokens; log-probabilities of the prompt were wanted.
  bool dense_short = false, dense_observed = false;
  bool whole_short = false;  // every row of some answer stayed whole: fewer than the KV policy's min_tokens
  double queue_ms = 0, ttft_ms = 0, decode_ms = 0;  // submit to first step; submit to first token; first to last token
};

}  // namespace pare
