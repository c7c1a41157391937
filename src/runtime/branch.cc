#include "runtime/branch.h"

#include <algorithm>

namespace pare {
namespace {

bool before(const ops::TokenCount& entry, int32_t id) { return entry.id < id; }

}  // namespace

void Branch::start_counts() {
  counting = true;
  counts.reserve(static_cast<size_t>(total_max) + 1);
  for (int32_t id : tokens) {
    const auto at = std::lower_bound(counts.begin(), counts.end(), id, before);
    if (at == counts.end() || at->id != id) counts.insert(at, {id, 0});
  }
}

void Branch::count_token(int32_t id) {
  if (!counting) return;
  const auto at = std::lower_bound(counts.begin(), counts.end(), id, before);
  if (at != counts.end() && at->id == id) {
    ++at->count;
  } else {
    counts.insert(at, {id, 1});
  }
}

ops::SampleRow Branch::sample_row(int32_t position) const {
  const SamplingParams& s = owner->request.sampling;
  ops::SampleRow row;
  row.temperature = s.temperature;
  row.top_p = s.top_p;
  row.min_p = s.min_p;
  row.typical_p = s.typical_p;
  row.repetition = s.repetition_penalty;
  row.frequency = s.frequency_penalty;
  row.presence = s.presence_penalty;
  row.top_k = s.top_k;
  row.seed = s.seed;
  row.branch = index;
  row.position = position;
  row.counts = counts.data();
  row.n_counts = static_cast<int32_t>(counts.size());
  row.bias = owner->bias.data();
  row.n_bias = static_cast<int32_t>(owner->bias.size());
  row.wants_logprob = owner->request.logprobs >= 0;
  row.n_top = std::max(0, owner->request.logprobs);
  return row;
}

}  // namespace pare
