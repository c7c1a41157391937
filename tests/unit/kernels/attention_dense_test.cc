// Dense attention: every level against kernels/ref bit for bit, ref against a double-precision softmax, and
// the bits of a row against everything that must not change them.
#include <gtest/gtest.h>

#include "attention_world.h"
#include "kernels/ref/attention_ref.h"

namespace pare::test {
namespace {

std::vector<std::pair<CpuLevel, const AttentionKernels*>> levels() {
  std::vector<std::pair<CpuLevel, const AttentionKernels*>> out;
  for (CpuLevel level : testable_cpu_levels()) out.emplace_back(level, &attention_kernels(level));
  return out;
}

// The plain oracle's rows over causal keys.
void expect_near_oracle(const World& w, const std::vector<float>& out, int pos, int n, int stride) {
  const int d = w.shape.d;
  for (int i = 0; i < n; i += stride) {
    for (int h = 0; h < w.shape.heads; ++h) {
      std::vector<OracleKey> keys;
      for (int j = 0; j <= pos + i; ++j) {
        OracleKey key{{w.key(j, w.kv_head(h)), w.key(j, w.kv_head(h)) + d},
                      {w.value(j, w.kv_head(h)), w.value(j, w.kv_head(h)) + d}};
        for (auto* x : {&key.k, &key.v}) {
          for (float& e : *x) e = rounded(e, w.shape.codec);
        }
        keys.push_back(std::move(key));
      }
      double tolerance;
      const auto expected =
          oracle({w.query(pos + i, h), w.query(pos + i, h) + d}, keys, w.scale, w.softcap, d, &tolerance);
      for (int c = 0; c < d; ++c) {
        ASSERT_NEAR(out[(static_cast<size_t>(i) * w.shape.heads + h) * d + c], expected[c], tolerance)
            << "row " << i << " head " << h << " channel " << c;
      }
    }
  }
}

TEST(AttentionAppend, EveryLevelStoresTheSameBytes) {
  for (Codec codec : {Codec::F16, Codec::F32}) {
    World expected({.heads = 4, .kv_heads = 2, .d = 80, .rows = 150, .codec = codec}, 7);
    const float specials[] = {65504.0f, 65519.9f,   65520.0f, 1e30f, -1e-8f,
                              0x1p-25f, 0x1.8p-24f, -0.0f,    6e-5f, std::numeric_limits<float>::infinity()};
    for (size_t i = 0; i < std::size(specials); ++i) {
      expected.k[i * 37] = specials[i];
      expected.v[i * 53] = specials[i];
    }
    for (const auto& [level, kernels] : levels()) {
      World w = expected;
      w.append(*kernels, 3, 70);
      w.append(*kernels, 70, 149);
      World plain = expected;
      plain.append(ref::attention_kernels(), 3, 149);
      EXPECT_EQ(w.bytes(), plain.bytes()) << cpu_level_name(level);
    }
  }
}

struct DenseCase {
  int rows, group, d;
};

class DensePrefill : public testing::TestWithParam<DenseCase> {};

TEST_P(DensePrefill, LevelsEqualRefAndRefIsClose) {
  const auto [rows, group, d] = GetParam();
  const int kv_heads = rows > 300 ? 1 : 2;
  World w({.heads = group * kv_heads,
           .kv_heads = kv_heads,
           .d = d,
           .rows = rows,
           .codec = group % 2 ? Codec::F16 : Codec::F32,
           .tiled_heads = group == 3},
          rows + group);
  w.scale = 1.0f / std::sqrt(static_cast<float>(d));
  w.append(ref::attention_kernels(), 0, rows);
  const int pos = rows > 300 ? rows - 66 : 0, n = rows - pos;  // long rows: the last ones only
  BlockPlanData plan = dense_plan(w, pos, n, 32);
  const auto expected = run_prefill(w, ref::attention_kernels(), plan, pos, n);
  expect_near_oracle(w, expected, pos, n, rows > 64 ? 13 : 1);
  for (const auto& [level, kernels] : levels()) {
    AttentionCounters counters;
    EXPECT_TRUE(same_bits(run_prefill(w, *kernels, plan, pos, n, &counters), expected)) << cpu_level_name(level);
    EXPECT_EQ(counters.fallbacks, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(OddShapes, DensePrefill,
                         testing::Values(DenseCase{1, 1, 16}, DenseCase{1, 7, 64}, DenseCase{15, 2, 64},
                                         DenseCase{16, 3, 80}, DenseCase{17, 6, 64}, DenseCase{63, 1, 128},
                                         DenseCase{64, 8, 16}, DenseCase{65, 7, 64}, DenseCase{127, 2, 80},
                                         DenseCase{129, 3, 64}, DenseCase{255, 1, 64}, DenseCase{256, 3, 16},
                                         DenseCase{257, 2, 128}, DenseCase{65, 1, 256}, DenseCase{1091, 3, 64},
                                         DenseCase{1091, 1, 256}, DenseCase{2200, 2, 32}));

TEST(AttentionDense, SoftCapAndExtremeLogits) {
  for (float softcap : {0.0f, 30.0f}) {
    for (float size : {0.0f, 1.0f, 1e4f}) {
      World w({.heads = 3, .kv_heads = 1, .d = 64, .rows = 130}, 11);
      w.scale = 1.0f;
      w.softcap = softcap;
      for (float& x : w.q) x = 0;
      for (int i = 0; i < 130 * 3; ++i) w.q[i * 64] = size * (i % 2 ? 1.0f : -1.0f);
      for (int j = 0; j < 130; ++j) w.k[j * 64] = j % 3 - 1.0f;
      w.append(ref::attention_kernels(), 0, 130);
      BlockPlanData plan = dense_plan(w, 0, 130, 64);
      const auto expected = run_prefill(w, ref::attention_kernels(), plan, 0, 130);
      expect_near_oracle(w, expected, 0, 130, 7);
      for (const auto& [level, kernels] : levels()) {
        EXPECT_TRUE(same_bits(run_prefill(w, *kernels, plan, 0, 130), expected)) << cpu_level_name(level);
      }
    }
  }
}

TEST(AttentionDense, ChunksTilesAndMatesDoNotChangeARow) {
  for (const auto& [level, kernels] : levels()) {
    if (level == CpuLevel::kScalar) continue;
    World w({.heads = 6, .kv_heads = 2, .d = 64, .rows = 700}, 5);
    w.append(*kernels, 0, 700);
    BlockPlanData whole = dense_plan(w, 0, 700, 64);
    const auto expected = run_prefill(w, *kernels, whole, 0, 700);
    for (int trial = 0; trial < 12; ++trial) {
      const int pos = w.random(0, 690), n = w.random(1, 700 - pos + 1), tile_rows = 16 << w.random(0, 3);
      BlockPlanData part = dense_plan(w, pos, n, tile_rows);
      const auto got = run_prefill(w, *kernels, part, pos, n);
      ASSERT_TRUE(same_bits(got.data(), expected.data() + static_cast<size_t>(pos) * 6 * 64, got.size()))
          << cpu_level_name(level) << " rows " << pos << "+" << n << " tiles of " << tile_rows;
    }
  }
}

TEST(AttentionDense, DecodeEqualsPrefillForEveryCut) {
  const int rows = 5000, d = 32;
  for (const auto& [level, kernels] : levels()) {
    if (level == CpuLevel::kScalar) continue;
    World w({.heads = 3, .kv_heads = 1, .d = d, .rows = rows}, 9);
    w.append(*kernels, 0, rows);
    for (int pos : {0, 15, 16, 63, 64, 255, 256, 1090, 2047, 2048, 4990}) {
      BlockPlanData plan = dense_plan(w, pos, 1, 16);
      const auto expected = run_prefill(w, *kernels, plan, pos, 1);
      for (uint16_t cut : {1, 2, 4, 8, 16, 64}) {
        SegmentPlanData segment;
        segment.add_seq(0, 1, pos, 3);
        pare::Run run{.page0 = static_cast<uint32_t>(w.page0[0]), .rows = pos + 1, .item_spans = cut};
        segment.add_run(run, kSpanRows, false, {0}, 0);
        ASSERT_TRUE(same_bits(run_decode(w, *kernels, segment, pos), expected))
            << cpu_level_name(level) << " position " << pos << " items of " << cut;
      }
    }
  }
}

TEST(AttentionDense, DraftRowsAndCascadesEqualSingleRows) {
  const int rows = 900;
  for (const auto& [level, kernels] : levels()) {
    World w({.heads = 4, .kv_heads = 2, .d = 64, .rows = rows}, 3);
    w.append(*kernels, 0, rows);
    const int pos = 600, n_q = level == CpuLevel::kScalar ? 3 : 16;
    BlockPlanData plan = dense_plan(w, pos, 2 * n_q, 16);
    const auto expected = run_prefill(w, *kernels, plan, pos, 2 * n_q);
    // Two sequences of n_q draft rows share the first 512 rows in one run, and read the rest apart.
    SegmentPlanData segment;
    segment.add_seq(0, n_q, pos, 4);
    segment.add_seq(n_q, n_q, pos + n_q, 4);
    pare::Run shared{.page0 = static_cast<uint32_t>(w.page0[0]), .rows = 512, .item_spans = 1};
    segment.add_run(shared, kSpanRows, false, {0, 1}, 0);
    for (int s : {0, 1}) {
      pare::Run own{
          .flags = kRunCausal, .page0 = shared.page0, .row0 = 512, .rows = pos + (s + 1) * n_q - 512, .pos0 = 512};
      segment.add_run(own, kSpanRows, false, {s}, 0);
    }
    EXPECT_TRUE(same_bits(run_decode(w, *kernels, segment, pos), expected)) << cpu_level_name(level);
  }
}

TEST(AttentionDense, UnsupportedLayoutsGoToRefAndAreCounted) {
  for (Order order : {Order::Rows, Order::Tiles}) {
    World w({.heads = 2, .kv_heads = 1, .d = 32, .rows = 70, .codec = Codec::Bf16, .order = order}, 2);
    for (const auto& [level, kernels] : levels()) {
      w.append(*kernels, 0, 70);
      BlockPlanData plan = dense_plan(w, 0, 70, 16);
      AttentionCounters counters;
      expect_near_oracle(w, run_prefill(w, *kernels, plan, 0, 70, &counters), 0, 70, 5);
      EXPECT_EQ(counters.fallbacks, level == CpuLevel::kScalar ? 0u : plan.tiles.size()) << cpu_level_name(level);
      SegmentPlanData segment;
      segment.add_seq(0, 1, 69, 2);
      segment.add_run(pare::Run{.page0 = static_cast<uint32_t>(w.page0[0]), .rows = 70}, kSpanRows, false, {0}, 0);
      expect_near_oracle(w, run_decode(w, *kernels, segment, 69), 69, 1, 1);
    }
  }
}

TEST(AttentionDense, CountersNameWhatWasRead) {
  for (const auto& [level, kernels] : levels()) {
    World w({.heads = 2, .kv_heads = 1, .d = 64, .rows = 100}, 2);
    w.append(*kernels, 0, 100);
    BlockPlanData plan = dense_plan(w, 0, 100, 32);
    AttentionCounters counters;
    run_prefill(w, *kernels, plan, 0, 100, &counters);
    EXPECT_EQ(counters.keys_visited, 2u * 100 * 101 / 2) << cpu_level_name(level);
    EXPECT_EQ(counters.bytes_read, counters.rows_read * 64 * 2 * 2);
  }
}

}  // namespace
}  // namespace pare::test
