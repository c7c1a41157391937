// SegmentPlans: windows equal prefill bit for bit; narrow, estimated, picked and scored rows equal
// kernels/ref bit for bit, and a double-precision softmax over the rows that the plan names.
#include <gtest/gtest.h>

#include "attention_world.h"
#include "kernels/ref/attention_ref.h"

namespace pare::test {
namespace {

TEST(AttentionSegment, WindowsEqualPrefillWhateverTheRuns) {
  const int rows = 2600, sink = 4, window = 300;
  for (CpuLevel level : testable_cpu_levels()) {
    const AttentionKernels& kernels = attention_kernels(level);
    World w({.heads = 2, .kv_heads = 1, .d = 32, .rows = rows}, 21);
    w.append(kernels, 0, rows);
    for (int pos : {3, 299, 300, 304, 700, 2100, 2595}) {
      const int n_q = 3;
      BlockPlanData plan = grid_plan(w, pos, n_q, 16);
      plan.ranges = {{0, sink}, {0, window}};
      plan.lists = {{.n_abs = 1, .rel0 = 1, .n_rel = 1, .sink = sink, .window = window}};
      const auto expected = run_prefill(w, kernels, plan, pos, n_q);
      const auto page0 = static_cast<uint32_t>(w.page0[0]);
      for (uint16_t cut : {1, 2, 4, 8}) {
        SegmentPlanData one;  // every row, masked
        one.window = window;
        one.add_seq(0, n_q, pos, 2);
        one.add_run(
            {.flags = kRunCausal | kRunWindow, .page0 = page0, .rows = pos + n_q, .item_spans = cut, .sink = sink},
            kSpanRows, false, {0}, 0);
        EXPECT_TRUE(same_bits(run_decode(w, kernels, one, pos), expected)) << cpu_level_name(level) << " at " << pos;
        const int row0 = std::max(0, pos - window + 1);
        if (row0 / kSpanRows == 0 || (cut == 8 && row0 / 2048 == 0)) continue;  // runs share no span, octets no part
        SegmentPlanData two;                                                    // the rows that some query sees
        two.window = window;
        two.add_seq(0, n_q, pos, 2);
        two.add_run({.page0 = page0, .rows = sink, .item_spans = 1}, kSpanRows, false, {0}, 0);
        two.add_run({.flags = kRunCausal | kRunWindow,
                     .page0 = page0,
                     .row0 = row0,
                     .rows = pos + n_q - row0,
                     .pos0 = row0,
                     .item_spans = cut},
                    kSpanRows, false, {0}, 0);
        EXPECT_TRUE(same_bits(run_decode(w, kernels, two, pos), expected)) << cpu_level_name(level) << " at " << pos;
      }
    }
  }
}

// A sequence whose history lies in four zones: 100 rows full, 200 rows of half width, 40 picked clusters of a
// leaf zone, 90 estimated rows.
struct Mixed {
  explicit Mixed(uint32_t seed) : w({.heads = 4, .kv_heads = 2, .d = 64, .rows = 300}, seed) {
    for (int i = 0; i < 32; ++i) w.channels.push_back({static_cast<uint16_t>(i * 2 + 1), 0.5f + 0.05f * i});
    mid = w.add_zone({.page_rows = 64, .span = kSpanRows}, 200, 32, false, 0);
    leaf = w.add_zone({.page_rows = 1280, .span = 16, .picked = 1, .line = 16}, 2560, 64);
    meta = w.add_zone({.page_rows = 64, .span = kSpanRows}, 300, 64, true);
    w.append(ref::attention_kernels(), 0, 100);
    const auto row = [&](int zone, int g, int r, float lw, int width) {
      std::vector<float> key(width), value(64);
      w.fill(key, 1.0f);
      w.fill(value, 1.0f);
      w.put(zone, g, r, key, value, lw);
      OracleKey k{key, value, lw};
      for (auto* x : {&k.k, &k.v}) {
        for (float& e : *x) e = rounded(e, Codec::F16);
      }
      return k;
    };
    for (int g = 0; g < 2; ++g) {
      for (int r = 0; r < 200; ++r) mid_rows[g].push_back(row(mid, g, r, 0, 32));
      for (int r = 0; r < 300; ++r) {
        const float lw = r % 9 == 0 ? -std::numeric_limits<float>::infinity() : std::log(1.0f + r % 30);
        meta_rows[g].push_back(row(meta, g, r, lw, 64));
      }
      for (int r = 0; r < 2560; ++r) leaf_rows[g].push_back(row(leaf, g, r, 0, 64));
    }
  }
  World w;
  int mid, leaf, meta;
  std::vector<OracleKey> mid_rows[2], leaf_rows[2], meta_rows[2];
};

TEST(AttentionSegment, NarrowPickedAndEstimatedRows) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Mixed m(seed);
    World& w = m.w;
    const int n_q = 2, cap = 48, pos = 298;
    const bool scored = seed % 3 == 0, absent = seed % 2 == 0;
    if (absent) w.formats[m.mid * 2 + 1].v_width = 0;  // KV head 1 lost its mid rows
    SegmentPlanData s;
    s.add_seq(0, n_q, pos, 4);
    s.add_run({.page0 = static_cast<uint32_t>(w.page0[0]), .rows = 100}, kSpanRows, false, {0}, 0);
    s.add_run(
        {.zone = static_cast<uint8_t>(m.mid), .page0 = static_cast<uint32_t>(w.page0[m.mid]), .rows = 200, .pos0 = -1},
        kSpanRows, false, {0}, 2);
    pare::Run leaf{.zone = static_cast<uint8_t>(m.leaf),
                   .page0 = static_cast<uint32_t>(w.page0[m.leaf]),
                   .rows = 2560,
                   .pos0 = -1,
                   .pick0 = 5,
                   .pick_cap = cap};
    leaf.item_spans = seed % 2 ? 1 : 8;
    s.add_run(leaf, 16, true, {0}, 4);
    pare::Run meta{.zone = static_cast<uint8_t>(m.meta),
                   .page0 = static_cast<uint32_t>(w.page0[m.meta]),
                   .row0 = 3,
                   .rows = 290,
                   .pos0 = -1};
    if (scored) meta.flags = kRunScored;
    s.add_run(meta, kSpanRows, false, {0}, 5);
    s.picks.resize(5 + n_q * 2 * cap);
    s.pick_n.assign(s.picks.size(), -1);
    for (int list = 0; list < n_q * 2; ++list) {
      const int first = 5 + list * cap, n = w.random(0, cap + 1);
      s.pick_n[first] = n;
      int at = 16 * w.random(0, 3);
      for (int i = 0; i < n; ++i) {
        const int len = w.random(1, 49);
        s.picks[first + i] = {at, at + len};
        at += (len + 15) / 16 * 16 + 16 * w.random(0, 1);
      }
      ASSERT_LE(at, 2560);
    }
    if (scored) {
      s.scores.resize(static_cast<size_t>(n_q) * 4 * meta.rows);
      w.fill(s.scores, 3.0f);
    }
    const auto expected = run_decode(w, ref::attention_kernels(), s, pos);
    for (CpuLevel level : testable_cpu_levels()) {
      AttentionCounters counters;
      EXPECT_TRUE(same_bits(run_decode(w, attention_kernels(level), s, pos, &counters), expected))
          << cpu_level_name(level);
      EXPECT_EQ(counters.fallbacks, 0u);
    }
    for (int i = 0; i < n_q; ++i) {
      for (int h = 0; h < 4; ++h) {
        // The narrow rows' logits come from other channels: they enter the oracle as rows whose logit is
        // their weight.
        const int g = w.kv_head(h);
        const float* query = w.query(pos + i, h);
        std::vector<OracleKey> keys;
        for (int j = 0; j < 100; ++j) {
          OracleKey key{{w.key(j, g), w.key(j, g) + 64}, {w.value(j, g), w.value(j, g) + 64}};
          for (auto* x : {&key.k, &key.v}) {
            for (float& e : *x) e = rounded(e, Codec::F16);
          }
          keys.push_back(std::move(key));
        }
        for (const OracleKey& row : m.mid_rows[g]) {
          if (absent && g == 1) break;
          double dot = 0;
          for (int c = 0; c < 32; ++c) {
            dot += static_cast<double>(query[w.channels[c].id]) * w.channels[c].alpha * row.k[c];
          }
          keys.push_back({std::vector<float>(64, 0.0f), row.v, w.scale * dot});
        }
        const int first = 5 + (i * 2 + g) * cap;
        for (int p = 0; p < s.pick_n[first]; ++p) {
          for (int j = s.picks[first + p].lo; j < s.picks[first + p].hi; ++j) keys.push_back(m.leaf_rows[g][j]);
        }
        for (int j = 3; j < 293; ++j) {
          OracleKey key = m.meta_rows[g][j];
          if (scored) {
            key.k.assign(64, 0.0f);
            key.lw = s.scores[(static_cast<size_t>(i) * 4 + h) * meta.rows + j - 3] * std::log(2.0);
          }
          if (!std::isinf(key.lw)) keys.push_back(std::move(key));
        }
        double tolerance;
        const auto truth = oracle({query, query + 64}, keys, w.scale, 0, 64, &tolerance);
        for (int c = 0; c < 64; ++c) {
          ASSERT_NEAR(expected[(static_cast<size_t>(i) * 4 + h) * 64 + c], truth[c], tolerance) << i << " " << h;
        }
      }
    }
  }
}

TEST(AttentionSegment, InactiveHeadsAreLeftAlone) {
  for (CpuLevel level : testable_cpu_levels()) {
    World w({.heads = 6, .kv_heads = 2, .d = 16, .rows = 40, .tiled_heads = true}, 8);
    w.append(attention_kernels(level), 0, 40);
    SegmentPlanData s;
    s.add_seq(0, 1, 39, 4);
    s.add_run({.page0 = static_cast<uint32_t>(w.page0[0]), .rows = 40}, kSpanRows, false, {0}, 0);
    const auto out = run_decode(w, attention_kernels(level), s, 39);
    for (int h = 0; h < 6; ++h) EXPECT_EQ(std::isnan(out[h * 16]), h >= 4) << cpu_level_name(level) << " head " << h;
  }
}

}  // namespace
}  // namespace pare::test
