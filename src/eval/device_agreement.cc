#include "eval/device_agreement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/checked.h"

namespace pare {
namespace {

// The first position at which two answers differ; -1 when one begins with the other, which is then its end.
int32_t first_difference(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  const auto [at, other] =
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())), b.begin());
  const auto i = static_cast<size_t>(at - a.begin());
  return i == std::min(a.size(), b.size()) ? -1 : static_cast<int32_t>(i);
}

}  // namespace

Status compare_devices(Engine& reference, Engine& other, const PromptIds& prompt, uint64_t seed, int32_t answer_tokens,
                       const ProbeStop& stop, Agreement* found) {
  PARE_ASSIGN_OR_RETURN(ReferenceAnswer answer, answer_case(reference, prompt, answer_tokens, answer_tokens, stop));
#ifdef PARE_FAULT_EVAL_DEVICES_SHIFTED
  std::rotate(answer.scored.tokens.begin(), answer.scored.tokens.begin() + 1, answer.scored.tokens.end());
#endif
  PARE_ASSIGN_OR_RETURN(const Comparison told, compare_case(other, prompt, answer.scored, 0, stop));
  PARE_ASSIGN_OR_RETURN(const ReferenceAnswer own, answer_case(other, prompt, answer_tokens, 0, stop));

  AgreementPrompt p;
  p.seed = seed;
  p.prompt_tokens = static_cast<int32_t>(prompt.size());
  p.answer_tokens = static_cast<int32_t>(answer.scored.tokens.size());
  p.diverged_at = first_difference(answer.tokens, own.tokens);
  const auto vocab = static_cast<size_t>(reference.model().model->config().vocab);
  for (size_t i = 0; i < answer.scored.tokens.size(); ++i) {
    const std::span<const float> row(answer.scored.logits.data() + i * vocab, vocab);
    const double nll = log_sum_exp(row) - row[static_cast<size_t>(answer.scored.tokens[i])];
    const double gap = std::abs(told.nll[i] - nll);
    found->gap.push_back(gap);
    found->kl.push_back(told.kl[i]);
    if (told.same[i] != 0) {
      ++p.agreed;
      continue;
    }
    found->disagreements.push_back({.prompt = static_cast<int32_t>(found->prompts.size()),
                                    .position = static_cast<int32_t>(i),
                                    .reference = most_likely(row),
                                    .other = told.likeliest[i],
                                    .reference_margin = top_margin(row),
                                    .other_margin = told.margin[i],
                                    .gap = gap});
  }
  found->prompts.push_back(p);
  return ok_status();
}

Expected<PromptIds> text_prompt(const Tokenizer& tokenizer, const Haystack& haystack, uint64_t seed, int32_t tokens) {
  EncodeOptions options;
  options.parse_special = false;
  PromptIds ids;
  // A sentence is some tokens at least: the number grows until there are enough.
  for (int64_t sentences = tokens / 16 + 8;; sentences *= 2) {
    std::string text;
    for (const std::string& sentence : haystack.sentences(seed, sentences)) {
      if (!text.empty()) text += ' ';
      text += sentence;
    }
    PARE_ASSIGN_OR_RETURN(ids.prompt, tokenizer.encode(text, options));
    if (ids.prompt.size() >= static_cast<size_t>(tokens)) break;
    if (sentences > int64_t{16} * tokens + 64) return internal_error("sentences without tokens");
  }
  ids.prompt.resize(static_cast<size_t>(tokens));
  return ids;
}

GapSpread gap_spread(std::vector<double> sample) {
  if (sample.empty()) return {};
  std::sort(sample.begin(), sample.end());
  const size_t n = sample.size();
  return {std::accumulate(sample.begin(), sample.end(), 0.0) / static_cast<double>(n),
          sample[ceil_div<size_t>(99 * n, 100) - 1], sample.back()};
}

}  // namespace pare
