// Tiles in pieces: each row once, evenly, costliest first, and the same bits as whole tiles.
#include "kernels/prefill_pieces.h"

#include <gtest/gtest.h>

#include "attention_trials.h"
#include "kernels/ref/attention_ref.h"

namespace pare::test {
namespace {

// A triangle: rows from dense_from on visit everything, the tiles before it sink and window.
BlockPlanData triangle_plan(const World& w, int pos, int n, int sink, int window, int dense_from) {
  BlockPlanData plan = grid_plan(w, pos, n, 32);
  plan.ranges = {{0, sink}, {0, window}, {0, pos + n}};
  plan.lists = {{.abs0 = 0, .n_abs = 1, .rel0 = 1, .n_rel = 1, .sink = sink, .window = window},
                {.abs0 = 2, .n_abs = 1, .sink = sink, .window = window, .dense_from = dense_from}};
  for (QTile& t : plan.tiles) t.list0 = pos + t.row0 + t.rows > dense_from ? 1 : 0;
  return plan;
}

TEST(PrefillPieces, LastRowsOfATriangleAreSharedOut) {
  World w({.heads = 14, .kv_heads = 2, .d = 16, .rows = 8192});
  const int pos = 8192 - 512, n = 512;
  BlockPlanData data = triangle_plan(w, pos, n, 8, 512, 8192 - 128);
  const BlockPlan plan = data.view();
  const AttentionLayer layer = w.layer();
  std::vector<QTile> order;
  for (const int threads : {1, 2, 3, 16, 64, 1024}) {
    SCOPED_TRACE(threads);
    std::vector<TilePiece> room(tile_pieces_max(*plan.n_tiles, threads));
    const auto pieces = cut_tiles(layer, plan, threads, room);
    std::vector<int> times(n, 0);
    int64_t total = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const QTile& t = pieces[i].tile;
      for (int r = 0; r < t.rows; ++r) ++times[t.row0 + r];
      EXPECT_LE(t.pos_lo, pos + t.row0);
      EXPECT_LE(pos + t.row0 + t.rows, t.pos_hi);
      EXPECT_EQ(t.pos_hi - t.pos_lo, 32);
      if (i > 0) {
        EXPECT_GE(pieces[i - 1].pairs, pieces[i].pairs);
      }
      total += pieces[i].pairs;
    }
    EXPECT_EQ(times, std::vector<int>(n, 1));
    if (threads == 1) {
      EXPECT_EQ(pieces.size(), static_cast<size_t>(*plan.n_tiles));
      continue;
    }
    EXPECT_GE(pos + pieces[0].tile.row0, 8192 - 128);
    if (threads <= 16) {  // beyond, pieces have too few rows to cut
      EXPECT_LE(pieces[0].pairs, 3 * total * layer.kv.n_kv_heads / (4 * threads));
    }
  }
}

TEST(PrefillPieces, RandomPlansHaveTheSameBitsInPieces) {
  constexpr uint32_t kTrials = PARE_SANITIZED ? 8 : 40;
  for (uint32_t seed = 1; seed <= kTrials; ++seed) {
    SCOPED_TRACE(seed);
    Trial t = random_trial(seed);
    t.w.append(ref::attention_kernels(), 0, t.w.shape.rows);
    for (CpuLevel level : testable_cpu_levels()) {
      const AttentionKernels& kernels = attention_kernels(level);
      const auto whole = run_prefill(t.w, kernels, t.plan, t.pos, t.n);
      BlockPlanData cut = t.plan;
      std::vector<TilePiece> room(tile_pieces_max(static_cast<int64_t>(cut.tiles.size()), 16));
      AttentionLayer layer = t.w.layer();
      cut.tiles.clear();
      for (const TilePiece& piece : cut_tiles(layer, t.plan.view(), 16, room)) cut.tiles.push_back(piece.tile);
      EXPECT_TRUE(same_bits(run_prefill(t.w, kernels, cut, t.pos, t.n), whole)) << cpu_level_name(level);
    }
  }
}

}  // namespace
}  // namespace pare::test
