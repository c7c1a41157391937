#include "eval/probe.h"

#include <algorithm>
#include <cmath>

namespace pare {
namespace {

struct RunResult {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  ProbeCost cost;
};

Expected<RunResult> run_request(Engine& engine, Request request, const ProbeStop& stop) {
  RunResult result;
  Status failure;
  const EngineStats before = engine.stats();
  EngineStats at_first = before;
  bool first = true;
  PARE_ASSIGN_OR_RETURN(const RequestId id, engine.submit(std::move(request), [&](const TokenEvent& event) {
    if (event.token >= 0) result.tokens.push_back(event.token);
    if (event.finish != FinishReason::kNone) result.finish = event.finish;
    if (event.error) failure = *event.error;
  }));
  for (bool stopped = false;;) {
    if (!stopped && stop && stop()) {
      engine.cancel(id);
      stopped = true;
    }
    PARE_ASSIGN_OR_RETURN(const bool more, engine.step());
    const EngineStats now = engine.stats();
    if (first && !result.tokens.empty()) {
      at_first = now;
      first = false;
    }
    if (now.kv_bytes_used > 0) result.cost.kv_bytes_held = now.kv_bytes_used;
    if (!more && stopped) return cancelled("stopped within a case");
    if (!more) break;
  }
  PARE_RETURN_IF_ERROR(failure);
  const EngineStats after = engine.stats();
  PARE_ASSIGN_OR_RETURN(const RequestStats stats, engine.request_stats(id));
  if (first) at_first = after;
  result.cost.prompt_pairs = static_cast<int64_t>(at_first.keys_visited - before.keys_visited);
  result.cost.decode_pairs = static_cast<int64_t>(after.keys_visited - at_first.keys_visited);
  result.cost.decode_rows = static_cast<int64_t>(after.decode_rows - at_first.decode_rows);
  result.cost.kv_bytes_peak = after.kv_bytes_used_peak;
  result.cost.ttft_ms = stats.ttft_ms;
  return result;
}

// Rows first_row .. first_row + rows - 1 of one request, appended to `out` as they come.
LogitObserver keep_rows(int32_t first_row, int32_t rows, std::vector<float>* out) {
  return [=](int32_t, int32_t position, std::span<const float> logits) {
    if (position >= first_row && position < first_row + rows) out->insert(out->end(), logits.begin(), logits.end());
  };
}

Request told_request(const PromptIds& ids, const std::vector<TokenId>& rest) {
  Request request;
  request.tokens = ids.prompt;
  request.forced = ids.told;
  request.forced.insert(request.forced.end(), rest.begin(), rest.end());
  request.max_tokens = static_cast<int32_t>(request.forced.size());
  request.ignore_eos = true;
  return request;
}

// Has `request` show the prompt's rows that lead to its tokens from `from` on.
void observe_prompt(Request* request, int32_t from) {
  if (from < 1) return;
  request->observe_prompt = true;
  request->observe_from = from - 1;
}

// What the row at `position` says about the prompt's next token, if that is scored.
void score_prompt_row(const PromptIds& ids, int32_t from, int32_t position, std::span<const float> logits,
                      std::vector<double>* nll) {
  const auto next = static_cast<size_t>(position) + 1;
  if (from < 1 || position < from - 1 || next >= ids.prompt.size()) return;
  nll->push_back(log_sum_exp(logits) - logits[static_cast<size_t>(ids.prompt[next])]);
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - max);
  return max + std::log(sum);
}

double kl_divergence(std::span<const float> reference, std::span<const float> candidate) {
  const double log_p = log_sum_exp(reference), log_q = log_sum_exp(candidate);
  double sum = 0.0;
  for (size_t v = 0; v < reference.size(); ++v) {
    const double lp = reference[v] - log_p, p = std::exp(lp);
    if (p > 0) sum += p * (lp - (candidate[v] - log_q));
  }
  // Rounding leaves tiny negative sums where the two are equal but for the last bits.
  return std::max(0.0, sum);
}

TokenId most_likely(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double top_margin(std::span<const float> logits) {
  if (logits.size() < 2) return 0.0;
  float first = std::max(logits[0], logits[1]), second = std::min(logits[0], logits[1]);
  for (const float x : logits.subspan(2)) {
    second = std::max(second, std::min(x, first));
    first = std::max(first, x);
  }
  return static_cast<double>(first) - second;
}

Expected<ReferenceAnswer> answer_case(Engine& engine, const PromptIds& ids, int32_t max_tokens, int32_t scored_max,
                                      const ProbeStop& stop) {
  Request request;
  request.tokens = ids.prompt;
  request.forced = ids.told;
  request.max_tokens = static_cast<int32_t>(ids.told.size()) + max_tokens;
  ReferenceAnswer answer;
  // Row p predicts position p + 1: the first token of the answer proper stands at ids.size().
  if (scored_max > 0) {
    request.on_logits = keep_rows(static_cast<int32_t>(ids.size()) - 1, scored_max, &answer.scored.logits);
  }
  // Told turns hold end tokens of their own, which must not end the answer. Without them the engine itself stops.
  const auto ends = engine.model().tokenizer->end_of_generation();
  request.ignore_eos = !ids.told.empty();
  const auto is_end = [&](TokenId id) { return std::binary_search(ends.begin(), ends.end(), id); };
  PARE_ASSIGN_OR_RETURN(RunResult run, run_request(engine, std::move(request), stop));
  answer.tokens.assign(run.tokens.begin() + static_cast<std::ptrdiff_t>(std::min(run.tokens.size(), ids.told.size())),
                       run.tokens.end());
  const auto end = std::find_if(answer.tokens.begin(), answer.tokens.end(), is_end);
  answer.ended = end != answer.tokens.end();
  answer.text = engine.model().tokenizer->decode(std::span(answer.tokens.data(), end - answer.tokens.begin()));
  if (answer.ended) answer.tokens.erase(end + 1, answer.tokens.end());
  const size_t scored = std::min(answer.tokens.size(), static_cast<size_t>(scored_max));
  answer.scored.tokens.assign(answer.tokens.begin(), answer.tokens.begin() + static_cast<std::ptrdiff_t>(scored));
  answer.scored.logits.resize(scored * static_cast<size_t>(engine.model().model->config().vocab));
  answer.cost = run.cost;
  return answer;
}

Expected<ReferenceAnswer> tell_case(Engine& engine, const PromptIds& ids, const std::vector<TokenId>& rest,
                                    int32_t prompt_from, const ProbeStop& stop) {
  ReferenceAnswer answer;
  Request request = told_request(ids, rest);
  observe_prompt(&request, prompt_from);
  const auto first_row = static_cast<int32_t>(ids.size()) - 1;
  request.on_logits = [&, keep = keep_rows(first_row, static_cast<int32_t>(rest.size()), &answer.scored.logits)](
                          int32_t branch, int32_t position, std::span<const float> logits) {
    keep(branch, position, logits);
    score_prompt_row(ids, prompt_from, position, logits, &answer.prompt_nll);
  };
  PARE_ASSIGN_OR_RETURN(const RunResult run, run_request(engine, std::move(request), stop));
  answer.tokens = answer.scored.tokens = rest;
  answer.cost = run.cost;
  return answer;
}

Expected<Comparison> compare_case(Engine& engine, const PromptIds& ids, const ScoredRows& reference,
                                  int32_t prompt_from, const ProbeStop& stop) {
  Comparison c;
  Request request = told_request(ids, reference.tokens);
  observe_prompt(&request, prompt_from);
  const auto vocab = static_cast<size_t>(engine.model().model->config().vocab);
  const auto first_row = static_cast<int32_t>(ids.size()) - 1;
  const auto rows = static_cast<int32_t>(reference.tokens.size());
  request.on_logits = [&](int32_t, int32_t position, std::span<const float> logits) {
    score_prompt_row(ids, prompt_from, position, logits, &c.prompt_nll);
    const int32_t i = position - first_row;
    if (i < 0 || i >= rows) return;
    const std::span<const float> expected(reference.logits.data() + static_cast<size_t>(i) * vocab, vocab);
    const TokenId token = reference.tokens[static_cast<size_t>(i)];
#ifdef PARE_FAULT_EVAL_KL_REVERSED
    c.kl.push_back(kl_divergence(logits, expected));
#else
    c.kl.push_back(kl_divergence(expected, logits));
#endif
    c.likeliest.push_back(most_likely(logits));
    c.margin.push_back(top_margin(logits));
    c.same.push_back(most_likely(expected) == c.likeliest.back());
    c.nll.push_back(log_sum_exp(logits) - logits[static_cast<size_t>(token)]);
    c.hit.push_back(c.likeliest.back() == token);
  };
  PARE_ASSIGN_OR_RETURN(const RunResult run, run_request(engine, std::move(request), stop));
  if (c.kl.size() != static_cast<size_t>(rows)) return internal_error("an engine showed too few rows of logits");
  c.cost = run.cost;
  return c;
}

}  // namespace pare
