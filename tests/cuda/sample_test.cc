// The CUDA sampler against the CPU's, which has a slow one of its own to agree with (tests/unit/ops/sample_test.cc).
#include "kernels/cuda/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/rng.h"
#include "cuda_test.h"
#include "ops/sample.h"

namespace pare::cuda {
namespace {

using SampleTest = CudaTest;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kTopCap = 5;

// One draw's settings; its lists are not in `row`.
struct Draw {
  ops::SampleRow row;
  std::vector<ops::TokenCount> counts;
  std::vector<ops::LogitBias> bias;
  int32_t uncounted = -1;  // not given when -1
};

struct Results {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::vector<TopLogprob> top;
};

Results run_cpu(const std::vector<Draw>& draws, const std::vector<float>& logits, int64_t vocab) {
  const int64_t n = static_cast<int64_t>(draws.size());
  ThreadPool pool(2);
  ExecContext ctx(&pool, selected_cpu_level().value(), Arena());
  ctx.arena = Arena(AlignedBuffer::allocate(ops::sample_workspace_bytes(ctx, n, vocab)).value());
  std::vector<ops::SampleRow> rows;
  for (const Draw& d : draws) {
    rows.push_back(d.row);
    rows.back().counts = d.counts.data();
    rows.back().n_counts = static_cast<int32_t>(d.counts.size());
    rows.back().bias = d.bias.data();
    rows.back().n_bias = static_cast<int32_t>(d.bias.size());
    if (d.uncounted >= 0) rows.back().uncounted = &d.uncounted;
  }
  Results results;
  results.ids.resize(n);
  results.logprobs.resize(n);
  std::vector<ops::TopLogprob> top(n * kTopCap);
  ops::SampleOutput out;
  out.ids = results.ids.data();
  out.logprobs = results.logprobs.data();
  out.top = top.data();
  out.top_cap = kTopCap;
  std::vector<float> raw = logits;
  const int64_t logit_rows = static_cast<int64_t>(raw.size()) / vocab;
  Tensor no_table;
  ops::sample(ctx, ops::stage_draws(ctx, rows.data(), n), Tensor(raw.data(), DType::F32, {logit_rows, vocab}), out,
              no_table);
  for (const ops::TopLogprob& t : top) results.top.push_back({t.id, t.logprob});
  return results;
}

// The draws with their lists on the device.
class DeviceDraws {
 public:
  explicit DeviceDraws(const std::vector<Draw>& draws) {
    std::vector<ops::TokenCount> counts;
    std::vector<ops::LogitBias> bias;
    std::vector<int32_t> uncounted;
    for (const Draw& d : draws) {
      counts.insert(counts.end(), d.counts.begin(), d.counts.end());
      bias.insert(bias.end(), d.bias.begin(), d.bias.end());
      uncounted.push_back(d.uncounted);
    }
    counts_ = to_device(counts);
    bias_ = to_device(bias);
    uncounted_ = to_device(uncounted);
    std::vector<SampleRow> rows;
    size_t counts_before = 0, bias_before = 0;
    for (size_t i = 0; i < draws.size(); ++i) {
      const ops::SampleRow& from = draws[i].row;
      SampleRow row;
      row.logits_row = from.logits_row;
      row.temperature = from.temperature;
      row.top_p = from.top_p;
      row.min_p = from.min_p;
      row.typical_p = from.typical_p;
      row.repetition = from.repetition;
      row.frequency = from.frequency;
      row.presence = from.presence;
      row.top_k = from.top_k;
      row.n_top = from.n_top;
      row.seed = from.seed;
      row.branch = from.branch;
      row.position = from.position;
      row.wants_logprob = from.wants_logprob;
      row.counts = counts_.as<TokenCount>() + counts_before;
      row.n_counts = static_cast<int32_t>(draws[i].counts.size());
      row.bias = bias_.as<LogitBias>() + bias_before;
      row.n_bias = static_cast<int32_t>(draws[i].bias.size());
      if (draws[i].uncounted >= 0) row.uncounted = uncounted_.as<int32_t>() + i;
      row.slot = static_cast<int32_t>(i) - 1;
      counts_before += draws[i].counts.size();
      bias_before += draws[i].bias.size();
      rows.push_back(row);
    }
    rows_ = to_device(rows);
  }
  const SampleRow* rows() const { return rows_.as<SampleRow>(); }

 private:
  DeviceBuffer counts_, bias_, uncounted_, rows_;
};

Results run_cuda(const std::vector<Draw>& draws, const std::vector<float>& logits, int64_t vocab) {
  const int64_t n = static_cast<int64_t>(draws.size());
  const DeviceDraws device(draws);
  const DeviceBuffer logits_device = to_device(logits), ids = poisoned<int32_t>(n), logprobs = poisoned<float>(n),
                     top = poisoned<TopLogprob>(n * kTopCap), last = poisoned<int32_t>(n),
                     workspace = poisoned<std::byte>(value_of(sample_workspace_bytes(n, vocab)));
  SampleArgs args;
  args.rows = device.rows();
  args.logits = logits_device.as<float>();
  args.n = n;
  args.vocab = vocab;
  args.ids = ids.as<int32_t>();
  args.logprobs = logprobs.as<float>();
  args.top = top.as<TopLogprob>();
  args.top_cap = kTopCap;
  args.last_tokens = last.as<int32_t>();
  args.workspace = workspace.data();
  const Status status = sample(args, nullptr, false);
  EXPECT_TRUE(status.ok()) << status.to_string();
  Results results{to_host<int32_t>(ids, n), to_host<float>(logprobs, n), to_host<TopLogprob>(top, n * kTopCap)};
  const std::vector<int32_t> stored = to_host<int32_t>(last, n);
  for (int64_t i = 1; i < n; ++i) EXPECT_EQ(stored[i - 1], std::max(0, results.ids[i]));
  return results;
}

enum class Kind { kNormal, kTies, kHoles, kNothing, kInfinite, kWide, kPeaked };

std::vector<float> random_logits(Philox& rng, int64_t vocab, Kind kind) {
  std::vector<float> x(vocab);
  for (float& v : x) {
    v = (kind == Kind::kWide ? 60.0f : 3.0f) * rng.normal();
    if (kind == Kind::kTies) v = std::round(v);
    if (kind == Kind::kPeaked && rng.below(1000) == 0) v += 12.0f;  // as a model that knows what it says
    if (kind == Kind::kHoles && rng.below(3) == 0) v = rng.below(2) ? kNan : -kInfinity;
    if (kind == Kind::kNothing) v = rng.below(2) ? kNan : -kInfinity;
    if (kind == Kind::kInfinite && rng.below(8) == 0) v = kInfinity;
  }
  return x;
}

// Each parameter is on in half of the cases.
Draw random_draw(Philox& rng, int64_t vocab) {
  Draw d;
  const auto on = [&] { return rng.below(2) == 0; };
  ops::SampleRow& r = d.row;
  r.temperature = rng.below(4) == 0 ? 0.0f : 0.05f + 2.0f * rng.uniform();
  if (on()) r.top_k = 1 + static_cast<int32_t>(rng.below(static_cast<uint32_t>(on() ? vocab + 2 : 60)));
  if (on()) r.top_p = 0.01f + 0.98f * rng.uniform();
  if (on()) r.min_p = rng.below(8) == 0 ? 1.0f : 0.5f * rng.uniform();
  if (on() && on()) r.typical_p = 0.01f + 0.98f * rng.uniform();
  if (on()) r.repetition = 0.5f + rng.uniform();
  if (on()) r.frequency = rng.normal();
  if (on()) r.presence = rng.normal();
  r.seed = uint64_t{rng()} << 32 | rng();
  r.branch = static_cast<int32_t>(rng.below(300));
  r.position = static_cast<int32_t>(rng.below(1 << 20));
  r.wants_logprob = on();
  r.n_top = static_cast<int32_t>(rng.below(kTopCap + 1));
  const uint32_t gap = 1 + static_cast<uint32_t>(vocab / 300);
  for (int64_t id = rng.below(gap); id < vocab && (gap > 1 || on()); id += 1 + rng.below(3 * gap)) {
    d.counts.push_back({static_cast<int32_t>(id), static_cast<int32_t>(rng.below(4))});
  }
  for (uint32_t n = on() ? rng.below(6) : 0; n > 0; --n) {
    d.bias.push_back({static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocab))), 5 * rng.normal()});
    if (rng.below(3) == 0) d.bias.push_back({d.bias[0].id, rng.normal()});
  }
  if (on()) d.uncounted = static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocab)));
  return d;
}

// Which ids are the most likely is the CPU's word; log-probabilities are compared with a sum in double, because the
// CPU's own is off by 1e-4 in a vocabulary of 262,144.
void expect_logprobs(const Results& cuda, const Results& cpu, const std::vector<Draw>& draws,
                     const std::vector<float>& logits, int64_t vocab) {
  for (size_t i = 0; i < draws.size(); ++i) {
    const float* x = logits.data() + draws[i].row.logits_row * vocab;
    double sum = 0, largest = -kInfinity;
    for (int64_t j = 0; j < vocab; ++j) largest = std::isnan(x[j]) ? largest : std::max<double>(largest, x[j]);
    for (int64_t j = 0; j < vocab; ++j) sum += std::isnan(x[j]) ? 0.0 : std::exp(x[j] - largest);
    const double log_sum = largest + std::log(sum);
    const auto expect = [&](float actual, int32_t id) {
      if (!std::isfinite(log_sum) || !std::isfinite(x[id])) return;
      ASSERT_NEAR(actual, x[id] - log_sum, 1e-5 + 1e-6 * std::fabs(log_sum)) << "draw " << i << ", id " << id;
    };
    if (draws[i].row.wants_logprob && cuda.ids[i] >= 0) {
      expect(cuda.logprobs[i], cuda.ids[i]);
    } else {
      ASSERT_EQ(cuda.logprobs[i], 0.0f);
    }
    for (int32_t j = 0; j < kTopCap; ++j) {
      const TopLogprob top = cuda.top[i * kTopCap + j];
      ASSERT_EQ(top.id, cpu.top[i * kTopCap + j].id) << "draw " << i << ", rank " << j;
      if (top.id >= 0) expect(top.logprob, top.id);
    }
  }
}

TEST_F(SampleTest, AgreesWithTheCpu) {
  Philox rng(41);
  int different = 0, total = 0;
  const std::pair<int64_t, int> cases[] = {{1, 100},   {2, 400},   {7, 400},    {64, 800},    {501, 800},
                                           {8191, 96}, {8195, 96}, {49152, 64}, {151936, 64}, {262144, 24}};
  for (const auto& [vocab, n] : cases) {
    std::vector<Draw> draws;
    std::vector<float> logits;
    for (int i = 0; i < n; ++i) {
      const uint32_t kind = rng.below(10);
      const std::vector<float> row = random_logits(rng, vocab, kind < 7 ? Kind(kind) : Kind::kNormal);
      logits.insert(logits.end(), row.begin(), row.end());
      draws.push_back(random_draw(rng, vocab));
      draws.back().row.logits_row = i;
    }
    const Results cpu = run_cpu(draws, logits, vocab), cuda = run_cuda(draws, logits, vocab);
    for (int i = 0; i < n; ++i) {
      const ops::SampleRow& r = draws[i].row;
      ++total;
      if (cuda.ids[i] == cpu.ids[i]) continue;
      ++different;
      EXPECT_NE(r.temperature, 0.0f) << "greedy ids are equal";
      std::printf("vocabulary %d, draw %d: %d, on the CPU %d (T %g, top-k %d, top-p %g, min-p %g, typical %g)\n",
                  static_cast<int>(vocab), i, cuda.ids[i], cpu.ids[i], r.temperature, r.top_k, r.top_p, r.min_p,
                  r.typical_p);
    }
    expect_logprobs(cuda, cpu, draws, logits, vocab);
  }
  // A cut or a draw within 1e-6 of a boundary, or two surprises equal in fp32: rare even with all filters on.
  EXPECT_LE(different, total / 500);
}

TEST_F(SampleTest, RowsDoNotSeeEachOther) {
  Philox rng(42);
  for (const int64_t vocab : {131L, 20000L}) {
    std::vector<Draw> draws;
    std::vector<float> logits;
    for (int i = 0; i < 40; ++i) {
      const std::vector<float> row = random_logits(rng, vocab, i % 4 ? Kind::kNormal : Kind::kTies);
      logits.insert(logits.end(), row.begin(), row.end());
      draws.push_back(random_draw(rng, vocab));
      draws.back().row.logits_row = i % 30;  // some draw from a row that another draws from
    }
    const Results together = run_cuda(draws, logits, vocab);
    for (size_t i = 0; i < draws.size(); ++i) {
      const Results alone = run_cuda({draws[i]}, logits, vocab);
      ASSERT_EQ(alone.ids[0], together.ids[i]);
      ASSERT_EQ(alone.logprobs[0], together.logprobs[i]) << "the same bits";
    }
  }
}

TEST_F(SampleTest, GreedyTakesTheLowestOfEqualIds) {
  for (const int64_t vocab : {300L, 40000L}) {
    for (const int64_t first : {int64_t{0}, int64_t{5}, vocab / 2 + 1, vocab - 1}) {
      std::vector<float> x(vocab, 1.0f);
      for (int64_t i = first; i < vocab; i += 3) x[i] = 2.0f;
      Draw greedy, sharp;
      sharp.row.temperature = 1.0f;
      sharp.row.top_k = 1;
      const Results r = run_cuda({greedy, sharp}, x, vocab);
      EXPECT_EQ(r.ids[0], first);
      EXPECT_EQ(r.ids[1], first) << "top-k breaks ties the same way";
    }
  }
  std::vector<float> zeros(70, 0.0f);
  zeros[3] = -0.0f;
  for (int i = 0; i < 3; ++i) zeros[i] = -1.0f;
  EXPECT_EQ(run_cuda({Draw{}}, zeros, 70).ids[0], 3) << "both zeros are one value";
}

TEST_F(SampleTest, RowsWithoutANumberFail) {
  Draw greedy, warm;
  warm.row.temperature = 1.0f;
  for (const int64_t vocab : {17L, 20003L}) {
    for (const float hole : {kNan, -kInfinity}) {
      EXPECT_EQ(run_cuda({greedy, warm}, std::vector<float>(vocab, hole), vocab).ids, (std::vector<int32_t>{-1, -1}));
    }
    std::vector<float> one(vocab, kNan);
    one[11] = -3e38f;
    EXPECT_EQ(run_cuda({greedy, warm}, one, vocab).ids, (std::vector<int32_t>{11, 11}));
    one[7] = one[9] = kInfinity;
    EXPECT_EQ(run_cuda({greedy, warm}, one, vocab).ids, (std::vector<int32_t>{7, 7})) << "no mass beside infinity";
  }
}

// More candidates alike than a list holds: the way down goes through the bits of values, then through ids.
TEST_F(SampleTest, MassesOfEqualCandidates) {
  constexpr int64_t vocab = 151936;
  Philox rng(43);
  for (const int levels : {1, 2, 40}) {
    std::vector<float> x(vocab);
    for (float& v : x) v = 1e-3f * static_cast<float>(rng.below(levels));
    std::vector<Draw> draws;
    for (int i = 0; i < 48; ++i) {
      Draw d;
      d.row.temperature = 1.0f;
      d.row.position = i;
      if (i % 3 == 1) d.row.top_k = 100 + 3000 * i;
      if (i % 3 == 2) d.row.top_p = 0.3f;
      draws.push_back(d);
    }
    const Results cpu = run_cpu(draws, x, vocab), cuda = run_cuda(draws, x, vocab);
    int different = 0;
    for (size_t i = 0; i < draws.size(); ++i) different += cuda.ids[i] != cpu.ids[i];
    // 24 random bits over 151,936 candidates: one draw in a hundred of a share falls on a boundary exactly.
    EXPECT_LE(different, 2) << levels << " levels";
  }
}

TEST_F(SampleTest, SameIdsFromAGraphOfDependentLaunches) {
  constexpr int64_t vocab = 32000;
  constexpr int n = 7;
  Philox rng(44);
  std::vector<Draw> draws;
  std::vector<float> logits;
  for (int i = 0; i < n; ++i) {
    const std::vector<float> row = random_logits(rng, vocab, Kind::kNormal);
    logits.insert(logits.end(), row.begin(), row.end());
    draws.push_back(random_draw(rng, vocab));
    draws.back().row.logits_row = i;
  }
  const Results eager = run_cuda(draws, logits, vocab);
  const DeviceDraws device(draws);
  const DeviceBuffer logits_device = to_device(logits), ids = poisoned<int32_t>(20 * n), last = poisoned<int32_t>(n);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  for (int i = 0; i < 20; ++i) {
    SampleArgs args;
    args.rows = device.rows();
    args.logits = logits_device.as<float>();
    args.n = n;
    args.vocab = vocab;
    args.ids = ids.as<int32_t>() + i * n;
    args.last_tokens = last.as<int32_t>();
    ASSERT_TRUE(is_ok(sample(args, stream, true)));
  }
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  sync();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(to_host<int32_t>(ids, n, i * n), eager.ids);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
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

TEST_F(SampleTest, DrawsHaveTheModelsProbabilities) {
  constexpr int kDraws = 20'000;
  // The same few candidates alone, and spread over a vocabulary that several blocks share.
  const std::vector<float> few = {0.0f, 1.0f, -1.0f, 0.5f, 2.0f, 0.0f, -0.5f, 1.5f};
  for (const int64_t vocab : {8L, 16001L}) {
    const int64_t step = vocab / 8;
    std::vector<float> x(vocab, -kInfinity);
    for (int64_t i = 0; i < 8; ++i) x[i * step] = few[i];
    for (const float temperature : {1.0f, 0.4f}) {
      std::vector<double> p;
      for (const float v : few) p.push_back(std::exp(v / temperature));
      const double sum = std::accumulate(p.begin(), p.end(), 0.0);
      for (double& v : p) v /= sum;
      for (const int word : {0, 1, 2, 3}) {  // of the generator's counter
        std::vector<Draw> draws(kDraws);
        for (int i = 0; i < kDraws; ++i) {
          draws[i].row.temperature = temperature;
          draws[i].row.seed = word == 2 ? i : word == 3 ? static_cast<uint64_t>(i) << 32 : 1234;
          draws[i].row.position = word == 0 ? i : 0;
          draws[i].row.branch = word == 1 ? i : 0;
        }
        std::vector<int> seen(8);
        for (const int32_t id : run_cuda(draws, x, vocab).ids) ++seen.at(id / step);
        EXPECT_LT(chi_square(seen, p), chi_square_bound(7)) << vocab << ", word " << word;
      }
    }
  }
}

}  // namespace
}  // namespace pare::cuda
