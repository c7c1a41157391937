// SegmentPlan: which stored rows a decode step reads, exactly or estimated (contracts.md §3). Built by KV
// policies, executed by decode kernels. Indices only.
//
// Rows. Zone row r of a run lies in page page_ids[page0 + r / page_rows] at row r % page_rows, and has
// position pos0 + (r - row0). In the full zone r is the position, so page0 is the base of the sequence's page
// list. Query row q of a sequence (position pos + q) attends every row of its runs, except: kRunCausal drops
// positions > pos + q; kRunWindow keeps only rows with zone row < sink or (pos + q) - position <
// SegmentPlan::window. A run without these flags holds exactly the rows that each of its query rows attends.
//
// Units. Span s = zone rows [256 s, 256 (s + 1)); octet o = spans [8 o, 8 (o + 1)). The units of a run are
// its spans when item_spans < 8, else its octets, both clipped to the run. Item i of a run whose first unit is u is its
// units among [j m, (j + 1) m), with j = u / m + i and m = units_of_item(item_spans). Items of run r are numbered
// [item_prefix[r], item_prefix[r + 1]).
//
// Partials: one per unit, numbered from 0 at the run's first. A slot is room for one query row: partial p of
// a member with n_q rows starts at slot part0 + p * n_q and is laid out [K][n_q * R][m, l, O[D]]: float
// offset of (p, g, q, r) = (((part0 + p * n_q) * K + g * n_q) * R + q * R + r) * (D + 2).
//
// Folds of a sequence, ascending in (section, span0), fold left to right: partials into octets (a change of
// span / 8 closes one), octets into sections, sections into the row. A fold of unit 8 is made of whole
// octets; no octet is in a unit-8 fold and in another one. A fold is the partials of one run for one member, all of
// them. So an octet whose 8 spans are in one fold of unit 1 may be merged before the others are there; kernels that
// count its arrivals (octet_done) keep it in the place of its first two partials.
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
  uint32_t page0 = 0;               // + layer * layer_pitch, into KvView::page_ids
  int32_t row0 = 0, rows = 0;       // zone rows [row0, row0 + rows), rows > 0
  int32_t pos0 = 0;                 // position of row0; -1 = unordered rows, all older than any query
  int32_t pick0 = 0, pick_cap = 0;  // picks at pick0 + (q_row * K + g) * pick_cap
  int32_t member0 = 0;
  uint16_t item_spans = 1,
           sink = 0;  // spans per work item: 1, 2, 4 or a multiple of 8; kRunWindow keeps rows < sink
};
static_assert(sizeof(Run) == 36);
constexpr int32_t spans_of_unit(int32_t item_spans) { return item_spans < kOctetSpans ? 1 : kOctetSpans; }
constexpr int32_t units_of_item(int32_t item_spans) { return item_spans / spans_of_unit(item_spans); }

struct Member {
  int32_t seq,
      part0;  // index into the step's SeqSteps; first slot of its partials. Several members: a shared prefix
};            // whose rows are read once for all (cascade)

// How a sequence's partial results fold (see above): n_parts partials of `unit` spans, the first one at span
// span0.
struct Fold {
  int32_t part0 = 0, n_parts = 0, span0 = 0;
  uint16_t unit = 1, section = 0;  // unit: 1 or 8 spans a partial
};
static_assert(sizeof(Fold) == 16);

struct SegmentPlan {
  const Run* runs = nullptr;
  const int32_t* n_runs = nullptr;
  const int32_t* item_prefix = nullptr;  // [n_runs + 1]; the last one is the number of items
  const Member* members = nullptr;
  const Fold* folds = nullptr;  // of sequence s: [fold0, fold0 + n_folds) of its SeqStep
  const Range* picks = nullptr;
  const int32_t* pick_n = nullptr;
  const float* scores = nullptr;
  float* parts = nullptr;    // parts_cap slots of K * R * (D + 2) floats
  uint32_t* done = nullptr;  // [n_seqs][K] arrivals, zero at the start of a layer; null when folds are separate tasks
  // [parts_cap / 8 + 1][K] arrivals at the octet whose first slot is 8 i to 8 i + 7 (two whole octets begin 8 slots
  // apart at least), zero like `done`; given where that is.
  uint32_t* octet_done = nullptr;
  int32_t runs_cap = 0, items_cap = 0, parts_cap = 0;
  int32_t window = INT32_MAX;
};

}  // namespace pare
