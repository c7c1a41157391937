// Decode attention on CUDA: one launch per layer executes a SegmentPlan (plan/segment_plan.h; the meaning of items,
// picks, scores and folds is that of kernels/attention.h) and writes out, and lse where asked for, of every query row
// of a decoding sequence. Heads beyond SeqStep::heads are left alone.
//
// All plan arrays are device memory and are read on the device only: the launch depends on no count in them, so a
// captured graph stays valid while plans change behind the same pointers. plan.done ([n_seqs][K], zero) and
// plan.octet_done ([parts_cap / 8 + 1][K], zero) must be given; they are zero again when the launch ends.
//
// Arithmetic: products of 16-bit values summed in fp32 by the tensor cores; softmax in fp32; weights rounded to the
// value type before they meet V; partials in fp32, merged in the order of contracts.md §4 (tile -> span -> octet ->
// section -> row). A row's bits depend on its query and on the runs of its sequence: not on item sizes, batch mates,
// the number of blocks, or timing.
//
// Item sizes: an item costs about 3 us beyond its rows, and items are dealt to the blocks in turn, one block on a
// multiprocessor. So the fewest rounds of the largest items are best, less than an octet only where there are fewer
// octets than multiprocessors: SegmentShape with threads = multiprocessors and kCardItemOverhead gives that.
//
// Limits: head_dim a multiple of 16 up to 256; Order::Rows; K and V of every zone in one codec, F16 or Bf16, that of
// host_formats[0] and of the queries; v_width head_dim or 0. Zone mid, and it alone, may be quantized (kv_layout.h), K
// and V each in its own way; its values are rounded to the queries' type before they are multiplied. Its 16-byte
// alignment: planes, page_bytes. Where its KV heads keep different widths, work is dealt by bytes. A pass takes 32
// query rows (positions x heads of a KV head); a run with more reads its rows several times.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention.h"
#include "pare/status.h"

namespace pare::cuda {

struct HeadsArgs;  // row_ops.h
inline constexpr int64_t kMaxHeadsRows = 8;

struct DecodeOptions {
  // Query rows of one sequence or shared prefix at most, as far as the host knows; more are legal and cost more passes
  // over K and V. 0: n_rows - n_seqs + 1, the bound without shared prefixes.
  int32_t query_rows = 0;
  // Launch with programmatic stream serialization: blocks start before the previous kernel of the stream ends. That
  // kernel may write q, K, V, picks and scores, but no other plan array.
  bool overlap_launch = false;
  // No launch that may still run, this one's predecessors within a step, writes stored rows other than those of the
  // launch's query rows: rows before them are then asked for without waiting. Not so where pages are copied or rows are
  // moved in the same step.
  bool rows_settled = false;
  int32_t blocks = 0;  // 0: as many as the plan can keep busy, at most what the device runs at once
  // heads() (row_ops.h) in front of attention, in the same launch: q, k and v F32, at most kMaxHeadsRows rows, all of
  // them decode rows, and layer.q is q_out. A block makes the heads that it needs, which costs less than a launch; the
  // bits are the same. K and V are stored, q_out is written where a block needs that and else left alone. Null: heads
  // have been transformed.
  const HeadsArgs* heads = nullptr;
  // What resolve_first_jobs made of this plan, complete before the launch before this one began; for no fewer blocks
  // than the device runs at once, and blocks 0. Null: every launch resolves the plan by itself. It is used where blocks
  // take work in turn and a pass takes eight query rows.
  const void* first_jobs = nullptr;
};

// What the blocks of a launch begin with, for all layers that execute `plan` on the same rows of queries: a launch that
// finds it need not follow the plan's arrays, one after another, before its first row is asked for, which takes 4 us
// where no multiprocessor was free for it earlier. Of `layer`, what is the same in all of them counts: kv, heads and
// sequences. Allocates nothing, and reads the plan's arrays alone.
size_t first_jobs_bytes(int32_t blocks);
Status resolve_first_jobs(const AttentionLayer& layer, const SegmentPlan& plan, void* first_jobs, int32_t blocks,
                          Stream stream);

Status decode_attention(const AttentionLayer& layer, const SegmentPlan& plan, const DecodeOptions& options,
                        Stream stream);

}  // namespace pare::cuda
