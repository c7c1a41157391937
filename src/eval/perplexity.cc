#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace pare {
namespace {

struct Moments {
  double sum = 0.0, squares = 0.0;
  int64_t n = 0;
  void add(double x) {
    sum += x;
    squares += x * x;
    ++n;
  }
  double mean() const { return n > 0 ? sum / static_cast<double>(n) : 0.0; }
  double stderr_of_mean() const {
    if (n < 2) return 0.0;
    const double variance = (squares - sum * mean()) / static_cast<double>(n - 1);
    return std::sqrt(std::max(0.0, variance) / static_cast<double>(n));
  }
};

double log_sum_exp(std::span<const float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float x : logits) sum += std::exp(static_cast<double>(x) - max);
  return max + std::log(sum);
}

// The contexts of a text, as requests that generate nothing worth keeping.
class Chunks {
 public:
  static Expected<Chunks> make(std::span<const TokenId> ids, int32_t context, int32_t chunks_max, TokenId bos) {
    if (context < 4) return invalid_argument(fmt::format("a context of {} tokens has no half to score", context));
    int64_t n = static_cast<int64_t>(ids.size()) / context;
    if (n == 0)
      return invalid_argument(fmt::format("the text has {} tokens, one context takes {}", ids.size(), context));
    if (chunks_max > 0) n = std::min<int64_t>(n, chunks_max);
    return Chunks(ids, context, static_cast<int32_t>(n), bos);
  }

  int32_t count() const { return count_; }
  int32_t first_scored() const { return context_ / 2; }  // the row whose logits predict the first scored token
  int64_t scored_per_chunk() const { return context_ - 1 - first_scored(); }
  int64_t scored() const { return count_ * scored_per_chunk(); }

  std::vector<TokenId> tokens(int32_t chunk) const {
    const auto begin = ids_.begin() + static_cast<int64_t>(chunk) * context_;
    std::vector<TokenId> tokens(begin, begin + context_);
    if (bos_ != kNoToken) tokens[0] = bos_;
    return tokens;
  }

  // Runs one chunk; on_row(row, logits) for every scored row in ascending order.
  template <typename OnRow>
  Status run(Engine& engine, const std::vector<TokenId>& tokens, bool observe_sparse, OnRow&& on_row) const {
    Request request;
    request.tokens = tokens;
    request.max_tokens = 1;
    request.observe_prompt = true;
    request.observe_from = first_scored();
    request.observe_sparse = observe_sparse;
    request.on_logits = [&](int32_t, int32_t row, std::span<const float> logits) {
      if (row >= first_scored() && row + 1 < context_) on_row(row, logits);
    };
    Status failure;
    PARE_RETURN_IF_ERROR(engine
                             .submit(std::move(request),
                                     [&](const TokenEvent& event) {
                                       if (event.error) failure = *event.error;
                                     })
                             .status());
    PARE_RETURN_IF_ERROR(engine.run());
    return failure;
  }

 private:
  Chunks(std::span<const TokenId> ids, int32_t context, int32_t count, TokenId bos)
      : ids_(ids), context_(context), count_(count), bos_(bos) {}
  std::span<const TokenId> ids_;
  int32_t context_, count_;
  TokenId bos_;
};

}  // namespace

Expected<PerplexityResult> perplexity(Engine& engine, std::span<const TokenId> ids, int32_t context, int32_t chunks_max,
                                      TokenId bos, const EvalProgress& progress, bool observe_sparse) {
  PARE_ASSIGN_OR_RETURN(const Chunks chunks, Chunks::make(ids, context, chunks_max, bos));
  Moments nll;
  for (int32_t c = 0; c < chunks.count(); ++c) {
    const std::vector<TokenId> tokens = chunks.tokens(c);
    PARE_RETURN_IF_ERROR(chunks.run(engine, tokens, observe_sparse, [&](int32_t row, std::span<const float> logits) {
      nll.add(log_sum_exp(logits) - logits[tokens[row + 1]]);
    }));
    if (progress && !progress(nll.n, chunks.scored())) return cancelled("stopped between contexts");
  }
  return PerplexityResult{std::exp(nll.mean()), nll.mean(), nll.stderr_of_mean(), nll.n, chunks.count()};
}

Expected<DivergenceResult> divergence(Engine& reference, Engine& candidate, std::span<const TokenId> ids, int32_t vocab,
                                      int32_t context, int32_t chunks_max, TokenId bos, const EvalProgress& progress,
                                      bool observe_sparse) {
  PARE_ASSIGN_OR_RETURN(const Chunks chunks, Chunks::make(ids, context, chunks_max, bos));
  Moments kl, nll_reference, nll_candidate;
  double kl_max = 0.0;
  int64_t same = 0;
  std::vector<float> kept(static_cast<size_t>(chunks.scored_per_chunk()) * vocab);
  std::vector<double> kept_log_sum(chunks.scored_per_chunk());
  for (int32_t c = 0; c < chunks.count(); ++c) {
    const std::vector<TokenId> tokens = chunks.tokens(c);
    PARE_RETURN_IF_ERROR(chunks.run(reference, tokens, observe_sparse, [&](int32_t row, std::span<const float> logits) {
      const int64_t i = row - chunks.first_scored();
      std::copy(logits.begin(), logits.end(), kept.begin() + i * vocab);
      kept_log_sum[i] = log_sum_exp(logits);
      nll_reference.add(kept_log_sum[i] - logits[tokens[row + 1]]);
    }));
    PARE_RETURN_IF_ERROR(chunks.run(candidate, tokens, observe_sparse, [&](int32_t row, std::span<const float> logits) {
      const int64_t i = row - chunks.first_scored();
      const std::span<const float> p(kept.data() + i * vocab, vocab);
      const double log_p = kept_log_sum[i], log_q = log_sum_exp(logits);
      nll_candidate.add(log_q - logits[tokens[row + 1]]);
      double sum = 0.0;
      for (int32_t v = 0; v < vocab; ++v) {
        const double lp = p[v] - log_p;
        sum += std::exp(lp) * (lp - (logits[v] - log_q));
      }
      kl.add(sum);
      kl_max = std::max(kl_max, sum);
      same += std::max_element(p.begin(), p.end()) - p.begin() ==
              std::max_element(logits.begin(), logits.end()) - logits.begin();
    }));
    if (progress && !progress(kl.n, chunks.scored())) return cancelled("stopped between contexts");
  }
  DivergenceResult result;
  result.kl_mean = kl.mean();
  result.kl_stderr = kl.stderr_of_mean();
  result.kl_max = kl_max;
  result.top1_agreement = kl.n > 0 ? static_cast<double>(same) / static_cast<double>(kl.n) : 0.0;
  result.reference_perplexity = std::exp(nll_reference.mean());
  result.candidate_perplexity = std::exp(nll_candidate.mean());
  result.tokens = kl.n;
  return result;
}

}  // namespace pare
