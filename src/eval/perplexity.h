// Perplexity as llama.cpp defines it, and the divergence between two engines on the same text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "pare/engine.h"
#include "text/tokenizer.h"

namespace pare {

// done and total in scored tokens; return false to stop (kCancelled).
using EvalProgress = std::function<bool(int64_t done, int64_t total)>;

struct PerplexityResult {
  double perplexity = 0.0;
  double nll_mean = 0.0, nll_stderr = 0.0;  // natural log, per scored token
  int64_t tokens = 0;                       // scored
  int32_t chunks = 0;
};

// Cuts `ids` into contexts of `context` tokens without overlap; in each, the first token is replaced by `bos` unless
// that is kNoToken, and the tokens of the second half (from context / 2 on) are scored against the logits before them.
// At most `chunks_max` contexts (0: all). observe_sparse: as of Request. Errors: fewer than one context of ids.
Expected<PerplexityResult> perplexity(Engine& engine, std::span<const TokenId> ids, int32_t context, int32_t chunks_max,
                                      TokenId bos, const EvalProgress& progress, bool observe_sparse = false);

struct DivergenceResult {
  double kl_mean = 0.0, kl_stderr = 0.0, kl_max = 0.0;  // KL(reference || candidate), nats per scored token
  double top1_agreement = 0.0;                          // share of tokens with the same most likely id
  double reference_perplexity = 0.0, candidate_perplexity = 0.0;
  int64_t tokens = 0;
};

// Both engines read the same contexts; scored rows as above. Vocabularies must match.
Expected<DivergenceResult> divergence(Engine& reference, Engine& candidate, std::span<const TokenId> ids, int32_t vocab,
                                      int32_t context, int32_t chunks_max, TokenId bos, const EvalProgress& progress,
                                      bool observe_sparse = false);

}  // namespace pare
