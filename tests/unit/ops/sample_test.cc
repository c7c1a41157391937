// The sampler against an independent slow one: sort everything, in double, one step of the contract after the other.
#include "ops/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "ops_rig.h"

namespace pare::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Candidate {
  int32_t id;
  double logit, p;
};

// Everything a draw depends on.
struct Draw {
  std::vector<float> logits;
  ops::SampleRow row;
  std::vector<ops::TokenCount> counts;
  std::vector<ops::LogitBias> bias;
};

struct Verdict {
  int32_t id = -1;
  // Distance of the nearest decision from the other one, relative to 1: below rounding, either is right.
  double margin = 1.0;
};

void normalize(std::vector<Candidate>* c, double temperature) {
  double sum = 0;
  for (Candidate& x : *c) sum += x.p = std::exp((x.logit - c->front().logit) / temperature);
  for (Candidate& x : *c) x.p /= sum;
}

// Keeps the shortest front that holds `wanted` of the mass.
void keep_mass(std::vector<Candidate>* c, double wanted, double* margin) {
  double mass = 0;
  size_t kept = 0;
  while (kept < c->size() && mass < wanted) {
    mass += (*c)[kept++].p;
    *margin = std::min(*margin, std::fabs(mass - wanted));
  }
  c->resize(std::max<size_t>(kept, 1));
}

Verdict slow_sample(const Draw& d) {
  std::vector<float> x = d.logits;
  for (const ops::LogitBias& b : d.bias) x[b.id] += b.bias;
  std::map<int32_t, int32_t> counts;
  for (const ops::TokenCount& c : d.counts) counts[c.id] = c.count;
  if (d.row.uncounted && *d.row.uncounted >= 0) ++counts[*d.row.uncounted];
  for (const auto& [id, count] : counts) {
    x[id] = x[id] > 0 ? x[id] / d.row.repetition : x[id] * d.row.repetition;
    if (count > 0) x[id] -= static_cast<float>(count) * d.row.frequency + d.row.presence;
  }
  std::vector<Candidate> c;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isnan(x[i]) && x[i] != -kInfinity) c.push_back({static_cast<int32_t>(i), x[i], 0});
  }
  if (c.empty()) return {};
  std::stable_sort(c.begin(), c.end(), [](const auto& a, const auto& b) { return a.logit > b.logit; });
  if (d.row.temperature == 0 || c.front().logit == kInfinity) return {c.front().id};

  Verdict verdict;
  if (d.row.top_k > 0) c.resize(std::min<size_t>(c.size(), d.row.top_k));
  if (d.row.typical_p < 1) {
    normalize(&c, 1);
    double entropy = 0;
    for (const Candidate& e : c) entropy -= e.p > 0 ? e.p * std::log(e.p) : 0;
    const auto shift = [&](const Candidate& e) {
      const double log_sum = std::log(1.0 / c.front().p);
      return std::fabs(log_sum - (e.logit - c.front().logit) - entropy);
    };
    std::vector<std::pair<double, Candidate>> order;
    for (const Candidate& e : c) order.push_back({shift(e), e});
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 1; i < order.size(); ++i) {
      if (order[i].second.logit == order[i - 1].second.logit) continue;
      verdict.margin = std::min(verdict.margin, order[i].first - order[i - 1].first);
    }
    c.clear();
    for (const auto& [unused, e] : order) c.push_back(e);
    keep_mass(&c, d.row.typical_p, &verdict.margin);
    std::sort(c.begin(), c.end(),
              [](const auto& a, const auto& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); });
  }
  normalize(&c, 1);
  if (d.row.top_p < 1) keep_mass(&c, d.row.top_p, &verdict.margin);
  if (d.row.min_p > 0) {
    normalize(&c, 1);
    const double floor = d.row.min_p * c.front().p;
    for (const Candidate& e : c) {
      if (e.logit != c.front().logit) verdict.margin = std::min(verdict.margin, std::fabs(e.p - floor));
    }
    while (c.size() > 1 && c.back().p < floor && c.back().logit != c.front().logit) c.pop_back();
  }
  normalize(&c, d.row.temperature);
  const auto bits = philox4x32({static_cast<uint32_t>(d.row.position), static_cast<uint32_t>(d.row.branch), 0, 0},
                               {static_cast<uint32_t>(d.row.seed), static_cast<uint32_t>(d.row.seed >> 32)});
  const double target = uniform_float(bits[0]);
  double below = 0;
  for (const Candidate& e : c) {
    below += e.p;
    verdict.margin = std::min(verdict.margin, std::fabs(below - target));
    if (target < below) {
      verdict.id = e.id;
      return verdict;
    }
  }
  verdict.id = c.back().id;
  return verdict;
}

enum class Kind { kNormal, kTies, kHoles, kNothing, kInfinite };

std::vector<float> random_logits(Philox& rng, int64_t vocab, Kind kind) {
  std::vector<float> x = random_floats(rng, vocab, 3.0f);
  for (float& v : x) {
    if (kind == Kind::kTies) v = std::round(v);
    if (kind == Kind::kHoles && rng.below(3) == 0) v = rng.below(2) ? kNan : -kInfinity;
    if (kind == Kind::kNothing) v = rng.below(2) ? kNan : -kInfinity;
    if (kind == Kind::kInfinite && rng.below(8) == 0) v = kInfinity;
  }
  return x;
}

// Each parameter is on in half of the cases.
Draw random_draw(Philox& rng, int64_t vocab) {
  const uint32_t kind = rng.below(8);
  Draw d;
  d.logits = random_logits(rng, vocab, kind < 5 ? Kind(kind) : Kind::kNormal);
  const auto on = [&] { return rng.below(2) == 0; };
  ops::SampleRow& r = d.row;
  r.temperature = rng.below(4) == 0 ? 0.0f : 0.05f + 2.0f * rng.uniform();
  if (on()) r.top_k = 1 + static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocab) + 2));
  if (on()) r.top_p = 0.01f + 0.98f * rng.uniform();
  if (on()) r.min_p = rng.below(8) == 0 ? 1.0f : 0.5f * rng.uniform();
  if (on()) r.typical_p = 0.01f + 0.98f * rng.uniform();
  if (on()) r.repetition = 0.5f + rng.uniform();
  if (on()) r.frequency = rng.normal();
  if (on()) r.presence = rng.normal();
  r.seed = uint64_t{rng()} << 32 | rng();
  r.branch = static_cast<int32_t>(rng.below(300));
  r.position = static_cast<int32_t>(rng.below(1 << 20));
  for (int32_t id = 0; id < vocab && on(); id += 1 + static_cast<int32_t>(rng.below(3))) {
    d.counts.push_back({id, static_cast<int32_t>(rng.below(4))});
  }
  for (uint32_t n = on() ? rng.below(4) : 0; n > 0; --n) {
    d.bias.push_back({static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocab))), 5 * rng.normal()});
  }
  return d;
}

void point_at_lists(Draw* d) {
  d->row.counts = d->counts.data();
  d->row.n_counts = static_cast<int32_t>(d->counts.size());
  d->row.bias = d->bias.data();
  d->row.n_bias = static_cast<int32_t>(d->bias.size());
}

// Draws rows from logits [*, vocab] in an arena of exactly the promised size.
std::vector<int32_t> run(int threads, int64_t vocab, std::vector<ops::SampleRow> rows, const std::vector<float>& logits,
                         std::vector<float>* logprobs = nullptr, std::vector<ops::TopLogprob>* top = nullptr) {
  OpsRig sizes(threads, 64);
  OpsRig rig(threads, ops::sample_workspace_bytes(sizes.ctx, static_cast<int64_t>(rows.size()), vocab));
  std::vector<int32_t> ids(rows.size(), -7);
  ops::SampleOutput out;
  out.ids = ids.data();
  if (logprobs) {
    logprobs->assign(rows.size(), kNan);
    out.logprobs = logprobs->data();
  }
  if (top) {
    out.top_cap = 5;
    top->assign(rows.size() * 5, {-7, kNan});
    out.top = top->data();
  }
  std::vector<float> raw = logits;
  std::vector<int32_t> last(1);
  Tensor table = ints(last);
  ops::sample(rig.ctx, ops::stage_draws(rig.ctx, rows.data(), static_cast<int64_t>(rows.size())),
              floats(raw, {static_cast<int64_t>(raw.size()) / vocab, vocab}), out, table);
  EXPECT_EQ(rig.ctx.arena.used(), 0u);
  return ids;
}

TEST(Sample, AgreesWithTheSlowSampler) {
  Philox rng(31);
  int close = 0, total = 0;
  for (const int64_t vocab : {1, 2, 7, 64, 65, 501}) {
    for (int n = 0; n < 800; ++n) {
      Draw d = random_draw(rng, vocab);
      const int32_t in_flight = static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocab) + 1)) - 1;
      if (rng.below(2) == 0) d.row.uncounted = &in_flight;
      point_at_lists(&d);
      const Verdict expected = slow_sample(d);
      const std::vector<int32_t> ids = run(1, vocab, {d.row}, d.logits);
      ++total;
      if (expected.margin < 1e-9) {
        ++close;
      } else {
        ASSERT_EQ(ids[0], expected.id) << "vocabulary " << vocab << ", case " << n;
      }
    }
  }
  // A case is skipped when a draw of 24 bits or a sum of at most 501 terms falls into 1e-9: hardly ever.
  EXPECT_LE(close, total / 100);
}

TEST(Sample, RowsDoNotSeeEachOther) {
  constexpr int64_t vocab = 131;
  Philox rng(32);
  std::vector<Draw> draws;
  std::vector<float> logits;
  for (int n = 0; n < 40; ++n) {
    draws.push_back(random_draw(rng, vocab));
    logits.insert(logits.end(), draws.back().logits.begin(), draws.back().logits.end());
  }
  std::vector<int32_t> alone;
  std::vector<ops::SampleRow> rows;
  for (size_t n = 0; n < draws.size(); ++n) {
    point_at_lists(&draws[n]);
    draws[n].row.logits_row = static_cast<int64_t>(n % 30);  // some draw from a row that another draws from
    rows.push_back(draws[n].row);
    alone.push_back(run(1, vocab, {rows.back()}, logits)[0]);
  }
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (const int threads : {1, 2, 3}) {
    std::shuffle(order.begin(), order.end(), rng);
    std::vector<ops::SampleRow> shuffled;
    for (const size_t n : order) shuffled.push_back(rows[n]);
    const std::vector<float> before = logits;
    const std::vector<int32_t> ids = run(threads, vocab, shuffled, logits);
    for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(ids[i], alone[order[i]]) << "draw " << order[i];
    EXPECT_EQ(std::memcmp(before.data(), logits.data(), logits.size() * sizeof(float)), 0) << "logits are only read";
  }
}

TEST(Sample, GreedyTakesTheLowestOfEqualIds) {
  std::vector<float> x(300, 1.0f);
  for (const size_t first : {0, 5, 255, 299}) {
    std::fill(x.begin(), x.end(), 1.0f);
    for (size_t i = first; i < x.size(); i += 3) x[i] = 2.0f;
    ops::SampleRow greedy, sharp;
    sharp.temperature = 1.0f;
    sharp.top_k = 1;
    const std::vector<int32_t> ids = run(1, 300, {greedy, sharp}, x);
    EXPECT_EQ(ids[0], static_cast<int32_t>(first));
    EXPECT_EQ(ids[1], static_cast<int32_t>(first)) << "top-k breaks ties the same way";
  }
}

TEST(Sample, RowsWithoutANumberFail) {
  ops::SampleRow greedy, warm;
  warm.temperature = 1.0f;
  for (const float hole : {kNan, -kInfinity}) {
    const std::vector<float> x(17, hole);
    EXPECT_EQ(run(1, 17, {greedy, warm}, x), (std::vector<int32_t>{-1, -1}));
  }
  std::vector<float> one(17, kNan);
  one[11] = -3e38f;
  EXPECT_EQ(run(1, 17, {greedy, warm}, one), (std::vector<int32_t>{11, 11}));
  one[7] = one[9] = kInfinity;
  EXPECT_EQ(run(1, 17, {greedy, warm}, one), (std::vector<int32_t>{7, 7})) << "no mass beside an infinite logit";
}

TEST(Sample, AnUncountedTokenIsOneMoreOfTheAnswer) {
  constexpr int64_t vocab = 50;
  Philox rng(33);
  for (int n = 0; n < 300; ++n) {
    Draw counted = random_draw(rng, vocab);
    counted.row.frequency = 2 + rng.uniform();
    Draw uncounted = counted;
    const int32_t token = static_cast<int32_t>(rng.below(vocab));
    uncounted.row.uncounted = &token;
    const auto at = std::find_if(counted.counts.begin(), counted.counts.end(), [&](auto& c) { return c.id == token; });
    if (at != counted.counts.end()) {
      ++at->count;
    } else {
      counted.counts.push_back({token, 1});
    }
    point_at_lists(&counted);
    point_at_lists(&uncounted);
    EXPECT_EQ(run(1, vocab, {uncounted.row}, counted.logits), run(1, vocab, {counted.row}, counted.logits));
  }
}

TEST(Sample, LogprobsAreTheModelsOwn) {
  constexpr int64_t vocab = 97;
  Philox rng(34);
  for (int n = 0; n < 200; ++n) {
    Draw d = random_draw(rng, vocab);
    d.logits = random_logits(rng, vocab, n % 2 ? Kind::kTies : Kind::kNormal);
    if (n % 5 == 0) d.logits[n % vocab] = -kInfinity;
    point_at_lists(&d);
    d.row.wants_logprob = true;
    d.row.n_top = n % 6;
    ops::SampleRow silent = d.row;
    silent.wants_logprob = false;
    silent.n_top = 0;
    std::vector<float> logprobs;
    std::vector<ops::TopLogprob> top;
    const std::vector<int32_t> ids = run(1, vocab, {d.row, silent}, d.logits, &logprobs, &top);
    EXPECT_EQ(ids[0], ids[1]) << "asking for log-probabilities changes no draw";
    double sum = 0;
    for (const float x : d.logits) sum += std::exp(double{x});
    // Rounding of the fp32 log-sum over 97 terms.
    EXPECT_NEAR(logprobs[0], d.logits[ids[0]] - std::log(sum), 1e-5);
    EXPECT_EQ(logprobs[1], 0.0f);
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return d.logits[a] > d.logits[b]; });
    for (int32_t i = 0; i < 5; ++i) {
      EXPECT_EQ(top[5 + i].id, -1);
      if (i >= d.row.n_top) {
        EXPECT_EQ(top[i].id, -1);
        continue;
      }
      EXPECT_EQ(top[i].id, order[i]);
      EXPECT_NEAR(top[i].logprob, d.logits[order[i]] - std::log(sum), 1e-5);
    }
  }
}

TEST(Sample, StepTokensComeFromTheHostOrTheLastDraw) {
  OpsRig rig(1);
  std::vector<int32_t> last(3, 0), known = {5, -1, 6, -1}, slots = {-1, 2, -1, 0}, out(4);
  Tensor table = ints(last), tokens = ints(out);
  int32_t ids[] = {41, 42, -1};
  const ops::SampleOutput drawn{.ids = ids};
  ops::store_token(rig.ctx, drawn, 1, 2, table);
  ops::store_token(rig.ctx, drawn, 0, 0, table);
  ops::select_tokens(rig.ctx, ints(known), ints(slots), table, tokens);
  EXPECT_EQ(out, (std::vector<int32_t>{5, 42, 6, 41}));
  ops::store_token(rig.ctx, drawn, 2, 0, table);
  EXPECT_EQ(last[0], 0) << "a failed draw must not become an index";
}

// --- distribution ---

// Chi-square quantile that a right sampler exceeds with probability 1e-6 (Wilson and Hilferty 1931; z = 4.7534).
double chi_square_bound(double degrees) {
  const double a = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1.0 - a + 4.7534 * std::sqrt(a), 3);
}

double chi_square(const std::vector<int>& seen, const std::vector<double>& p) {
  const double total = std::accumulate(seen.begin(), seen.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::pow(seen[i] - total * p[i], 2) / (total * p[i]);
  return sum;
}

constexpr int kDraws = 20'000;
const std::vector<float> kFewLogits = {0.0f, 1.0f, -1.0f, 0.5f, 2.0f, 0.0f, -0.5f, 1.5f};

std::vector<double> softmax(const std::vector<float>& x, double temperature) {
  std::vector<double> p;
  for (const float v : x) p.push_back(std::exp(v / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& v : p) v /= sum;
  return p;
}

// Draws that differ in one word of the counter alone.
std::vector<int32_t> draws_over(void (*vary)(ops::SampleRow*, int32_t), float temperature) {
  std::vector<ops::SampleRow> rows(kDraws);
  for (int32_t n = 0; n < kDraws; ++n) {
    rows[n].temperature = temperature;
    rows[n].seed = 1234;
    vary(&rows[n], n);
  }
  return run(2, static_cast<int64_t>(kFewLogits.size()), rows, kFewLogits);
}

TEST(SampleDistribution, EveryWordOfTheCounterGivesTheModelsProbabilities) {
  using Vary = void (*)(ops::SampleRow*, int32_t);
  const std::pair<const char*, Vary> words[] = {
      {"position", [](ops::SampleRow* r, int32_t n) { r->position = n; }},
      {"branch", [](ops::SampleRow* r, int32_t n) { r->branch = n; }},
      {"seed", [](ops::SampleRow* r, int32_t n) { r->seed = n; }},
      {"high seed", [](ops::SampleRow* r, int32_t n) { r->seed = static_cast<uint64_t>(n) << 32; }}};
  for (const float temperature : {1.0f, 0.4f}) {
    const std::vector<double> p = softmax(kFewLogits, temperature);
    for (const auto& [name, vary] : words) {
      std::vector<int> seen(p.size());
      for (const int32_t id : draws_over(vary, temperature)) ++seen[id];
      EXPECT_LT(chi_square(seen, p), chi_square_bound(static_cast<double>(p.size()) - 1)) << name;
    }
  }
}

TEST(SampleDistribution, SuccessiveDrawsAreIndependent) {
  const std::vector<double> p = softmax(kFewLogits, 1.0);
  const size_t v = p.size();
  const std::vector<int32_t> ids = draws_over([](ops::SampleRow* r, int32_t n) { r->position = n; }, 1.0f);
  std::vector<double> pairs;
  for (const double a : p) {
    for (const double b : p) pairs.push_back(a * b);
  }
  std::vector<int> seen(v * v);
  for (size_t n = 0; n + 1 < ids.size(); n += 2) ++seen[ids[n] * v + ids[n + 1]];
  EXPECT_LT(chi_square(seen, pairs), chi_square_bound(static_cast<double>(v * v) - 1));
}

TEST(SampleDistribution, WhatFiltersKeepIsDrawnInProportion) {
  std::vector<ops::SampleRow> rows(kDraws);
  for (int32_t n = 0; n < kDraws; ++n) {
    rows[n].temperature = 2.0f;
    rows[n].top_k = 3;  // ids 4, 7 and 1
    rows[n].position = n;
  }
  std::map<int32_t, int> seen;
  for (const int32_t id : run(1, static_cast<int64_t>(kFewLogits.size()), rows, kFewLogits)) ++seen[id];
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_LT(chi_square({seen[4], seen[7], seen[1]}, softmax({2.0f, 1.5f, 1.0f}, 2.0)), chi_square_bound(2));
}

}  // namespace
}  // namespace pare::test
