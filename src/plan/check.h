// check(): whether plans keep their contract (block_plan.h, segment_plan.h). Tests run it on every plan,
// debug builds on every step; a failure is a builder's bug and comes back as kInternal with the place. Cost:
// linear in rows, tiles and runs (block plans: times the ranges of a list).
#pragma once

#include <cstdint>
#include <span>

#include "pare/status.h"
#include "plan/block_plan.h"
#include "plan/kv_layout.h"
#include "plan/segment_plan.h"
#include "plan/step.h"

namespace pare {

struct PlanCheck {
  std::span<const SeqStep> seqs;  // of the plan's class
  int32_t n_heads = 0;
  const KvView* kv = nullptr;  // null: page liveness is not checked
  int32_t kv_layer = 0;        // any layer of the class
  int32_t chunk_grid = 1;      // Caps::chunk_grid
};

// Every (prefill row, active head) is stored by exactly one tile; tiles are grid cells and hold rows of
// theirs; lists are sorted, disjoint and end at or before the sequence's end; a row visits its own key; the
// pages of all keys that some row attends are live; chunks end on the grid or with their prompt. No gathered
// tiles yet: they are an error.
Status check_block_plan(const BlockPlan& plan, const PlanCheck& check);

// Runs of a sequence and zone ascend and share no span; items and folds are numbered as segment_plan.h says;
// folds cover the runs' units and slots once; no octet is both in a unit-8 fold and another; rows end with
// the newest query; pages live.
Status check_segment_plan(const SegmentPlan& plan, const PlanCheck& check);

}  // namespace pare
