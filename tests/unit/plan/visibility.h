// What plans mean, by brute force: for a query row and head, the keys attended and how often. Written from
// block_plan.h and segment_plan.h alone, one key at a time, so that it shares no shortcut with builders or
// kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/block_plan.h"
#include "plan/segment_plan.h"
#include "plan/step.h"

namespace pare::testing {

// counts[j]: how often key j is attended; size = keys looked at.
using KeyCounts = std::vector<int>;

inline bool tile_visits(const BlockPlan& plan, const QTile& tile, const KeyList& list, int32_t j) {
  const int32_t granule = j / kGranuleKeys;
  for (int32_t k = granule * kGranuleKeys; k < (granule + 1) * kGranuleKeys; ++k) {
    for (int32_t i = 0; i < list.n_abs; ++i) {
      const Range r = plan.ranges[list.abs0 + i];
      if (k >= r.lo && k < r.hi) return true;
    }
    for (int32_t i = 0; i < list.n_rel; ++i) {
      const Range d = plan.ranges[list.rel0 + i];
      // Some position p of the cell has p - k in the range.
      for (int64_t p = tile.pos_lo; p < tile.pos_hi; ++p) {
        if (p - k >= d.lo && p - k < d.hi) return true;
      }
    }
    if (list.bit_keys > 0) {
      const int32_t bit = k / list.bit_keys;
      if ((plan.bits[list.bit0 + bit / 32] >> (bit % 32) & 1) != 0) return true;
    }
  }
  for (int32_t i = 0; i < list.n_col; ++i) {
    if (plan.cols[list.col0 + i] == j) return true;
  }
  return false;
}

// Keys [0, n_keys) that packed row t attends with `head`, over all tiles that hold it.
inline KeyCounts block_keys(const BlockPlan& plan, std::span<const SeqStep> seqs, int32_t t, int32_t head,
                            int32_t n_keys) {
  KeyCounts counts(n_keys, 0);
  for (int32_t n = 0; n < *plan.n_tiles; ++n) {
    const QTile& tile = plan.tiles[n];
    if (t < tile.row0 || t >= tile.row0 + tile.rows || head < tile.head0 || head >= tile.head0 + tile.n_heads) continue;
    const KeyList& list =
        plan.lists[tile.list_heads == 0 ? tile.list0 : tile.list0 + (head - tile.head0) / tile.list_heads];
    const SeqStep& s = seqs[tile.seq];
    const int32_t i = s.pos + (t - s.q_row);
    const int32_t limit = plan.limit != nullptr ? plan.limit[t] : i + 1;
    int32_t granule = -1;
    bool visited = false;
    for (int32_t j = 0; j < n_keys && j < limit; ++j) {
      if (list.n_col > 0 || j / kGranuleKeys != granule) {
        granule = j / kGranuleKeys;
        visited = tile_visits(plan, tile, list, j);
      }
      if (visited && (i >= list.dense_from || j < list.sink || i - j < list.window)) ++counts[j];
    }
  }
  return counts;
}

// Keys [0, n_keys) that query row q of sequence `seq` attends through the runs of all zones.
inline KeyCounts segment_keys(const SegmentPlan& plan, std::span<const SeqStep> seqs, int32_t seq, int32_t q,
                              int32_t n_keys) {
  KeyCounts counts(n_keys, 0);
  const int32_t i = seqs[seq].pos + q;
  for (int32_t r = 0; r < *plan.n_runs; ++r) {
    const Run& run = plan.runs[r];
    for (int32_t m = 0; m < run.n_members; ++m) {
      if (plan.members[run.member0 + m].seq != seq) continue;
      if (run.pos0 < 0) continue;  // estimated rows stand for keys of heads that another run does not give them
      for (int32_t row = run.row0; row < run.row0 + run.rows; ++row) {
        const int32_t j = run.pos0 + (row - run.row0);
        if ((run.flags & kRunCausal) != 0 && j > i) continue;
        if ((run.flags & kRunWindow) != 0 && !(row < run.sink || i - j < plan.window)) continue;
        if (j < n_keys) {
          ++counts[j];
        } else {
          counts.resize(j + 1, 0);
          counts[j] = 1;
          n_keys = j + 1;
        }
      }
    }
  }
  return counts;
}

}  // namespace pare::testing
