// attn=triangle through the CPU kernels, by a support probe: with a query of zeros every key that a row attends has the
// same weight, so values of 1, the key's position, its square and 32 random signs tell how many keys the row attended
// and which; one that is missing, doubled or in the future shows. PARE_PROBE_SEED: another seed than the date's.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "../unit/kernels/attention_world.h"
#include "attention/selector.h"
#include "base/rng.h"
#include "kernels/ref/attention_ref.h"

namespace pare::test {
namespace {

std::unique_ptr<AttentionSelector> make_selector(const std::string& text) {
  const auto spec = parse_spec(text, "attn");
  auto made = make_policy(selector_registry(), *spec, 0);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(made->policy);
}
Arena make_arena(size_t bytes) {
  auto buffer = AlignedBuffer::allocate(std::max<size_t>(bytes, 64));
  EXPECT_TRUE(buffer.ok());
  return Arena(std::move(buffer).value());
}

struct Shape {
  int32_t n, sink, window, last, tile_rows, heads, kv_heads, d;
};

constexpr int32_t kOddLengths[] = {1,   2,   7,   8,   9,   15,  16,  17,  63,  64,  65,  127, 128, 129,
                                   511, 512, 513, 514, 515, 516, 517, 518, 519, 520, 521, 639, 640, 641};

template <typename T, size_t N>
T pick(Philox& rng, const T (&values)[N]) {
  return values[rng.below(N)];
}

Shape random_shape(Philox& rng, int32_t trial) {
  Shape s;
  s.n = trial < static_cast<int32_t>(std::size(kOddLengths)) ? kOddLengths[trial]
        : rng.below(4) == 0                                  ? pick(rng, kOddLengths)
                                                             : 1 + static_cast<int32_t>(rng.below(400));
  // The published setting in a quarter, else anything from a single key to more than the prompt.
  const auto size = [&](int32_t low) {
    const auto top = static_cast<uint32_t>(rng.below(3) == 0 ? s.n + 20 : 90);
    return low + static_cast<int32_t>(rng.below(top));
  };
  const bool published = rng.below(4) == 0;
  s.sink = published ? 8 : size(0);
  s.window = published ? 512 : size(1);
  s.last = published ? 128 : size(1);
  s.tile_rows = pick<int32_t>(rng, {16, 32, 64, 128});
  constexpr int32_t kGroups[] = {1, 4, 7, 8};
  s.kv_heads = rng.below(4) == 0 ? 2 : 1;
  s.heads = pick(rng, kGroups) * s.kv_heads;
  s.d = rng.below(4) == 0 ? 128 : 64;
  return s;
}

bool attends(const Shape& s, int32_t i, int32_t j) {
  return j <= i && (j < s.sink || i - j < s.window || i >= s.n - s.last);
}

// Runs rows [pos, pos + n_q) by the selector's own plan.
std::vector<float> run_chunk(World& w, const AttentionKernels& kernels, const AttentionSelector& selector,
                             const Shape& s, int32_t pos, int32_t n_q, int32_t prompt_len, uint64_t* pairs) {
  SeqStep seq{.q_row = 0, .n_q = n_q, .pos = pos, .prompt_len = prompt_len, .page0 = w.page0[0]};
  seq.heads = static_cast<uint16_t>(s.heads);
  const uint16_t tile_rows = static_cast<uint16_t>(s.tile_rows);
  Arena arena = make_arena(selector.max_bytes(n_q, 1, tile_rows));
  BlockPlan plan;
  const Status built =
      selector.build({.seqs = {&seq, 1}, .n_heads = s.heads, .tile_rows = tile_rows}, kNoWindow, arena, plan);
  EXPECT_TRUE(built.ok()) << built.message();
  AttentionLayer layer = w.layer();
  const size_t row = static_cast<size_t>(s.heads) * s.d;
  std::vector<float> out(n_q * row, std::numeric_limits<float>::quiet_NaN());
  layer.seqs = &seq;
  layer.q = w.q.data() + pos * row;
  layer.out = out.data();
  layer.n_rows = n_q;
  std::vector<std::byte> block(kernels.prefill_workspace_bytes(s.tile_rows, w.group(), s.d) + 64);
  auto* workspace = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(block.data()) + 63) / 64 * 64);
  AttentionCounters counters;
  for (int32_t t = 0; t < *plan.n_tiles; ++t) {
    for (int32_t g = 0; g < s.kv_heads; ++g) kernels.prefill_tile(layer, plan, t, g, workspace, &counters);
  }
  *pairs += counters.keys_visited;
  return out;
}

std::string spec_of(const Shape& s) {
  return fmt::format("triangle(sink={},window={},last={})", s.sink, s.window, s.last);
}

// What the probe looked at.
struct ProbeCounts {
  int64_t shapes = 0, rows = 0, values = 0, chunks = 0;
};

void probe(const Shape& s, Philox& rng, const AttentionKernels& kernels, ProbeCounts* counts) {
  SCOPED_TRACE(::testing::Message() << s.n << " tokens, " << spec_of(s) << ", tiles of " << s.tile_rows << ", heads "
                                    << s.heads << "/" << s.kv_heads << " of " << s.d);
  World w({.heads = s.heads, .kv_heads = s.kv_heads, .d = s.d, .rows = s.n, .codec = Codec::F32}, rng());
  std::fill(w.q.begin(), w.q.end(), 0.0f);
  constexpr int32_t kColumns = 35;
  std::vector<double> sums(static_cast<size_t>(s.n + 1) * kColumns, 0.0);  // over keys before j, of KV head 0
  std::fill(w.v.begin(), w.v.end(), 1.0f);
  for (int32_t j = 0; j < s.n; ++j) {
    const float x = static_cast<float>(j) / static_cast<float>(s.n);
    float v[kColumns] = {1.0f, x, x * x};
    const uint32_t bits = rng();
    for (int32_t b = 0; b < 32; ++b) v[3 + b] = (bits >> b & 1u) != 0 ? 1.0f : -1.0f;
    for (int32_t g = 0; g < s.kv_heads; ++g) {
      std::copy(v, v + kColumns, w.v.begin() + (static_cast<int64_t>(j) * s.kv_heads + g) * s.d);
    }
    for (int32_t c = 0; c < kColumns; ++c) sums[(j + 1) * kColumns + c] = sums[j * kColumns + c] + v[c];
  }
  w.append(kernels, 0, s.n);
  const auto selector = make_selector(spec_of(s));
  uint64_t pairs = 0, expected_pairs = 0;
  for (int32_t pos = 0; pos < s.n;) {
    const int32_t n_q = rng.below(3) == 0 ? s.n - pos : 1 + static_cast<int32_t>(rng.below(s.n - pos));
    const auto out = run_chunk(w, kernels, *selector, s, pos, n_q, s.n, &pairs);
    ++counts->chunks;
    for (int32_t i = pos; i < pos + n_q; ++i) {
      // Its keys are two intervals.
      const int32_t from = i >= s.n - s.last ? 0 : std::max(0, i - s.window + 1), sinks = std::min(s.sink, from);
      const int32_t size = sinks + (i + 1 - from);
      expected_pairs += static_cast<uint64_t>(size) * s.heads;
      for (int32_t h = 0; h < s.heads; ++h) {
        const float* got = &out[(static_cast<size_t>(i - pos) * s.heads + h) * s.d];
        for (int32_t c = 0; c < s.d; ++c) {
          const int32_t k = std::min(c, kColumns - 1);
          const double sum = c < kColumns
                                 ? sums[sinks * kColumns + k] + sums[(i + 1) * kColumns + k] - sums[from * kColumns + k]
                                 : size;
          if (std::abs(got[c] - sum / size) <= 2e-5) continue;  // a hundred million of them: no macro for each
          FAIL() << "row " << i << " head " << h << " column " << c << ": " << got[c] << ", expected " << sum / size;
        }
        counts->values += s.d;
      }
      ++counts->rows;
    }
    pos += n_q;
  }
  ASSERT_EQ(pairs, expected_pairs);
  ++counts->shapes;
}

TEST(TriangleKernels, SupportProbe) {
  const char* given = std::getenv("PARE_PROBE_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : static_cast<uint64_t>(std::time(nullptr)) / 86'400;
  SCOPED_TRACE(::testing::Message() << "PARE_PROBE_SEED=" << seed);
  constexpr int32_t kShapes = PARE_SANITIZED ? 60 : 520;
  Philox rng(seed);
  ProbeCounts counts;
  const std::vector<CpuLevel> levels = testable_cpu_levels();
  for (int32_t trial = 0; trial < kShapes; ++trial) {
    // Every level has the same bits (unit_kernels); each takes its share, the scalar one little.
    const CpuLevel level =
        trial % 50 == 49 ? levels.front() : levels[levels.size() - 1 - trial % std::max<size_t>(1, levels.size() - 1)];
    probe(random_shape(rng, trial), rng, attention_kernels(level), &counts);
    if (HasFatalFailure()) return;
  }
  std::printf("seed %llu: %lld shapes, %lld chunks, %lld rows, %lld values\n", static_cast<unsigned long long>(seed),
              static_cast<long long>(counts.shapes), static_cast<long long>(counts.chunks),
              static_cast<long long>(counts.rows), static_cast<long long>(counts.values));
  EXPECT_EQ(counts.shapes, kShapes);
}

// Every length on a tiny head: no NaN, no row without keys; and the bits of a chunked reading.
TEST(TriangleKernels, EveryLengthIsFinite) {
  constexpr int32_t kMost = PARE_SANITIZED ? 700 : 4096;
  const AttentionKernels& kernels = attention_kernels(testable_cpu_levels().back());
  const Shape s{.n = kMost, .sink = 2, .window = 9, .last = 5, .tile_rows = 64, .heads = 1, .kv_heads = 1, .d = 16};
  World w({.heads = 1, .kv_heads = 1, .d = 16, .rows = kMost, .codec = Codec::F32}, 3);
  w.append(kernels, 0, kMost);
  const auto selector = make_selector(spec_of(s));
  std::vector<float> inner;  // rows of the longest prompt: inner rows do not depend on the length
  uint64_t pairs = 0;
  inner = run_chunk(w, kernels, *selector, s, 0, kMost, kMost, &pairs);
  for (int32_t n = 1; n <= kMost; ++n) {
    // Rows that n makes new: its last ones, and some before them.
    const int32_t pos = std::max(0, n - 40);
    const auto out = run_chunk(w, kernels, *selector, s, pos, n - pos, n, &pairs);
    for (size_t x = 0; x < out.size(); ++x) {
      ASSERT_TRUE(std::isfinite(out[x])) << n;
      const int32_t i = pos + static_cast<int32_t>(x / 16);
      if (i < n - s.last && i < kMost - s.last) {
        ASSERT_EQ(out[x], inner[static_cast<size_t>(i) * 16 + x % 16]) << n;
      }
    }
  }
}

TEST(TriangleKernels, ShapesCoverTheMask) {
  // The probe's closed form of a row's keys against the definition.
  Philox rng(11);
  for (int32_t trial = 0; trial < 200; ++trial) {
    const Shape s = random_shape(rng, 100 + trial);
    for (int32_t i = 0; i < s.n; i += 1 + s.n / 40) {
      const int32_t from = i >= s.n - s.last ? 0 : std::max(0, i - s.window + 1), sinks = std::min(s.sink, from);
      for (int32_t j = 0; j < s.n; ++j) ASSERT_EQ(attends(s, i, j), j < sinks || (j >= from && j <= i));
    }
  }
}

}  // namespace
}  // namespace pare::test
