#include "ops/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/check.h"
#include "base/rng.h"

namespace pare::ops {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};
struct Weighted {
  float shift;  // |surprise - entropy| of the typical filter
  int32_t index;
};

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

void apply_penalties(const SampleRow& row, int64_t vocab, float* logits) {
  for (int32_t i = 0; i < row.n_bias; ++i) {
    if (row.bias[i].id >= 0 && row.bias[i].id < vocab) logits[row.bias[i].id] += row.bias[i].bias;
  }
  for (int32_t i = 0; i < row.n_counts; ++i) {
    const TokenCount seen = row.counts[i];
    if (seen.id < 0 || seen.id >= vocab) continue;
    float& logit = logits[seen.id];
    logit = logit > 0.0f ? logit / row.repetition : logit * row.repetition;
    if (seen.count > 0) logit -= static_cast<float>(seen.count) * row.frequency + row.presence;
  }
}

void top_logprobs(const float* logits, int64_t vocab, float log_sum, int32_t n_top, std::span<Candidate> heap,
                  TopLogprob* top, int32_t top_cap) {
  // A bounded heap whose front is the least likely of the best seen.
  int32_t kept = 0;
  n_top = std::min<int32_t>(n_top, top_cap);
  for (int64_t i = 0; i < vocab && n_top > 0; ++i) {
    const Candidate c{logits[i], static_cast<int32_t>(i)};
    if (std::isnan(c.logit)) continue;
    if (kept < n_top) {
      heap[kept++] = c;
      std::push_heap(heap.begin(), heap.begin() + kept, more_likely);
    } else if (more_likely(c, heap[0])) {
      std::pop_heap(heap.begin(), heap.begin() + kept, more_likely);
      heap[kept - 1] = c;
      std::push_heap(heap.begin(), heap.begin() + kept, more_likely);
    }
  }
  std::sort_heap(heap.begin(), heap.begin() + kept, more_likely);
  for (int32_t i = 0; i < top_cap; ++i) {
    top[i] = i < kept ? TopLogprob{heap[i].id, heap[i].logit - log_sum} : TopLogprob{-1, 0.0f};
  }
}

// Keeps the candidates whose surprise lies nearest the entropy until they hold typical_p of the mass
// (locally typical sampling, arXiv 2202.00666 §4), then restores the likelihood order.
int64_t keep_typical(float typical_p, std::span<Candidate> c, int64_t n, std::span<Weighted> scratch) {
  double sum = 0.0, weighted = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double e = std::exp(static_cast<double>(c[i].logit) - c[0].logit);
    sum += e;
    weighted += e * (static_cast<double>(c[i].logit) - c[0].logit);
  }
  const double log_sum = std::log(sum), entropy = log_sum - weighted / sum;
  for (int64_t i = 0; i < n; ++i) {
    const double surprise = log_sum - (static_cast<double>(c[i].logit) - c[0].logit);
    scratch[i] = {static_cast<float>(std::fabs(surprise - entropy)), static_cast<int32_t>(i)};
  }
  std::sort(scratch.begin(), scratch.begin() + n, [](const Weighted& a, const Weighted& b) {
    return a.shift < b.shift || (a.shift == b.shift && a.index < b.index);
  });
  double mass = 0.0;
  int64_t kept = 0;
  while (kept < n) {
    mass += std::exp(static_cast<double>(c[scratch[kept].index].logit) - c[0].logit) / sum;
    ++kept;
    if (mass >= typical_p) break;
  }
  std::sort(scratch.begin(), scratch.begin() + kept,
            [](const Weighted& a, const Weighted& b) { return a.index < b.index; });
  for (int64_t i = 0; i < kept; ++i) c[i] = c[scratch[i].index];
  return kept;
}

int32_t draw(const SampleRow& row, int64_t vocab, const float* logits, std::span<Candidate> c,
             std::span<Weighted> scratch) {
  int64_t n = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (logits[i] > -std::numeric_limits<float>::infinity()) c[n++] = {logits[i], static_cast<int32_t>(i)};
  }
  if (n == 0) return -1;
  const auto begin = c.begin();
  if (row.top_k > 0 && row.top_k < n) {
    std::nth_element(begin, begin + row.top_k - 1, begin + n, more_likely);
    n = row.top_k;
  }
  std::sort(begin, begin + n, more_likely);
  if (row.typical_p < 1.0f) n = keep_typical(row.typical_p, c, n, scratch);
  if (row.top_p < 1.0f || row.min_p > 0.0f) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(c[i].logit) - c[0].logit);
    if (row.top_p < 1.0f) {
      double mass = 0.0;
      int64_t kept = 0;
      while (kept < n) {
        mass += std::exp(static_cast<double>(c[kept].logit) - c[0].logit) / sum;
        ++kept;
        if (mass >= row.top_p) break;
      }
      n = kept;
    }
    if (row.min_p > 0.0f) {
      const double floor = std::log(static_cast<double>(row.min_p)) + c[0].logit;
      while (n > 1 && c[n - 1].logit < floor) --n;
    }
  }
  double total = 0.0;
  const auto weight = [&](int64_t i) {
    return std::exp((static_cast<double>(c[i].logit) - c[0].logit) / row.temperature);
  };
  for (int64_t i = 0; i < n; ++i) total += weight(i);
  const auto bits = philox4x32({static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.branch), 0, 0},
                               {static_cast<uint32_t>(row.seed), static_cast<uint32_t>(row.seed >> 32)});
  const double target = uniform_float(bits[0]) * total;
  double below = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    below += weight(i);
    if (target < below) return c[i].id;
  }
  return c[n - 1].id;
}

}  // namespace

size_t sample_workspace_bytes(int threads, int64_t vocab) {
  return threads * (vocab * (sizeof(Candidate) + sizeof(Weighted) + sizeof(float)) + 192);
}

void sample(ExecContext& ctx, const SampleRow* rows, int64_t n, int64_t vocab, float* logits, const SampleOutput& out) {
  if (n == 0) return;
  const size_t mark = ctx.arena.mark();
  const int threads = ctx.pool.threads();
  const auto candidates = ctx.arena.take<Candidate>(vocab * threads);
  const auto weighted = ctx.arena.take<Weighted>(vocab * threads);
  const auto unedited = ctx.arena.take<float>(vocab * threads);
  PARE_CHECK(!candidates.empty() && !weighted.empty() && !unedited.empty());
  const auto one = [&](int64_t r, int thread) {
    const SampleRow& row = rows[r];
    float* x = logits + r * vocab;
    const auto c = candidates.subspan(thread * vocab, vocab);
    const auto w = weighted.subspan(thread * vocab, vocab);
    const bool wants = row.wants_logprob || row.n_top > 0;
    const float log_sum = wants ? ctx.elementwise.log_sum_exp(x, vocab) : 0.0f;
    if (out.top_cap > 0) top_logprobs(x, vocab, log_sum, row.n_top, c, out.top + r * out.top_cap, out.top_cap);
    // Reported log-probabilities are the model's own, so they outlive the edits.
    const bool edits = row.n_bias > 0 || row.n_counts > 0;
    const float* raw = x;
    if (edits && wants) raw = std::copy_n(x, vocab, unedited.data() + thread * vocab) - vocab;
    if (edits) apply_penalties(row, vocab, x);
    int32_t id;
    if (row.temperature == 0.0f) {
      id = static_cast<int32_t>(ctx.elementwise.argmax(x, vocab));
      if (!(x[id] > -std::numeric_limits<float>::infinity())) id = -1;
    } else {
      id = draw(row, vocab, x, c, w);
    }
    out.ids[r] = id;
    if (out.logprobs) out.logprobs[r] = row.wants_logprob && id >= 0 ? raw[id] - log_sum : 0.0f;
  };
  if (n == 1) {
    one(0, 0);
  } else {
    ctx.pool.run(n, one);
  }
  ctx.arena.release(mark);
}

void select_tokens(ExecContext&, const Tensor& known, const Tensor& slots, const Tensor& last_tokens, Tensor& out) {
  const int32_t *value = known.as<int32_t>(), *slot = slots.as<int32_t>(), *last = last_tokens.as<int32_t>();
  int32_t* id = out.as<int32_t>();
  for (int64_t t = 0; t < out.items(); ++t) id[t] = slot[t] < 0 ? value[t] : last[slot[t]];
}

void store_token(ExecContext&, const int32_t* ids, int64_t row, int32_t slot, Tensor& last_tokens) {
  last_tokens.as<int32_t>()[slot] = ids[row];
}

}  // namespace pare::ops
