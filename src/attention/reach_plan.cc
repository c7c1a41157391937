#include "attention/reach_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/checked.h"

namespace pare {
namespace {

constexpr size_t kArenaAlign = 64;

bool is_prefill(const SeqStep& s) { return s.n_q > 0 && (s.flags & kSeqDecode) == 0; }

struct Cells {
  int32_t first, last;
};
Cells cells_of(const SeqStep& s, int32_t tile_rows) { return {s.pos / tile_rows, (s.pos + s.n_q - 1) / tile_rows}; }

// Lists and ranges of one sequence at most: the reach and, for some tiles, everything.
constexpr size_t kListsMax = 2, kRangesMax = 3;

}  // namespace

int32_t DenseRows::from(const SeqStep& s) const {
  if ((s.flags & kSeqDense) != 0 || s.prompt_len < min_tokens) return 0;
#ifdef PARE_FAULT_ATTENTION_LAST_OF_CHUNK
  return std::max(0, s.pos + s.n_q - last);
#else
  return std::max(0, s.prompt_len - last);
#endif
}

Status build_reach_plan(const PrefillRows& rows, Reach reach, Arena& arena, BlockPlan& out, const DenseRows* dense) {
  if (rows.tile_rows == 0 || rows.tile_rows > 1024 || !std::has_single_bit(rows.tile_rows)) {
    return internal_error(fmt::format("query tiles of {} rows; a power of two up to 1024 is needed", rows.tile_rows));
  }
  const int32_t tile_rows = rows.tile_rows;
  int32_t n_seqs = 0, n_tiles = 0;
  for (const SeqStep& s : rows.seqs) {
    if (!is_prefill(s)) continue;
    const Cells cells = cells_of(s, tile_rows);
    ++n_seqs;
    n_tiles += cells.last - cells.first + 1;
  }
  if (n_seqs > 0 && rows.limit != nullptr && !reach.unlimited()) {
    return unsupported("a window over rows that attend later positions (encoders need attn=dense)");
  }
  const auto tiles = arena.take<QTile>(n_tiles);
  const auto lists = arena.take<KeyList>(kListsMax * n_seqs);
  const auto ranges = arena.take<Range>(kRangesMax * n_seqs);
  const auto count = arena.take<int32_t>(1);
  if (tiles.size() + lists.size() + ranges.size() + count.size() !=
      static_cast<size_t>(n_tiles) + (kListsMax + kRangesMax) * static_cast<size_t>(n_seqs) + 1) {
    return resource_exhausted(fmt::format("step arena of {} bytes is full (block plan)", arena.capacity()));
  }

#ifdef PARE_FAULT_PLAN_WINDOW
  const int32_t window = reach.unlimited() ? reach.window : reach.window + 1;
#else
  const int32_t window = reach.window;
#endif
  int32_t tile = 0, list = 0, range = 0;
  for (size_t i = 0; i < rows.seqs.size(); ++i) {
    const SeqStep& s = rows.seqs[i];
    if (!is_prefill(s)) continue;
    int32_t end = s.pos + s.n_q;
    if (rows.limit != nullptr) end = *std::max_element(rows.limit + s.q_row, rows.limit + s.q_row + s.n_q);

    const int32_t dense_from = dense != nullptr && !reach.unlimited() ? dense->from(s) : INT32_MAX;
    const int32_t reach_list = list;
    if (s.pos < dense_from) {
      KeyList& keys = lists[list++] = KeyList();
      keys.abs0 = range;
      if (reach.unlimited() || reach.sink > 0) {
        ranges[range++] = {0, reach.unlimited() ? end : std::min(reach.sink, end)};
        keys.n_abs = 1;
      }
      keys.rel0 = range;
      if (!reach.unlimited()) {
        ranges[range++] = {0, window};
        keys.n_rel = 1;
        keys.sink = reach.sink;
        keys.window = window;
      }
    }
    const int32_t dense_list = list;
    if (end > dense_from) {
      KeyList& keys = lists[list++] = KeyList();
      keys.abs0 = range;
      keys.n_abs = 1;
      ranges[range++] = {0, end};
      keys.sink = reach.sink;
      keys.window = window;
      keys.dense_from = dense_from;
    }

    // Descending: tiles late in a sequence see the most keys, and work is handed out in this order.
    const Cells cells = cells_of(s, tile_rows);
    for (int32_t cell = cells.last; cell >= cells.first; --cell) {
      QTile& t = tiles[tile++] = QTile();
      t.seq = static_cast<int32_t>(i);
      t.pos_lo = cell * tile_rows;
      t.pos_hi = t.pos_lo + tile_rows;
      const int32_t first = std::max(s.pos, t.pos_lo);
      t.row0 = s.q_row + (first - s.pos);
      t.rows = static_cast<uint16_t>(std::min(s.pos + s.n_q, t.pos_hi) - first);
      t.list0 = first + t.rows > dense_from ? dense_list : reach_list;
      t.n_heads = s.heads != 0 ? s.heads : static_cast<uint16_t>(rows.n_heads);
    }
  }
  count[0] = n_tiles;
  out = BlockPlan();
  out.tiles = tiles.data();
  out.n_tiles = count.data();
  out.lists = lists.data();
  out.ranges = ranges.data();
  out.limit = rows.limit;
  out.tiles_cap = n_tiles;
  out.tile_rows = rows.tile_rows;
  return ok_status();
}

size_t reach_plan_max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) {
  const size_t seqs = static_cast<size_t>(std::min(max_rows, max_seqs));
  // A sequence of n rows touches at most (n - 1) / tile_rows + 2 cells, and no more than n.
  const size_t tiles =
      std::min<size_t>(max_rows, static_cast<size_t>(max_rows) / std::max<int>(tile_rows, 1) + 2 * seqs);
  return round_up(tiles * sizeof(QTile), kArenaAlign) + round_up(kListsMax * seqs * sizeof(KeyList), kArenaAlign) +
         round_up(kRangesMax * seqs * sizeof(Range), kArenaAlign) + kArenaAlign;
}

}  // namespace pare
