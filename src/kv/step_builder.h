// Turns the sequences of a step into StepPlans: packed rows, append targets, copies and one SegmentPlan per
// class. The BlockPlans are added by SelectorSet::build (attention/selector.h), which this folder does not
// know.
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "kv/policy.h"
#include "kv/segment_planner.h"
#include "kv/store.h"
#include "plan/layer_map.h"
#include "plan/step.h"

namespace pare {

struct StepSeq {
  SeqId seq = 0;
  std::span<const int32_t> tokens;  // this step's rows, already reserved
  int32_t prompt_len = 0;
  bool decode = false;  // rows go to the SegmentPlans (n_q <= kMaxDecodeRows) instead of the BlockPlans
  bool dense = false;   // kSeqDense of prompt rows
  uint16_t heads = 0;   // active query heads; 0 = all
};

// Appends every sequence's tokens to the store, in order, and fills all of `plans` but blocks and layers.
// Arrays come from `tables`, room for partial results from `workspace` (segment_planner.h). On an error (arena full:
// kResourceExhausted) the store's step is aborted. No allocation.
Status build_step(std::span<const StepSeq> seqs, const LayerMap& layers, const KvPolicy& policy,
                  const SegmentShape& shape, KvStore& store, Arena& tables, Arena& workspace, StepPlans& plans);

// Bytes that build_step takes at most.
PlanBytes step_max_bytes(int32_t max_rows, int32_t max_seqs, int32_t max_context, const LayerMap& layers,
                         const KvPolicy& policy, const SegmentShape& shape);

}  // namespace pare
