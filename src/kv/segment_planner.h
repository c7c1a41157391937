// From runs to work: cuts the runs of a step's decode rows into items of about equal bytes for the threads at
// hand and lays out the partial results and their folds. The cuts fall on whole spans or whole octets of
// spans, so they move work, never bits (contracts.md §4).
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "kv/policy.h"
#include "pare/status.h"
#include "plan/segment_plan.h"
#include "plan/step.h"

namespace pare {

inline constexpr int32_t kMaxDecodeRows = 16;  // query rows of one sequence in a SegmentPlan

struct SegmentShape {
  int32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
  int32_t threads = 1;
  // What an item costs beyond its rows, in rows. 0: threads take items as they become free, so that a few for each end
  // together. Else (a card's multiprocessors, at least kMinItemOverhead): dealt in rounds, unequal heads in shares.
  int32_t item_overhead = 0;
};
inline constexpr int32_t kMinItemOverhead = 128;
// A card's: few rounds of large items beat many of small ones. An item's arrival alone, a fence and an atomic that its
// block waits for, takes 3 us of an H100.
inline constexpr int32_t kCardItemOverhead = 256;

// Plans the sequences with kSeqDecode for one layer class; mids[i]: where sequence i's moved rows lie (empty: the class
// has no mid zone). Sets fold0 and n_folds of every sequence (0 for
// the others). `layer_window`: the class's own window. What the host writes comes from `tables`, room for the partial
// results, which only kernels touch, from `workspace`; kResourceExhausted when one is full.
Status build_segment_plan(const KvPolicy& policy, int32_t layer_window, const SegmentShape& shape,
                          std::span<SeqStep> seqs, std::span<const MidRows> mids, Arena& tables, Arena& workspace,
                          SegmentPlan& out);

// Bytes that build_segment_plan takes at most for max_seqs decoding sequences with max_rows query rows in all.
struct PlanBytes {
  size_t tables = 0, workspace = 0;
  int64_t slots = 0;  // SegmentPlan::parts_cap at most
  size_t total() const { return tables + workspace; }
};
PlanBytes segment_plan_max_bytes(const KvPolicy& policy, const SegmentShape& shape, int32_t max_seqs, int32_t max_rows,
                                 int32_t max_context);

}  // namespace pare
