// SegmentPlan: which stored rows a decode step reads, exactly or estimated (contracts.md §3). Built by KV policies,
// executed by decode kernels. Indices only.
#pragma once

#include <cstdint>

#include "plan/block_plan.h"
#include "plan/kv_layout.h"

namespace pare {

enum : uint8_t { kRunCausal = 1, kRunWindow = 2, kRunScored = 4 };

// A run of rows of one zone, the same for every layer of the class.
struct Run {
  uint8_t zone = 0, flags = 0;
  uint16_t n_members = 1;
  uint32_t page0 = 0;        // + layer * layer_pitch, into KvView::page_ids
  int32_t row0 = 0, rows = 0;  // zone rows [row0, row0 + rows); page = row / page_rows
  int32_t pos0 = 0;            // position of row0; -1 = unordered rows, all older than any query
  int32_t pick0 = 0, pick_cap = 0;  // picks at pick0 + (q_row * K + g) * pick_cap
  int32_t member0 = 0;
  uint16_t item_spans = 1, sink = 0;  // spans per work item: 1 or a multiple of 8; kRunWindow keeps rows < sink
};
static_assert(sizeof(Run) == 40 || sizeof(Run) == 36);

struct Member {
  int32_t seq, part0;  // several members: a shared prefix whose rows are read once for all (cascade)
};

// How a sequence's partial results fold: section by section, octets of 8 spans, left to right (§4).
struct Fold {
  int32_t part0 = 0, n_parts = 0, span0 = 0;
  uint16_t unit = 1, section = 0;  // unit: 1 or 8 spans a partial
};

struct SegmentPlan {
  const Run* runs = nullptr;
  const int32_t* n_runs = nullptr;
  const int32_t* item_prefix = nullptr;  // items before run r
  const Member* members = nullptr;
  const Fold* folds = nullptr;
  const Range* picks = nullptr;
  const int32_t* pick_n = nullptr;
  const float* scores = nullptr;
  float* parts = nullptr;  // [slot][K][n_q*R][m, l, O[D]]
  uint32_t* done = nullptr;
  int32_t runs_cap = 0, items_cap = 0, parts_cap = 0;
  int32_t window = INT32_MAX;
};

}  // namespace pare
