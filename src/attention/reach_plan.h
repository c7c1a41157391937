// The BlockPlan of a selector whose rows see one reach, but for the last rows of a prompt where a selector says so:
// dense, A-shape, triangle, and each on windowed layers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/selector.h"
#include "base/arena.h"
#include "pare/status.h"
#include "plan/block_plan.h"
#include "plan/reach.h"

namespace pare {

// The rows that attend every earlier key instead of the reach.
struct DenseRows {
  int32_t last = 0;        // the last ones of the prompt, wherever chunks end, and all after it
  int32_t min_tokens = 0;  // every row of a prompt with fewer tokens; and of sequences with kSeqDense
  int32_t from(const SeqStep& s) const;
};

// Tiles are the cells [n * tile_rows, (n + 1) * tile_rows) of absolute positions that hold rows of this step,
// so that what a row visits does not depend on where chunks are cut; a cell cut by a chunk edge appears in
// both chunks, with other rows. One KeyList a sequence: abs [0, sink) and rel [0, window), or abs [0, S)
// without a window. With `dense`, tiles that hold one of those rows have a list of their own, abs [0, S), and its
// dense_from keeps their other rows to the reach. Non-causal rows (PrefillRows::limit) need a reach without a window:
// kUnsupported otherwise.
Status build_reach_plan(const PrefillRows& rows, Reach reach, Arena& arena, BlockPlan& out,
                        const DenseRows* dense = nullptr);

size_t reach_plan_max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows);

}  // namespace pare
