// Row-wise kernels between the matrix products, on CUDA. What they compute is kernels/elementwise.h and ops/ops.h, up
// to rounding; here stands where values lie and in which type.
//
// The residual stream is fp32; rows that a matrix product reads, query rows and stored keys and values are 16 bits
// wide, rounded to nearest even. All pointers are device memory, 16-byte aligned, rows contiguous unless a pitch is
// named; sizes are host values and may be 0. A row's bits depend on that row and its width alone, never on how many
// rows there are or on which input type's kernel ran before. Launches go to `stream` in order, allocate nothing, wait
// for nothing and can be captured; with `pdl` they are programmatic dependents of the launch before (launch.cuh).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/elementwise.h"
#include "pare/status.h"
#include "plan/kv_layout.h"
#include "plan/step.h"
#include "tensor/cuda/stream.h"
#include "tensor/dtype.h"

namespace pare::cuda {

// --- norms (norm.cu) ---

// The residual stream takes a branch's result and is normed for the next product, in one pass over both:
//   x += delta                              with a delta
//   x += rms_norm(delta) * delta_weight     with a delta and delta_weight: the post-norms of gemma
//   out = rms_norm(x) * weight              with a weight
// At most 32,768 columns (kUnsupported beyond).
struct RmsNormArgs {
  float* x = nullptr;                   // [T, E]; written only where there is a delta
  const void* delta = nullptr;          // [T, E] or null
  DType delta_type = DType::F32;        // F32 or BF16
  const float* delta_weight = nullptr;  // [E] or null
  const float* weight = nullptr;        // [E] or null
  void* out = nullptr;                  // [T, E] bf16; not null where weight is
  float eps = 0.0f;
  int64_t rows = 0, dim = 0;
};
Status rms_norm(const RmsNormArgs& args, Stream stream, bool pdl);

// out = layer_norm(x + delta) * weight + bias, in either or both types. Width as above.
struct LayerNormArgs {
  const float* x = nullptr;                        // [T, E]
  const void* delta = nullptr;                     // [T, E] or null
  DType delta_type = DType::F32;                   // F32 or BF16
  const float *weight = nullptr, *bias = nullptr;  // [E]
  float* out_f32 = nullptr;                        // [T, E] or null; may be x or delta
  void* out_bf16 = nullptr;                        // [T, E] or null
  float eps = 0.0f;
  int64_t rows = 0, dim = 0;
};
Status layer_norm(const LayerNormArgs& args, Stream stream, bool pdl);

// --- heads (heads.cu) ---

// cos and sin [T, half] of positions[t] * inv_freq[i], times `magnitude`: angles in double, so exact to fp32 at any
// position.
struct RopeTableArgs {
  const int32_t* positions = nullptr;  // [T]
  const double* inv_freq = nullptr;    // [half]
  float magnitude = 1.0f;
  float *cos = nullptr, *sin = nullptr;  // [T, half]
  int64_t rows = 0, half = 0;
};
Status rope_table(const RopeTableArgs& args, Stream stream, bool pdl);

// From the products q, k, v of a layer to what attention reads: q and k with their optional per-head RMS norm and
// half-split RoPE, q as rows of its own, k and v in the store's rows.
struct HeadsArgs {
  const void *q = nullptr, *k = nullptr, *v = nullptr;  // [T][H][D], [T][K][D], [T][K][D]
  DType type = DType::F32;                              // of the three: F32 or BF16
  int64_t q_pitch = 0, k_pitch = 0, v_pitch = 0;        // elements from row to row, multiples of 8
  const float *q_norm = nullptr, *k_norm = nullptr;     // [D] or null
  float eps = 0.0f;
  const float *cos = nullptr, *sin = nullptr;  // [T, rot/2]
  int32_t rot = 0;                             // a multiple of 16, at most D; 0: no rotation
  void* q_out = nullptr;                       // [T][H][D]
  DType q_type = DType::BF16;                  // BF16 or F16
  // The paged store: row t goes to zone-full row dst[t] (page * kPageRows + row), nowhere where that is -1. Formats
  // are Order::Rows, full width, BF16 or F16.
  std::byte* pools[kMaxClasses] = {};
  const RowFormat* formats = nullptr;  // [K] of this layer, zone full
  const int32_t* dst = nullptr;        // [T]; null: k and v are not stored (the layer reads another's rows)
  int64_t rows = 0;                    // T
  int32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;  // H, K, D: a multiple of 16, at most 1,024
};
Status heads(const HeadsArgs& args, Stream stream, bool pdl);

// --- the step's bookkeeping and plain rows (rows.cu) ---

// Copy-on-write of shared pages: every plane of every layer of the copy's class, whose planes lie in the pool of the
// class's number. Sources and destinations are different pages.
struct CopyPagesArgs {
  const PageCopy* copies = nullptr;  // [n_copies]
  int32_t n_copies = 0;
  std::byte* pools[kMaxClasses] = {};
  const RowFormat* formats = nullptr;  // [n_formats] of zone full: all layers, all KV heads
  int32_t n_formats = 0;
};
Status copy_pages(const CopyPagesArgs& args, Stream stream, bool pdl);

// Rows that leave the full zone (AttentionKernels::move_rows, kernels/attention.h: the same bits), of every layer and
// KV head of a move's class. Moves are host memory, read before this returns; kMovesPerLaunch of them to a launch. Both
// zones are Order::Rows; the full zone F16 or Bf16 (its channels a multiple of 16), the other one of these or
// quantized; estimated rows F16 or Bf16. A launch's addresses and counts are baked in: not for captured steps that are
// replayed with other moves.
struct MoveRowsArgs {
  const RowMove* moves = nullptr;  // [n_moves], host
  int32_t n_moves = 0;
  std::byte* pools[kMaxPools] = {};
  const RowFormat *full = nullptr, *mid = nullptr;  // [n_formats] of zones full and mid: all layers and heads
  const RowFormat* sum = nullptr;                   // the same of zone sum; null: no head has rows there
  // The same on the host, to refuse what is not supported; host_sum with sum.
  const RowFormat *host_full = nullptr, *host_mid = nullptr, *host_sum = nullptr;
  int32_t n_formats = 0;
  const Channel* channels = nullptr;  // KvView::channels
};
inline constexpr int32_t kMovesPerLaunch = 128;
Status move_rows(const MoveRowsArgs& args, Stream stream, bool pdl);

// out[i] = x[rows[i]], or x[i] without rows: n rows of row_bytes each.
struct GatherRowsArgs {
  const void* x = nullptr;
  const int32_t* rows = nullptr;  // [n] or null
  void* out = nullptr;
  int64_t n = 0, row_bytes = 0;
};
Status gather_rows(const GatherRowsArgs& args, Stream stream, bool pdl);

Status add(const float* x, float* y, int64_t items, Stream stream, bool pdl);                    // y += x
Status add_row(const float* row, float* y, int64_t rows, int64_t dim, Stream stream, bool pdl);  // y[t] += row
Status scale(float factor, float* x, int64_t items, Stream stream, bool pdl);                    // x *= factor
Status softcap(float cap, float* x, int64_t items, Stream stream, bool pdl);                     // cap tanh(x / cap)

// out[t] = act(gate[t]) * up[t]; without `up`, act(gate[t]). Inputs F32 or BF16, out bf16 [T, F].
struct GluArgs {
  Activation activation = Activation::kSilu;
  const void *gate = nullptr, *up = nullptr;  // [T, F]
  DType type = DType::F32;                    // of both
  int64_t pitch = 0;                          // elements from row to row of both
  void* out = nullptr;
  int64_t rows = 0, dim = 0;
};
Status glu(const GluArgs& args, Stream stream, bool pdl);

// out[s] = mean over rows [begin[s], begin[s+1]) of x, then divided by its Euclidean norm when `normalize`.
struct MeanPoolArgs {
  const float* x = nullptr;        // [T, E]
  const int32_t* begin = nullptr;  // [groups + 1]
  float* out = nullptr;            // [groups, E]
  int64_t groups = 0, dim = 0;
  bool normalize = false;
};
Status mean_pool(const MeanPoolArgs& args, Stream stream, bool pdl);

// out[t] = slots[t] < 0 ? known[t] : last_tokens[slots[t]]
struct SelectTokensArgs {
  const int32_t *known = nullptr, *slots = nullptr, *last_tokens = nullptr;
  int32_t* out = nullptr;
  int64_t rows = 0;
  // Takes the card's clock (card_clock.cuh) once this launch's inputs are there, that is once the launch before has
  // ended; null: not wanted. Not written without rows.
  uint64_t* began = nullptr;
};
Status select_tokens(const SelectTokensArgs& args, Stream stream, bool pdl);

// last_tokens[slots[i]] = max(0, ids[rows[i]]) for the n draws whose slot is not -1; slots are distinct.
struct StoreTokensArgs {
  const int32_t* ids = nullptr;
  const int32_t* rows = nullptr;   // [n]; null: draw i
  const int32_t* slots = nullptr;  // [n]
  int32_t* last_tokens = nullptr;
  int64_t n = 0;
};
Status store_tokens(const StoreTokensArgs& args, Stream stream, bool pdl);

}  // namespace pare::cuda
