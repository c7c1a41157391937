// What both attention phases on CUDA share. The kernels execute a BlockPlan (prefill) or a SegmentPlan (decode) over
// the paged store, and know plans and row formats, no method and no policy.
//
// Rows of the store are Order::Rows: a plane is [page_rows][width] of bf16 or fp16. All pointers are device memory
// unless a comment says otherwise; the host never reads them. Query head h reads KV head g with h = g * qa + r * qb.
#pragma once

#include <cstdint>

#include "plan/block_plan.h"
#include "plan/kv_layout.h"
#include "plan/segment_plan.h"
#include "tensor/cuda/stream.h"
#include "tensor/dtype.h"

namespace pare::cuda {

struct AttentionLayer {
  KvView kv;                                // every pointer in it is a device pointer; the struct itself is a value
  const RowFormat* host_formats = nullptr;  // host: formats of zone full of this layer, [K], for dispatch
  const RowFormat* host_mid = nullptr;      // host: those of zone mid, [K], for dispatch; null: no run is of that zone
  int32_t kv_layer = 0;
  int32_t n_heads = 0;   // H
  int32_t head_dim = 0;  // D
  int32_t qa = 1, qb = 1;
  float scale = 1.0f;             // multiplies logits
  float softcap = 0.0f;           // 0: none; else logits = softcap * tanh(logits / softcap)
  DType dtype = DType::BF16;      // of q and out: BF16 or F16
  const SeqStep* seqs = nullptr;  // [n_seqs]
  int32_t n_seqs = 0;             // host value
  int32_t n_rows = 0;             // T
  const void* q = nullptr;        // [T][H][D], rotated
  void* out = nullptr;            // [T][H][D]
  float* lse = nullptr;           // [T][H] natural-log sum of exp of the scaled logits; null: not wanted
};

}  // namespace pare::cuda
