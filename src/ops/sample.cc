#include "ops/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/check.h"
#include "base/rng.h"
#include "ops/device_ops.h"

namespace pare::ops {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};
struct Weighted {
  double shift;  // |surprise - entropy| of the typical filter
  int32_t index;
};

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

void edit_logits(const SampleRow& row, int64_t vocab, float* logits) {
  for (int32_t i = 0; i < row.n_bias; ++i) {
    if (row.bias[i].id >= 0 && row.bias[i].id < vocab) logits[row.bias[i].id] += row.bias[i].bias;
  }
  const auto penalize = [&](int32_t id, int32_t count) {
    if (id < 0 || id >= vocab) return;
    float& logit = logits[id];
    logit = logit > 0.0f ? logit / row.repetition : logit * row.repetition;
    if (count > 0) logit -= static_cast<float>(count) * row.frequency + row.presence;
  };
  const int32_t uncounted = row.uncounted ? *row.uncounted : -1;
  bool counted = false;
  for (int32_t i = 0; i < row.n_counts; ++i) {
    const bool same = row.counts[i].id == uncounted;
    counted |= same;
    penalize(row.counts[i].id, row.counts[i].count + (same ? 1 : 0));
  }
  if (!counted) penalize(uncounted, 1);
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
int64_t keep_typical(float typical_p, std::span<Candidate> c, std::span<Weighted> scratch) {
  const size_t n = c.size();
  double sum = 0.0, weighted = 0.0;
  for (const Candidate& candidate : c) {
    const double distance = static_cast<double>(candidate.logit) - c[0].logit, e = std::exp(distance);
    sum += e;
    weighted += e * distance;
  }
  const double log_sum = std::log(sum), entropy = log_sum - weighted / sum;
  for (size_t i = 0; i < n; ++i) {
    const double surprise = log_sum - (static_cast<double>(c[i].logit) - c[0].logit);
    scratch[i] = {std::fabs(surprise - entropy), static_cast<int32_t>(i)};
  }
  std::sort(scratch.begin(), scratch.begin() + n, [](const Weighted& a, const Weighted& b) {
    return a.shift < b.shift || (a.shift == b.shift && a.index < b.index);
  });
  double mass = 0.0;
  int64_t kept = 0;
  while (kept < static_cast<int64_t>(n)) {
    mass += std::exp(static_cast<double>(c[scratch[kept].index].logit) - c[0].logit) / sum;
    ++kept;
    if (mass >= typical_p) break;
  }
  std::sort(scratch.begin(), scratch.begin() + kept,
            [](const Weighted& a, const Weighted& b) { return a.index < b.index; });
  for (int64_t i = 0; i < kept; ++i) c[i] = c[scratch[i].index];
  return kept;
}

// Candidates of which only the front is in order: a draw seldom looks beyond the first few of a vocabulary, and
// sorting all 150,000 of one costs as much as a layer.
class LazyOrder {
 public:
  LazyOrder(std::span<Candidate> all, int64_t n) : c_(all), n_(n) {}

  int64_t size() const { return n_; }
  void shrink(int64_t n) { n_ = n; }
  // The i-th most likely; orders what is needed for it.
  const Candidate& operator[](int64_t i) {
    if (i >= ordered_) {
      const int64_t end = std::min(n_, std::max(i + 1, kFirst + kGrowth * ordered_));
      std::partial_sort(c_.begin() + ordered_, c_.begin() + end, c_.begin() + n_, more_likely);
      ordered_ = end;
    }
    return c_[i];
  }
  void sort_all() {
    if (n_ > 0) (*this)[n_ - 1];
  }
  // Only while nothing is in order: keeps the k most likely.
  void keep_top(int64_t k) {
    std::nth_element(c_.begin(), c_.begin() + k - 1, c_.begin() + n_, more_likely);
    n_ = k;
  }
  // In whatever order they lie: by id while nothing is in order, else a fixed permutation.
  std::span<Candidate> items() { return c_.first(n_); }

 private:
  static constexpr int64_t kFirst = 64, kGrowth = 8;
  std::span<Candidate> c_;
  int64_t n_, ordered_ = 0;
};

// exp of a logit's distance from the best one, over t.
double weight(float logit, float best, double t) { return std::exp((static_cast<double>(logit) - best) / t); }

double sum_weights(std::span<const Candidate> c, float best, double t) {
  double sum = 0.0;
  for (const Candidate& candidate : c) sum += weight(candidate.logit, best, t);
  return sum;
}

// How many of the most likely candidates hold top_p of the mass.
int64_t count_top_p(float top_p, float best, LazyOrder& order) {
  const double wanted = top_p * sum_weights(order.items(), best, 1.0);
  double mass = 0.0;
  for (int64_t kept = 0; kept < order.size();) {
    mass += weight(order[kept++].logit, best, 1.0);
    if (mass >= wanted) return kept;
  }
  return order.size();
}

// The first is always kept, whatever rounding says.
int64_t count_min_p(float min_p, float best, LazyOrder& order) {
  const double floor = std::log(static_cast<double>(min_p)) + best;
  int64_t kept = 1;
  while (kept < order.size() && order[kept].logit >= floor) ++kept;
  return kept;
}

int32_t draw(const SampleRow& row, int64_t vocab, const float* logits, std::span<Candidate> c,
             std::span<Weighted> scratch) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  int64_t n = 0;
  Candidate first{-kInfinity, -1};
  for (int64_t i = 0; i < vocab; ++i) {
    if (!(logits[i] > -kInfinity)) continue;
    c[n] = {logits[i], static_cast<int32_t>(i)};
    if (c[n].logit > first.logit) first = c[n];
    ++n;
  }
  // Nothing can be drawn, or nothing else: beside an infinite logit all other mass is zero.
  if (n == 0 || first.logit == kInfinity) return first.id;
  const float best = first.logit;
  LazyOrder order(c, n);
  if (row.top_k > 0 && row.top_k < n) {
    order.keep_top(row.top_k);
    order.sort_all();
  }
  if (row.typical_p < 1.0f) {
    order.sort_all();
    order.shrink(keep_typical(row.typical_p, order.items(), scratch));
  }
  // The typical filter may drop the most likely one.
  const float kept_best = row.typical_p < 1.0f ? order[0].logit : best;
  if (row.top_p < 1.0f) order.shrink(count_top_p(row.top_p, kept_best, order));
  if (row.min_p > 0.0f) order.shrink(count_min_p(row.min_p, kept_best, order));

  const double total = sum_weights(order.items(), kept_best, row.temperature);
#ifdef PARE_FAULT_RUNTIME_SEED_WITHOUT_POSITION
  const uint32_t position = 0;
#else
  const uint32_t position = static_cast<uint32_t>(row.position);
#endif
  const auto bits = philox4x32({position, static_cast<uint32_t>(row.branch), 0, 0},
                               {static_cast<uint32_t>(row.seed), static_cast<uint32_t>(row.seed >> 32)});
  const double target = uniform_float(bits[0]) * total;
  double below = 0.0;
  for (int64_t i = 0; i < order.size(); ++i) {
    below += weight(order[i].logit, kept_best, row.temperature);
    if (target < below) return order[i].id;
  }
  return order[order.size() - 1].id;
}

}  // namespace

size_t sample_workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t vocab) {
  if (ctx.device_ops) return ctx.device_ops->sample_workspace_bytes(rows, vocab);
  const int threads = ctx.pool.threads();
  constexpr size_t kAlignments = 3 * 64;
  return threads * (vocab * (sizeof(Candidate) + sizeof(Weighted) + sizeof(float)) + kAlignments);
}

SampleBatch stage_draws(ExecContext& ctx, const SampleRow* rows, int64_t n) {
  if (ctx.device_ops) return ctx.device_ops->stage(ctx.tables, rows, n);
  return {.rows = rows, .n = n};
}

void sample(ExecContext& ctx, const SampleBatch& batch, const Tensor& logits_tensor, const SampleOutput& out,
            Tensor& last_tokens) {
  if (batch.n == 0) return;
  const int64_t n = batch.n, vocab = logits_tensor.row_items();
  if (ctx.device_ops) return ctx.device_ops->sample(ctx.arena, batch, logits_tensor, out, last_tokens);
  const SampleRow* rows = batch.rows;
  const float* logits = logits_tensor.as<float>();
  const size_t mark = ctx.arena.mark();
  const int threads = ctx.pool.threads();
  const auto candidates = ctx.arena.take<Candidate>(vocab * threads);
  const auto weighted = ctx.arena.take<Weighted>(vocab * threads);
  const auto edited = ctx.arena.take<float>(vocab * threads);
  PARE_CHECK(!candidates.empty() && !weighted.empty() && !edited.empty());
  const auto one = [&](int64_t r, int thread) {
    const SampleRow& row = rows[r];
    const float* raw = logits + row.logits_row * vocab;
    const auto c = candidates.subspan(thread * vocab, vocab);
    const auto w = weighted.subspan(thread * vocab, vocab);
    const bool wants = row.wants_logprob || row.n_top > 0;
    const float log_sum = wants ? ctx.elementwise.log_sum_exp(raw, vocab) : 0.0f;
    if (out.top_cap > 0) {
      top_logprobs(raw, vocab, log_sum, row.n_top, c, out.top + r * out.top_cap, out.top_cap);
    }
    const float* x = raw;
    if (row.n_bias > 0 || row.n_counts > 0 || row.uncounted) {
      float* edit = edited.data() + thread * vocab;
      std::copy_n(raw, vocab, edit);
      edit_logits(row, vocab, edit);
      x = edit;
    }
    int32_t id;
    if (row.temperature == 0.0f) {
      id = static_cast<int32_t>(ctx.elementwise.argmax(x, vocab));
      if (!(x[id] > -std::numeric_limits<float>::infinity())) id = -1;
    } else {
      id = draw(row, vocab, x, c, w);
    }
    out.ids[r] = id;
    if (out.logprobs) out.logprobs[r] = row.wants_logprob && id >= 0 ? raw[id] - log_sum : 0.0f;
    if (row.slot >= 0) store_token(ctx, out, r, row.slot, last_tokens);
  };
  if (n == 1) {
    one(0, 0);
  } else {
    ctx.pool.run(n, one);
  }
  ctx.arena.release(mark);
}

void select_tokens(ExecContext& ctx, const Tensor& known, const Tensor& slots, const Tensor& last_tokens, Tensor& out) {
  if (ctx.device_ops) return ctx.device_ops->select_tokens(known, slots, last_tokens, out);
  const int32_t *value = known.as<int32_t>(), *slot = slots.as<int32_t>(), *last = last_tokens.as<int32_t>();
  int32_t* id = out.as<int32_t>();
  for (int64_t t = 0; t < out.items(); ++t) id[t] = slot[t] < 0 ? value[t] : last[slot[t]];
}

void store_token(ExecContext& ctx, const SampleOutput& out, int64_t row, int32_t slot, Tensor& last_tokens) {
  if (ctx.device_ops) return ctx.device_ops->store_token(ctx.tables, row, slot, last_tokens);
  last_tokens.as<int32_t>()[slot] = std::max(0, out.ids[row]);
}

}  // namespace pare::ops
