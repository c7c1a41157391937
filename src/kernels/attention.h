// CPU attention kernels: execute a BlockPlan (prefill) or a SegmentPlan (decode) over the paged store. They
// know plans and row formats, no method and no policy.
//
// Arithmetic, the same in both phases and at every CPU level, bit for bit:
//   state  (m, l, O[D]) in fp32, O unnormalized, m in log2 units; l = 0 is the identity, which merges
//   exactly. query  q'[c] = q[c] * f, f = scale * log2(e); kept channels (LeanK): q'[c] = (q[id] * alpha) *
//   f. logit  s = one ascending chain s = fma(q'[c], k[c], s) from 0; with a soft cap f = scale * 2 log2(e) /
//   cap and
//          s = (cap * log2(e)) * (1 - 2 / (exp2(clamp(s, +-64)) + 1)); then, where rows have log weights,
//          s = fma(lw, log2(e), s). Scored runs read s instead. Masked keys have s = -inf.
//   block  64 aligned zone rows (64 columns; the rows of one pick inside one aligned 64): m' = max(m, max s);
//          a = exp2(m - m'); p_j = exp2(s_j - m') (0 while m' is -inf); l = fma(l, a, sum p), where lane j
//          mod 16 adds its keys in ascending order and lanes fold 16 -> 8 -> 4 -> 2 -> 1, lower half plus
//          upper half; O = O * a + 0, then one ascending chain O[c] = fma(p_j, v_j[c], O[c]).
//   exp2   0 below -64; else n = round-to-even(x), degree-6 polynomial in x - n by fma, n added to the
//   exponent. The
//          cut at 2^-64 (far below half an ulp of l >= 1) keeps products representable, and "+ 0" removes -0:
//          so a key with p = 0 changes no bit, and a block that was not visited equals one that was masked.
//   merge  m' = max(ma, mb): l = fma(lb, exp2(mb - m'), la * exp2(ma - m')), O likewise; identities are
//   skipped. order  block -> span (256 rows by zone row index; 256 columns; Zone::span picks) -> octet of 8
//   spans -> section
//          (full, columns, mid, ...) -> row, all left folds (contracts.md §4); out = O * (1 / l), 0 without
//          keys.
// So a row's bits depend on its query and its visible keys only: not on tile mates, chunks, threads, items or
// paging. Stored rows must be finite (their values are multiplied by 0 for the tile mates that do not see
// them); rows that no query of the tile or item sees may hold anything, and so may scales of which no query sees a
// code. Quantized rows enter as fma(scale, code, zero) in fp32; they and mixed codecs are for decode, prefill reads the
// full zone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu_level.h"
#include "plan/block_plan.h"
#include "plan/kv_layout.h"
#include "plan/segment_plan.h"
#include "plan/step.h"

namespace pare {

// Query rows (positions of all members) that one pass of a decode item takes; items with more make several
// passes.
inline constexpr int32_t kDecodeRowsMax = 16;

// What is common to both phases of one layer. Query head h reads KV head g with h = g * qa + r * qb, r in [0,
// R), R = H / K: grouped heads (qa, qb) = (R, 1). A sequence's query heads h >= SeqStep::heads are left alone
// (heads = 0: all heads are active).
struct AttentionLayer {
  KvView kv;
  int32_t kv_layer = 0;
  int32_t n_heads = 0;   // H
  int32_t head_dim = 0;  // D, a multiple of 16
  int32_t qa = 1, qb = 1;
  float scale = 1.0f;    // multiplies logits
  float softcap = 0.0f;  // 0: none; else logits = softcap * tanh(logits / softcap)
  const SeqStep* seqs = nullptr;
  const float* q = nullptr;  // [T][H][D] fp32, rotated
  float* out = nullptr;      // [T][H][D] fp32
  int32_t n_rows = 0;        // T; needed by plans with `claimed` rows
};

struct AttentionCounters {    // added to, per thread; for statistics and tests
  uint64_t keys_visited = 0;  // (query row, key) pairs attended
  uint64_t rows_read = 0;     // key rows loaded, each with its value row
  uint64_t bytes_read = 0;    // of K and V as stored, with their share of the scales and their log weights
  uint64_t fallbacks = 0;     // calls that the level's kernel left to kernels/ref
};

// Writes T rows of k and v ([T][K][D] fp32, k rotated) into the store, rounded to nearest even where the
// codec is narrower (overflow becomes infinity): row t goes to zone-full row dst[t] (page * 64 + row). Rows
// [t0, t1), any split over threads: the bytes of different rows are disjoint. Formats are full width.
struct AppendArgs {
  std::byte* const* pools = nullptr;
  const RowFormat* formats = nullptr;  // [K] of this layer, zone full
  const float *k = nullptr, *v = nullptr;
  const int32_t* dst = nullptr;  // [T]; -1: not stored
  int32_t n_kv_heads = 0, head_dim = 0;
};

// Moves rows of the full zone into zone mid (RowMove, plan/step.h): kept channels of K in the order of the mid format's
// channel list, V whole. A plane whose codec stays is copied bit for bit (alpha waits for the query), another
// floating-point codec rounds to nearest even, a quantized one (kv_layout.h) is quantized per K channel and k_group
// rows, and per V row and v_group channels. Every implementation writes the same bits:
//   zero  = clamp(lo, +-65504) rounded down to fp16; lo, hi = least and greatest finite value of the group, 0 without
//           any; never -0
//   scale = min((hi - zero) / (2^bits - 1), 65504) in fp32, rounded up to fp16; never -0. So [zero, zero + (2^bits - 1)
//           scale] covers the group, up to one fp32 rounding, wherever fp16 can name it
//   code  = clamp((x - zero) / scale, 0, 2^bits - 1) in fp32, then rounded to nearest even; NaN and scale 0 give 0. A
//           finite value of the group comes back to within scale / 2, up to fp32 roundings.
// A K group that a move fills in part is quantized over the rows that move, and codes of other rows stay what they
// were: unless nobody reads those, row0 and rows are multiples of k_group. Moves of one call share no row, no byte and
// no K group. Pages of both zones have kPageRows rows.
//
// Where mid has no rows of a head (v_width 0) but zone sum has, the rows that move leave one estimated row for every
// kSumRows aligned positions: a floating-point V plane and log weights, k_width 0, kSumPageRows rows a page. Of the n
// rows of such a group that move:
//   value       one ascending chain m = fma(v_j, 1 / n, m) from 0, values that are not finite left out, then rounded to
//               nearest even
//   log weight  ln n, as estimated_rows.h has it
// Groups without a moving row keep what they held.
struct MoveRowsArgs {
  std::byte* const* pools = nullptr;
  const RowFormat *full = nullptr, *mid = nullptr;  // [K] of this layer, zone full and zone mid
  const RowFormat* sum = nullptr;                   // [K] of this layer, zone sum; null: no head has rows there
  const Channel* channels = nullptr;                // KvView::channels
  const RowMove* moves = nullptr;
  int32_t head_dim = 0;
};

// All functions are pure over their arguments, allocate nothing, and run on any thread. Plans are trusted:
// check() belongs to src/plan.
struct AttentionKernels {
  // What the level executes itself; other formats go to kernels/ref and count as fallbacks.
  bool (*supports)(const RowFormat& format, int32_t head_dim);
  void (*append_rows)(const AppendArgs& args, int64_t t0, int64_t t1);
  // One move for one KV head.
  void (*move_rows)(const MoveRowsArgs& args, int32_t move, int32_t g);
  // One task of a prefill: query tile `tile` for KV head `g` (all its query heads that the tile names).
  // Writes out for the tile's rows except those it must skip. workspace: prefill_workspace_bytes per thread,
  // 64-byte aligned.
  void (*prefill_tile)(const AttentionLayer& layer, const BlockPlan& plan, int32_t tile, int32_t g,
                       std::byte* workspace, AttentionCounters* counters);
  size_t (*prefill_workspace_bytes)(int32_t tile_rows, int32_t group, int32_t head_dim);
  // Work item `item` of a decode for KV head `g`: writes its partials, identities for an absent head (v_width
  // 0). Items, partials and folds: plan/segment_plan.h. Beyond that text: a picked zone's spans are
  // Zone::span picks, from pick 0 to pick_cap, and every partial up to pick_cap is written; the picks of
  // query row t (packed) and KV head g begin at p = pick0 + (t * K + g) * pick_cap and are pick_n[p] many; a
  // scored run reads scores[(t * H + h) * rows + zone row - row0] (log2 units), its K and lw planes are not
  // touched.
  void (*decode_item)(const AttentionLayer& layer, const SegmentPlan& plan, int32_t item, int32_t g,
                      std::byte* workspace, AttentionCounters* counters);
  // Folds the partials of sequence `seq` for KV head g into out (after all its items).
  void (*decode_fold)(const AttentionLayer& layer, const SegmentPlan& plan, int32_t seq, int32_t g);
  // max_query_rows: kDecodeRowsMax * R.
  size_t (*decode_workspace_bytes)(int32_t max_query_rows, int32_t head_dim);
};
const AttentionKernels& attention_kernels(CpuLevel level);

// Query positions per tile that prefill runs best with, for BlockPlan::tile_rows.
int32_t preferred_tile_rows(CpuLevel level, int32_t group, int32_t head_dim);

// Where slot `slot` (room for one query row) holds row `row` = q * R + r of KV head g: [K][n_q * R][m, l,
// O[D]].
inline float* decode_part(const SegmentPlan& plan, int32_t n_kv_heads, int32_t group, int32_t head_dim, int32_t n_q,
                          int64_t slot, int32_t g, int32_t row) {
  return plan.parts + (slot * n_kv_heads * group + static_cast<int64_t>(g) * n_q * group + row) * (head_dim + 2);
}

}  // namespace pare
