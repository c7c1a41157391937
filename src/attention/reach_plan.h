// The BlockPlan of a selector whose rows all see one reach: dense, A-shape, and either on windowed layers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/selector.h"
#include "base/arena.h"
#include "pare/status.h"
#include "plan/block_plan.h"
#include "plan/reach.h"

namespace pare {

// Tiles are the cells [n * tile_rows, (n + 1) * tile_rows) of absolute positions that hold rows of this step,
// so that what a row visits does not depend on where chunks are cut; a cell cut by a chunk edge appears in
// both chunks, with other rows. One KeyList a sequence: abs [0, sink) and rel [0, window), or abs [0, S)
// without a window. Non-causal rows (PrefillRows::limit) need a reach without a window: kUnsupported
// otherwise.
Status build_reach_plan(const PrefillRows& rows, Reach reach, Arena& arena, BlockPlan& out);

size_t reach_plan_max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows);

}  // namespace pare
