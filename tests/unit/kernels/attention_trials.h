// Random BlockPlans over a random store, and a reading of the Meaning paragraph of plan/block_plan.h that shares no
// code with the kernels.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "attention_world.h"

namespace pare::test {

struct Trial {
  World w;
  BlockPlanData plan;
  int pos, n;
};

inline bool meets(const Range& r, int g) { return r.lo < r.hi && r.lo < (g + 1) * 16 && r.hi > g * 16; }

// Whether a tile visits key j for a list.
inline bool visits(const BlockPlanData& p, const QTile& tile, const KeyList& list, int j) {
  for (int r = 0; r < list.n_abs; ++r) {
    if (meets(p.ranges[list.abs0 + r], j / 16)) return true;
  }
  for (int r = 0; r < list.n_rel; ++r) {
    const Range& d = p.ranges[list.rel0 + r];
    if (meets({std::max(0, tile.pos_lo - d.hi + 1), tile.pos_hi - d.lo}, j / 16)) return true;
  }
  if (list.bit_keys) {
    const int bit = j / list.bit_keys;
    if (((p.bits[list.bit0 + bit / 32] >> (bit % 32)) & 1u) != 0) return true;
  }
  return std::binary_search(p.cols.begin() + list.col0, p.cols.begin() + list.col0 + list.n_col, j);
}

// The keys that the row at packed index t attends as query head h, by the tile that stores it, ascending.
inline std::vector<int> attended_keys(const Trial& trial, int t, int h) {
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
    std::vector<int> keys;
    for (int j = 0; j < std::min(limit, trial.w.shape.rows); ++j) {
      if (!(i >= list.dense_from || j < list.sink || i - j < list.window)) continue;
      if (visits(p, tile, list, j)) keys.push_back(j);
    }
    return keys;
  }
  ADD_FAILURE() << "no tile stores row " << t << " of head " << h;
  return {};
}

inline KeyList random_list(World& w, BlockPlanData& plan, int tile_rows) {
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

struct TrialShapes {
  std::vector<int> groups = {1, 2, 3, 7}, kv_heads = {1, 2}, rows = {70, 200, 333, 600}, d = {16, 48, 64},
                   tile_rows = {16, 32, 64};
  std::vector<Codec> codecs = {Codec::F32, Codec::F16};
  int max_queries = 90;
};

inline Trial random_trial(uint32_t seed, const TrialShapes& shapes = {}) {
  std::mt19937 rng(seed);
  const auto pick = [&](const auto& of) { return of[rng() % of.size()]; };
  const int group = pick(shapes.groups), kv_heads = pick(shapes.kv_heads), rows = pick(shapes.rows);
  const int d = pick(shapes.d);
  const Codec codec = pick(shapes.codecs);
  Trial t{World({.heads = group * kv_heads,
                 .kv_heads = kv_heads,
                 .d = d,
                 .rows = rows,
                 .codec = codec,
                 .tiled_heads = rng() % 2 == 1},
                seed),
          {},
          0,
          0};
  World& w = t.w;
  const int tile_rows = pick(shapes.tile_rows);
  t.pos = w.random(0, rows - 1);
  t.n = w.random(1, std::min(rows - t.pos, shapes.max_queries) + 1);
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

}  // namespace pare::test
