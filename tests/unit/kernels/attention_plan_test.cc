// Random BlockPlans against a reading of the Meaning paragraph of plan/block_plan.h that shares no code with
// the kernels. Every stored row that no query attends holds NaNs.
#include <gtest/gtest.h>

#include "attention_world.h"
#include "kernels/ref/attention_ref.h"

namespace pare::test {
namespace {

struct Trial {
  World w;
  BlockPlanData plan;
  int pos, n;
};

bool meets(const Range& r, int g) { return r.lo < r.hi && r.lo < (g + 1) * 16 && r.hi > g * 16; }

// Whether the row at packed index t attends key j as query head h, by the tile that stores it.
bool attends(const Trial& trial, int t, int h, int j) {
  const BlockPlanData& p = trial.plan;
  const bool claimed = !p.claimed.empty() && ((p.claimed[h * ((trial.n + 31) / 32) + t / 32] >> (t % 32)) & 1u) != 0;
  for (const QTile& tile : p.tiles) {
    if (h < tile.head0 || h >= tile.head0 + tile.n_heads) continue;
    const bool gathered = (tile.flags & kTileGathered) != 0;
    bool holds = false;
    for (int i = 0; i < tile.rows; ++i) holds |= (gathered ? p.row_ids[tile.row0 + i] : tile.row0 + i) == t;
    if (!holds || claimed != gathered) continue;
    const KeyList& list = p.lists[tile.list0 + (tile.list_heads ? (h - tile.head0) / tile.list_heads : 0)];
    const int i = trial.pos + t, limit = p.limit.empty() ? i + 1 : p.limit[t];
    if (j >= limit || !(i >= list.dense_from || j < list.sink || i - j < list.window)) return false;
    bool visited = false;
    for (int r = 0; r < list.n_abs; ++r) visited |= meets(p.ranges[list.abs0 + r], j / 16);
    for (int r = 0; r < list.n_rel; ++r) {
      const Range& d = p.ranges[list.rel0 + r];
      visited |= meets({std::max(0, tile.pos_lo - d.hi + 1), tile.pos_hi - d.lo}, j / 16);
    }
    if (list.bit_keys) {
      const int bit = j / list.bit_keys;
      visited |= ((p.bits[list.bit0 + bit / 32] >> (bit % 32)) & 1u) != 0;
    }
    for (int c = 0; c < list.n_col; ++c) visited |= p.cols[list.col0 + c] == j;
    return visited;
  }
  ADD_FAILURE() << "no tile stores row " << t << " of head " << h;
  return false;
}

KeyList random_list(World& w, BlockPlanData& plan, int tile_rows) {
  KeyList list;
  const int rows = w.shape.rows, kind = w.random(0, 8);
  const auto ascending = [&](int32_t* first, int32_t* count, int most, int longest, int gap) {
    *first = static_cast<int32_t>(plan.ranges.size());
    int at = w.random(0, 40);
    for (int i = w.random(0, most + 1); i > 0 && at < rows; --i) {
      const int len = w.random(1, longest);
      plan.ranges.push_back({at, at + len});
      ++*count;
      at += len + gap + w.random(0, 90);
    }
  };
  if (kind != 1) ascending(&list.abs0, &list.n_abs, 3, 120, 1);
  if (kind != 2) ascending(&list.rel0, &list.n_rel, 4, 60, tile_rows + 15);
  if (kind == 0) {
    list.abs0 = static_cast<int32_t>(plan.ranges.size());
    list.n_abs = 1;
    plan.ranges.push_back({0, INT32_MAX});
  }
  if (kind >= 4) {
    list.col0 = static_cast<int32_t>(plan.cols.size());
    for (int j = w.random(0, 8); j < rows; j += w.random(1, kind == 7 ? 2 : 12)) {
      plan.cols.push_back(j);
      ++list.n_col;
    }
  }
  if (kind == 3 || kind == 5) {
    list.bit_keys = w.random(0, 2) ? 64 : 128;
    list.bit0 = static_cast<int32_t>(plan.bits.size());
    for (int b = 0; b * 32 * list.bit_keys < rows; ++b) {
      plan.bits.push_back(static_cast<uint32_t>(w.random(0, 1 << 16)) & static_cast<uint32_t>(w.random(0, 1 << 16)));
    }
  }
  if (w.random(0, 3) == 0) {
    list.sink = w.random(0, 20);
    list.window = w.random(1, 150);
    if (w.random(0, 2)) list.dense_from = w.random(0, rows);
  }
  return list;
}

Trial random_trial(uint32_t seed) {
  std::mt19937 rng(seed);
  const auto pick = [&](std::initializer_list<int> of) { return of.begin()[rng() % of.size()]; };
  const int group = pick({1, 2, 3, 7}), kv_heads = pick({1, 2}), rows = pick({70, 200, 333, 600});
  Trial t{World({.heads = group * kv_heads,
                 .kv_heads = kv_heads,
                 .d = pick({16, 48, 64}),
                 .rows = rows,
                 .codec = pick({0, 1}) ? Codec::F16 : Codec::F32,
                 .tiled_heads = pick({0, 1}) == 1},
                seed),
          {},
          0,
          0};
  World& w = t.w;
  const int tile_rows = pick({16, 32, 64});
  t.pos = w.random(0, rows - 1);
  t.n = w.random(1, std::min(rows - t.pos, 90) + 1);
  t.plan = grid_plan(w, t.pos, t.n, tile_rows);
  const bool gathered = w.random(0, 3) == 0, free_limits = w.random(0, 4) == 0;
  for (QTile& tile : t.plan.tiles) {
    tile.list_heads = static_cast<uint16_t>(w.random(0, group + 1));
    tile.list0 = static_cast<int32_t>(t.plan.lists.size());
    const int lists = tile.list_heads ? (w.shape.heads + tile.list_heads - 1) / tile.list_heads : 1;
    for (int l = 0; l < lists; ++l) t.plan.lists.push_back(random_list(w, t.plan, tile_rows));
    if (gathered) tile.flags = kTileSkipClaimed;
  }
  if (gathered) {  // every third row of half the heads moves to tiles of its own
    const int words = (t.n + 31) / 32, head0 = w.shape.heads / 2;
    t.plan.claimed.assign(static_cast<size_t>(words) * w.shape.heads, 0);
    QTile tile;
    tile.flags = kTileGathered;
    tile.head0 = static_cast<uint16_t>(head0);
    tile.n_heads = static_cast<uint16_t>(w.shape.heads - head0);
    tile.pos_lo = t.pos;
    for (int i = 0; i < t.n && tile.rows < tile_rows; i += 3) {
      t.plan.row_ids.push_back(i);
      ++tile.rows;
      tile.pos_hi = t.pos + i + 1;
      for (int h = head0; h < w.shape.heads; ++h) t.plan.claimed[h * words + i / 32] |= 1u << (i % 32);
    }
    tile.list0 = static_cast<int32_t>(t.plan.lists.size());
    t.plan.lists.push_back(random_list(w, t.plan, tile_rows));
    t.plan.tiles.push_back(tile);
  }
  if (free_limits) {
    for (int i = 0; i < t.n; ++i) t.plan.limit.push_back(w.random(0, rows + 1));
  }
  return t;
}

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
        for (int j = 0; j < w.shape.rows; ++j) {
          if (!attends(t, i, h, j)) continue;
          seen[i][h].push_back(j);
          used[j * w.shape.kv_heads + w.kv_head(h)] = true;
        }
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
