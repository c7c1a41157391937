#include "plan/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/checked.h"

namespace pare {
namespace {

constexpr int32_t kOctetRows = kOctetSpans * kSpanRows;

bool is_decode(const SeqStep& s) { return (s.flags & kSeqDecode) != 0; }

Status broken(std::string message) { return internal_error(std::move(message)); }

// Pages of the full zone that hold rows [begin, end) of a sequence.
Status check_live(const PlanCheck& check, const SeqStep& s, int32_t begin, int32_t end) {
  if (check.kv == nullptr) return ok_status();
  for (int32_t p = begin / kPageRows; p < ceil_div(end, kPageRows); ++p) {
    if (check.kv->page_ids[s.page0 + p] < 0) {
      return broken(fmt::format("rows [{}, {}) are planned, but page {} has been given back", begin, end, p));
    }
  }
  return ok_status();
}

// Granule-rounded keys that a tile visits through one range.
Range visited_by_rel(const QTile& tile, Range d) {
  const int64_t lo = std::max<int64_t>(0, int64_t{tile.pos_lo} - d.hi + 1);
  const int64_t hi = std::max<int64_t>(lo, int64_t{tile.pos_hi} - d.lo);
  return {static_cast<int32_t>(lo / kGranuleKeys * kGranuleKeys),
          static_cast<int32_t>(std::min<int64_t>(round_up<int64_t>(hi, kGranuleKeys), INT32_MAX))};
}

Status check_list(const BlockPlan& plan, const KeyList& list, int32_t end) {
  for (int32_t i = 0; i < list.n_abs; ++i) {
    const Range& r = plan.ranges[list.abs0 + i];
    if (r.lo < 0 || r.hi <= r.lo || r.hi > end) return broken(fmt::format("key range [{}, {}) of {}", r.lo, r.hi, end));
    if (i > 0 && r.lo <= plan.ranges[list.abs0 + i - 1].hi) return broken("key ranges out of order");
  }
  for (int32_t i = 0; i < list.n_rel; ++i) {
    const Range& r = plan.ranges[list.rel0 + i];
    if (r.lo < 0 || r.hi <= r.lo) return broken(fmt::format("distance range [{}, {})", r.lo, r.hi));
    if (i > 0 && r.lo - plan.ranges[list.rel0 + i - 1].hi < plan.tile_rows + kGranuleKeys - 1) {
      return broken("distance ranges closer than a tile and a granule");
    }
  }
  for (int32_t i = 0; i < list.n_col; ++i) {
    const int32_t col = plan.cols[list.col0 + i];
    if (col < 0 || col >= end || (i > 0 && col <= plan.cols[list.col0 + i - 1])) return broken("columns out of order");
  }
  return ok_status();
}

Status check_tile(const BlockPlan& plan, const QTile& tile, const PlanCheck& check,
                  std::vector<std::vector<uint8_t>>& stored) {
  if (tile.flags != 0) return broken("gathered tiles are not built yet");
  if (tile.seq < 0 || tile.seq >= static_cast<int32_t>(check.seqs.size())) return broken("tile of no sequence");
  const SeqStep& s = check.seqs[tile.seq];
  if (is_decode(s)) return broken("tile of a decoding sequence");
  if (tile.pos_lo % plan.tile_rows != 0 || tile.pos_hi != tile.pos_lo + plan.tile_rows) {
    return broken(fmt::format("tile [{}, {}) is no grid cell of {}", tile.pos_lo, tile.pos_hi, plan.tile_rows));
  }
  const int32_t first = s.pos + (tile.row0 - s.q_row);
  if (tile.rows == 0 || tile.row0 < s.q_row || tile.row0 + tile.rows > s.q_row + s.n_q || first < tile.pos_lo ||
      first + tile.rows > tile.pos_hi) {
    return broken(fmt::format("tile at {} holds rows of other cells or sequences", tile.pos_lo));
  }
  const int32_t heads = s.heads != 0 ? s.heads : check.n_heads;
  if (tile.head0 + tile.n_heads > heads) return broken("tile of inactive heads");
  for (int32_t h = tile.head0; h < tile.head0 + tile.n_heads; ++h) {
    for (int32_t r = tile.row0; r < tile.row0 + tile.rows; ++r) {
      if (stored[r][h]++ != 0) return broken(fmt::format("row {} head {} is in two tiles", r, h));
    }
  }
  const int32_t list_heads = tile.list_heads != 0 ? tile.list_heads : tile.n_heads;
  for (int32_t first_head = 0; first_head < tile.n_heads; first_head += list_heads) {
    const KeyList& list = plan.lists[tile.list0 + first_head / list_heads];
    int32_t end = s.pos + s.n_q;
    for (int32_t r = tile.row0; plan.limit != nullptr && r < tile.row0 + tile.rows; ++r) {
      end = std::max(end, plan.limit[r]);
    }
    PARE_RETURN_IF_ERROR(check_list(plan, list, end));
    for (int32_t r = tile.row0; r < tile.row0 + tile.rows; ++r) {
      const int32_t pos = s.pos + (r - s.q_row);
      bool own = false;
      for (int32_t i = 0; i < list.n_abs; ++i) {
        const Range& k = plan.ranges[list.abs0 + i];
        own |= pos / kGranuleKeys >= k.lo / kGranuleKeys && pos < round_up(k.hi, kGranuleKeys);
      }
      for (int32_t i = 0; i < list.n_rel; ++i) {
        const Range k = visited_by_rel(tile, plan.ranges[list.rel0 + i]);
        own |= pos >= k.lo && pos < k.hi;
      }
      own |= std::binary_search(plan.cols + list.col0, plan.cols + list.col0 + list.n_col, pos);
      own |=
          list.bit_keys > 0 && (plan.bits[list.bit0 + pos / list.bit_keys / 32] >> (pos / list.bit_keys % 32) & 1) != 0;
      if (!own) return broken(fmt::format("the row at {} does not visit its own key", pos));
    }
    for (int32_t i = 0; i < list.n_abs; ++i) {
      const Range& k = plan.ranges[list.abs0 + i];
      PARE_RETURN_IF_ERROR(check_live(check, s, k.lo, std::min(k.hi, end)));
    }
    for (int32_t i = 0; i < list.n_rel; ++i) {
      const Range k = visited_by_rel(tile, plan.ranges[list.rel0 + i]);
      if (k.lo < end) PARE_RETURN_IF_ERROR(check_live(check, s, k.lo, std::min(k.hi, end)));
    }
  }
  return ok_status();
}

}  // namespace

Status check_block_plan(const BlockPlan& plan, const PlanCheck& check) {
  int32_t n_rows = 0;
  for (const SeqStep& s : check.seqs) {
    n_rows = std::max(n_rows, s.q_row + s.n_q);
    const int32_t end = s.pos + s.n_q;
    if (!is_decode(s) && s.n_q > 0 && end % check.chunk_grid != 0 && end != s.prompt_len) {
      return broken(fmt::format("a chunk ends at {}, grid {}, prompt {}", end, check.chunk_grid, s.prompt_len));
    }
  }
  if (*plan.n_tiles < 0 || *plan.n_tiles > plan.tiles_cap) return broken("more tiles than room");
  std::vector<std::vector<uint8_t>> stored(n_rows, std::vector<uint8_t>(check.n_heads, 0));
  for (int32_t t = 0; t < *plan.n_tiles; ++t) {
    PARE_RETURN_IF_ERROR(check_tile(plan, plan.tiles[t], check, stored).with_context(fmt::format("tile {}", t)));
  }
  for (size_t i = 0; i < check.seqs.size(); ++i) {
    const SeqStep& s = check.seqs[i];
    const int32_t heads = s.heads != 0 ? s.heads : check.n_heads;
    for (int32_t r = s.q_row; r < s.q_row + s.n_q; ++r) {
      for (int32_t h = 0; h < check.n_heads; ++h) {
        if (stored[r][h] != (is_decode(s) || h >= heads ? 0 : 1)) {
          return broken(fmt::format("sequence {}: row {} head {} is in {} tiles", i, r, h, stored[r][h]));
        }
      }
    }
  }
  return ok_status();
}

Status check_segment_plan(const SegmentPlan& plan, const PlanCheck& check) {
  const int32_t n_runs = *plan.n_runs;
  if (n_runs < 0 || n_runs > plan.runs_cap) return broken("more runs than room");
  if (plan.item_prefix[0] != 0 || plan.item_prefix[n_runs] != plan.items_cap) return broken("items do not add up");

  struct Piece {
    int32_t part0, units, unit, span0, zone, row0, end;
  };
  std::vector<std::vector<Piece>> pieces(check.seqs.size());
  for (int32_t r = 0; r < n_runs; ++r) {
    const Run& run = plan.runs[r];
    const auto fail = [&](std::string_view what) { return broken(fmt::format("run {}: {}", r, what)); };
    if (run.rows <= 0 || run.row0 < 0) return fail("no rows");
    const bool octets = run.item_spans >= kOctetSpans;
    if (run.item_spans == 0 || (octets ? run.item_spans % kOctetSpans : kOctetSpans % run.item_spans) != 0) {
      return fail("odd item size");
    }
    const int32_t unit_rows = octets ? kOctetRows : kSpanRows;
    const int32_t units = (run.row0 + run.rows - 1) / unit_rows - run.row0 / unit_rows + 1;
    const int32_t item_rows = run.item_spans * kSpanRows;
    const int32_t items = (run.row0 + run.rows - 1) / item_rows - run.row0 / item_rows + 1;
    if (plan.item_prefix[r + 1] - plan.item_prefix[r] != items) return fail("wrong number of items");
    for (int32_t m = 0; m < run.n_members; ++m) {
      const Member& member = plan.members[run.member0 + m];
      if (member.seq < 0 || member.seq >= static_cast<int32_t>(check.seqs.size())) return fail("member of no sequence");
      const SeqStep& s = check.seqs[member.seq];
      if (!is_decode(s)) return fail("of a sequence that does not decode");
      if (run.zone == kZoneFull) {
        if (run.pos0 != run.row0) return fail("positions of the full zone are rows");
        if (run.row0 + run.rows > s.pos + s.n_q) return fail("rows that do not exist yet");
        if ((run.flags & kRunCausal) == 0 && run.row0 + run.rows > s.pos + 1) return fail("keys after a query row");
        PARE_RETURN_IF_ERROR(
            check_live(check, s, run.row0, run.row0 + run.rows).with_context(fmt::format("run {}", r)));
      }
      if ((run.zone == kZoneMid || run.zone == kZoneSum) && check.kv != nullptr) {
        const int32_t end = run.row0 + run.rows, row_positions = run.zone == kZoneSum ? kSumRows : 1;
        const auto page_rows = static_cast<int32_t>(check.kv->zones[run.zone].page_rows);
        for (int32_t p = run.row0 / page_rows; p < ceil_div(end, page_rows); ++p) {
          if (check.kv->page_ids[run.page0 + p] < 0) return fail(fmt::format("mid page {} is not there", p));
        }
        if (end > s.pos / row_positions) return fail("moved rows that are not older than the query");
        if (run.zone == kZoneSum && run.pos0 != -1) return fail("estimated rows with a position");
      }
      pieces[member.seq].push_back({member.part0, units, octets ? kOctetSpans : 1, run.row0 / kSpanRows, run.zone,
                                    run.row0, run.row0 + run.rows});
    }
  }

  std::vector<uint8_t> slots(plan.parts_cap, 0);
  for (size_t i = 0; i < check.seqs.size(); ++i) {
    const SeqStep& s = check.seqs[i];
    const auto fail = [&](std::string_view what) { return broken(fmt::format("sequence {}: {}", i, what)); };
    std::vector<Piece>& mine = pieces[i];
    if (!is_decode(s) || s.n_q == 0) {
      if (s.n_folds != 0 || !mine.empty()) return fail("folds without a decode row");
      continue;
    }
    std::sort(mine.begin(), mine.end(),
              [](const Piece& a, const Piece& b) { return a.zone != b.zone ? a.zone < b.zone : a.row0 < b.row0; });
    if (mine.empty() || mine.size() != s.n_folds) return fail("as many folds as runs are needed");
    int32_t newest = 0;
    for (size_t p = 0; p < mine.size(); ++p) {
      const Piece& piece = mine[p];
      if (piece.zone == kZoneFull) newest = std::max(newest, piece.end);
      if (p > 0 && mine[p - 1].zone == piece.zone) {
        if (mine[p - 1].end > piece.row0) return fail("two runs with the same rows");
        const bool by_octet = piece.unit == kOctetSpans || mine[p - 1].unit == kOctetSpans;
        if (by_octet && (mine[p - 1].end - 1) / kOctetRows >= piece.row0 / kOctetRows)
          return fail("two runs in an octet");
      }
      const Fold& fold = plan.folds[s.fold0 + static_cast<int32_t>(p)];
      if (fold.part0 != piece.part0 || fold.n_parts != piece.units || fold.unit != piece.unit ||
          fold.span0 != piece.span0 || fold.section != piece.zone) {
        return fail(fmt::format("fold {} is not its run's", p));
      }
      for (int32_t slot = piece.part0; slot < piece.part0 + piece.units * s.n_q; ++slot) {
        if (slot < 0 || slot >= plan.parts_cap || slots[slot]++ != 0) return fail("partials overlap");
      }
    }
    if (newest != s.pos + s.n_q) return fail(fmt::format("runs end at {}, rows at {}", newest, s.pos + s.n_q));
  }
  return ok_status();
}

}  // namespace pare
