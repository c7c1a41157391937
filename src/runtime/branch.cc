#include "runtime/branch.h"

#include <algorithm>

namespace pare {
namespace {

// Ids of the prompt, each once, ascending, with a count of zero: the repetition penalty alone sees them.
void count_prompt(std::span<const int32_t> prompt, std::vector<ops::TokenCount>* counts) {
  for (int32_t id : prompt) counts->push_back({id, 0});
  std::sort(counts->begin(), counts->end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  counts->erase(std::unique(counts->begin(), counts->end(), [](const auto& a, const auto& b) { return a.id == b.id; }),
                counts->end());
}

}  // namespace

Branch::Branch(std::shared_ptr<ActiveRequest> request, int32_t branch_index, int32_t tokens_max,
               const Tokenizer* tokenizer)
    : owner(std::move(request)),
      index(branch_index),
      prompt_len(static_cast<int32_t>(owner->request.tokens.size())),
      total_max(tokens_max),
      text(tokenizer, owner->request.stop) {
  if (owner->request.observe_prompt) observed = owner->request.observe_from;
  tokens.reserve(total_max);
  tokens = owner->request.tokens;
  if (!owner->penalized) return;
  counts.reserve(total_max);
  count_prompt(tokens, &counts);
}

int32_t Branch::forced_at(size_t position) const {
  const std::vector<int32_t>& forced = owner->request.forced;
  const auto first = static_cast<size_t>(prompt_len);
  return position >= first && position - first < forced.size() ? forced[position - first] : -1;
}

void Branch::add_token(int32_t id) {
  tokens.push_back(id);
  if (!owner->penalized) return;
  const auto at = std::lower_bound(counts.begin(), counts.end(), id,
                                   [](const ops::TokenCount& entry, int32_t key) { return entry.id < key; });
  if (at != counts.end() && at->id == id) {
    ++at->count;
  } else {
    counts.insert(at, {id, 1});
  }
}

ops::SampleRow Branch::sample_row(int64_t logits_row, int32_t position, const int32_t* uncounted) const {
  const SamplingParams& s = owner->request.sampling;
  ops::SampleRow row;
  row.logits_row = logits_row;
  row.temperature = s.temperature;
  row.top_p = s.top_p;
  row.min_p = s.min_p;
  row.typical_p = s.typical_p;
  row.repetition = s.repetition_penalty;
  row.frequency = s.frequency_penalty;
  row.presence = s.presence_penalty;
  row.top_k = s.top_k;
  row.seed = s.seed;
  row.slot = slot;
  row.branch = index;
  row.position = position;
  row.counts = counts.data();
  row.n_counts = static_cast<int32_t>(counts.size());
  if (owner->penalized) row.uncounted = uncounted;
  row.bias = owner->bias.data();
  row.n_bias = static_cast<int32_t>(owner->bias.size());
  row.wants_logprob = owner->request.logprobs >= 0;
  row.n_top = std::max(0, owner->request.logprobs);
  return row;
}

}  // namespace pare
