// CPU attention kernels: execute a BlockPlan (prefill) or a SegmentPlan (decode) over the paged store. They know plans
// and row formats, no method and no policy. Merge order: contracts.md §4, the same in both phases, so a row's bits
// depend only on its query and on the visible keys: not on tile mates, chunks, threads or paging.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu_level.h"
#include "plan/block_plan.h"
#include "plan/kv_layout.h"
#include "plan/segment_plan.h"

namespace pare {

// What is common to both phases of one layer. Query head h reads KV head g with h = g * qa + r * qb, r in [0, R):
// grouped heads (qa, qb) = (R, 1).
struct AttentionLayer {
  KvView kv;
  int32_t kv_layer = 0;
  int32_t n_heads = 0;  // H
  int32_t head_dim = 0;  // D
  int32_t qa = 1, qb = 1;
  float scale = 1.0f;  // multiplies logits
  float softcap = 0.0f;  // 0: none; else logits = softcap * tanh(logits / softcap)
  const SeqStep* seqs = nullptr;
  const float* q = nullptr;  // [T][H][D] fp32, rotated
  float* out = nullptr;      // [T][H][D] fp32
};

struct AttentionCounters {  // added to, per thread; for statistics and tests
  uint64_t keys_visited = 0, rows_read = 0, bytes_read = 0;
};

// Writes T rows of k and v ([T][K][D] fp32, k rotated) into the store: row t of class goes to zone-full row dst[t]
// (page * 64 + row). Rows [t0, t1), any split over threads that keeps a 16-row K tile's bytes apart per row is safe.
struct AppendArgs {
  std::byte* const* pools = nullptr;
  const RowFormat* formats = nullptr;  // [K] of this layer, zone full
  const float *k = nullptr, *v = nullptr;
  const int32_t* dst = nullptr;  // [T]; -1: not stored
  int32_t n_kv_heads = 0, head_dim = 0;
};

struct AttentionKernels {
  void (*append_rows)(const AppendArgs& args, int64_t t0, int64_t t1);
  // One task of a prefill: query tile `tile` for KV head `g` (all its query heads that the tile names).
  // workspace: prefill_workspace_bytes per thread, 64-byte aligned.
  void (*prefill_tile)(const AttentionLayer& layer, const BlockPlan& plan, int32_t tile, int32_t g,
                       std::byte* workspace, AttentionCounters* counters);
  size_t (*prefill_workspace_bytes)(int32_t tile_rows, int32_t group, int32_t head_dim);
  // One work item of a decode for KV head `g`: writes its partials.
  void (*decode_item)(const AttentionLayer& layer, const SegmentPlan& plan, int32_t item, int32_t g,
                      std::byte* workspace, AttentionCounters* counters);
  // Folds the partials of sequence `seq` for KV head g into out (after all its items).
  void (*decode_fold)(const AttentionLayer& layer, const SegmentPlan& plan, int32_t seq, int32_t g);
  size_t (*decode_workspace_bytes)(int32_t max_query_rows, int32_t head_dim);
};
const AttentionKernels& attention_kernels(CpuLevel level);

}  // namespace pare
