#include "plan/causal_plan.h"

#include <fmt/format.h>

#include "plan/step.h"

namespace pare {
namespace {

Status not_causal(std::string_view what) {
  return unsupported(fmt::format("a plan of one open range for every row is needed; this one has {}", what));
}

Status check_list(const BlockPlan& plan, const KeyList& list, const SeqStep& s) {
  if (list.n_col > 0) return not_causal("single keys");
  if (list.bit_keys > 0) return not_causal("a block bitmap");
  if (list.n_abs != 1 || list.n_rel > 0) {
    return not_causal(fmt::format("{} key ranges and {} distance ranges", list.n_abs, list.n_rel));
  }
  const Range& keys = plan.ranges[list.abs0];
  if (keys.lo > 0 || keys.hi < s.pos + s.n_q) {
    return not_causal(fmt::format("keys [{}, {}) for rows up to {}", keys.lo, keys.hi, s.pos + s.n_q - 1));
  }
  if (list.window != INT32_MAX && list.dense_from > s.pos)
    return not_causal(fmt::format("a window of {}", list.window));
  return ok_status();
}

}  // namespace

Status require_causal_plan(const BlockPlan& plan, std::span<const SeqStep> seqs, int32_t n_heads) {
  if (plan.limit != nullptr) return not_causal("rows with key bounds of their own");
  int64_t wanted = 0, held = 0;
  for (const SeqStep& s : seqs) {
    if ((s.flags & kSeqDecode) == 0) wanted += s.n_q;
  }
  for (int32_t t = 0; t < *plan.n_tiles; ++t) {
    const QTile& tile = plan.tiles[t];
    if (tile.flags != 0) return not_causal("gathered tiles");
    if (tile.head0 != 0 || tile.n_heads != n_heads) {
      return not_causal(fmt::format("tiles of heads {} to {} of {}", tile.head0, tile.head0 + tile.n_heads, n_heads));
    }
    if (tile.list_heads != 0 && tile.list_heads < tile.n_heads) return not_causal("key lists by head");
    PARE_RETURN_IF_ERROR(check_list(plan, plan.lists[tile.list0], seqs[tile.seq]));
    held += tile.rows;
  }
  if (held != wanted) return not_causal(fmt::format("{} of {} rows", held, wanted));
  return ok_status();
}

}  // namespace pare
