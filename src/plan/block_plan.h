// BlockPlan: which keys each prefill query tile attends (contracts.md §2). Built by attention selectors,
// executed by prefill kernels, which know nothing else about the method. Indices only, never pointers to
// rows.
//
// Meaning. Keys come in granules of 16 aligned positions. A tile visits the granules met by its absolute
// ranges, by its distance ranges taken over [pos_lo, pos_hi), and by its bitmap; then single columns outside
// those. Row i attends a visited key j iff j < limit(i) and (i >= dense_from or j < sink or i - j < window).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pare/status.h"
#include "plan/kv_layout.h"

namespace pare {

struct Range {
  int32_t lo, hi;  // half-open
};

// One sequence's share of a step. Rows are packed: sequence s owns rows [q_row, q_row + n_q) of the step's
// tensors.
struct SeqStep {
  int32_t q_row = 0, n_q = 0;
  int32_t pos = 0;                  // absolute position of its first row
  int32_t prompt_len = 0;           // final length of the prompt these rows belong to
  int32_t page0 = 0;                // its page list in KvView::page_ids (full zone)
  int32_t fold0 = 0;                // its Folds in the SegmentPlan
  uint16_t heads = 0, n_folds = 0;  // active query heads (a prefix)
  uint32_t flags = 0;
};

// What one head (or all heads) of one tile visits.
struct KeyList {
  int32_t abs0 = 0, n_abs = 0;     // Range[] of key positions, ascending, disjoint
  int32_t rel0 = 0, n_rel = 0;     // Range[] of distances d = i - j, ascending, gaps >= tile_rows + 15
  int32_t col0 = 0, n_col = 0;     // int32[] single keys, ascending
  int32_t bit0 = 0, bit_keys = 0;  // block bitmap with 64 or 128 keys a bit; 0 = unused; excludes the above
  int32_t sink = 0, window = INT32_MAX, dense_from = INT32_MAX, pad = 0;
};
static_assert(sizeof(KeyList) == 48);

enum : uint16_t { kTileGathered = 1, kTileSkipClaimed = 2 };

struct QTile {
  int32_t seq = 0, row0 = 0;  // first packed row; kTileGathered: first of row_ids[]
  int32_t pos_lo = 0,
          pos_hi = 0;  // absolute grid cell, whatever rows of it are present; gathered: min, max + 1
  int32_t list0 = 0;   // list of head h: list0 + (h - head0) / list_heads; list_heads 0 = one list for all
  uint16_t rows = 0, head0 = 0, n_heads = 0, list_heads = 0, flags = 0, pad = 0;
};
static_assert(sizeof(QTile) == 32);

// A view over the step arena; valid for one step. One per layer class.
struct BlockPlan {
  const QTile* tiles = nullptr;
  const int32_t* n_tiles = nullptr;
  const KeyList* lists = nullptr;
  const Range* ranges = nullptr;
  const int32_t* cols = nullptr;
  const uint32_t* bits = nullptr;
  const int32_t* row_ids = nullptr;
  const uint32_t* claimed = nullptr;  // [H][T/32] rows that gathered tiles store; null = none
  const int32_t* limit = nullptr;     // [T] exclusive key bound; null = i + 1 (causal)
  int32_t tiles_cap = 0;
  uint16_t tile_rows = 0, flags = 0;
};

}  // namespace pare
