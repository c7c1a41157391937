// Random BlockPlans against a reading of their meaning that shares no code with the kernels. Every stored row that no
// query attends holds NaNs.
#include <gtest/gtest.h>

#include "attention_trials.h"
#include "kernels/ref/attention_ref.h"

namespace pare::test {
namespace {

TEST(AttentionPlan, RandomPlansMeanWhatTheContractSays) {
  constexpr uint32_t kTrials = PARE_SANITIZED ? 20 : 100;  // one takes a second there
  for (uint32_t seed = 1; seed <= kTrials; ++seed) {
    SCOPED_TRACE(seed);
    Trial t = random_trial(seed);
    World& w = t.w;
    const int d = w.shape.d, heads = w.shape.heads;
    std::vector<std::vector<std::vector<int>>> seen(t.n, std::vector<std::vector<int>>(heads));
    std::vector<bool> used(static_cast<size_t>(w.shape.rows) * w.shape.kv_heads, false);
    for (int i = 0; i < t.n; ++i) {
      for (int h = 0; h < heads; ++h) {
        seen[i][h] = attended_keys(t, i, h);
        for (int j : seen[i][h]) used[j * w.shape.kv_heads + w.kv_head(h)] = true;
      }
    }
    World stored = w;
    for (size_t row = 0; row < used.size(); ++row) {
      if (used[row]) continue;
      for (auto* x : {&stored.k, &stored.v}) {
        std::fill_n(x->begin() + static_cast<int64_t>(row) * d, d, std::numeric_limits<float>::quiet_NaN());
      }
    }
    stored.append(ref::attention_kernels(), 0, w.shape.rows);
    const auto expected = run_prefill(stored, ref::attention_kernels(), t.plan, t.pos, t.n);
    for (int i = 0; i < t.n; i += 5) {
      for (int h = 0; h < heads; ++h) {
        std::vector<OracleKey> keys;
        for (int j : seen[i][h]) {
          OracleKey key{{w.key(j, w.kv_head(h)), w.key(j, w.kv_head(h)) + d},
                        {w.value(j, w.kv_head(h)), w.value(j, w.kv_head(h)) + d}};
          for (auto* x : {&key.k, &key.v}) {
            for (float& e : *x) e = rounded(e, w.shape.codec);
          }
          keys.push_back(std::move(key));
        }
        double tolerance;
        const std::vector<float> query(w.query(t.pos + i, h), w.query(t.pos + i, h) + d);
        const auto truth = oracle(query, keys, w.scale, 0, d, &tolerance);
        for (int c = 0; c < d; ++c) {
          ASSERT_NEAR(expected[(static_cast<size_t>(i) * heads + h) * d + c], truth[c], tolerance)
              << "row " << i << " head " << h;
        }
      }
    }
    for (CpuLevel level : testable_cpu_levels()) {
      AttentionCounters counters;
      ASSERT_TRUE(same_bits(run_prefill(stored, attention_kernels(level), t.plan, t.pos, t.n, &counters), expected))
          << cpu_level_name(level);
      uint64_t pairs = 0;
      for (const auto& row : seen) {
        for (const auto& head : row) pairs += head.size();
      }
      EXPECT_EQ(counters.keys_visited, pairs) << cpu_level_name(level);
    }
  }
}

TEST(AttentionPlan, VisitingMaskedBlocksChangesNoBit) {
  for (CpuLevel level : testable_cpu_levels()) {
    World w({.heads = 3, .kv_heads = 1, .d = 64, .rows = 1500}, 4);
    w.append(ref::attention_kernels(), 0, 1500);
    const int pos = 1400, n = level == CpuLevel::kScalar ? 5 : 100;
    BlockPlanData tight = grid_plan(w, pos, n, 32), loose = tight;
    tight.ranges = {{0, 5}, {0, 70}};
    tight.lists = {{.abs0 = 0, .n_abs = 1, .rel0 = 1, .n_rel = 1, .sink = 5, .window = 70}};
    loose.ranges = {{0, INT32_MAX}};
    loose.lists = {{.abs0 = 0, .n_abs = 1, .sink = 5, .window = 70}};
    const AttentionKernels& kernels = attention_kernels(level);
    EXPECT_TRUE(same_bits(run_prefill(w, kernels, tight, pos, n), run_prefill(w, kernels, loose, pos, n)))
        << cpu_level_name(level);
  }
}

}  // namespace
}  // namespace pare::test
