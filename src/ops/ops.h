// Typed operations over tensors: the only way the layers above touch device memory. Each op takes the execution
// context, reads tensors where they live, and never looks at an element on the host, so that another backend changes
// nothing above this folder (device_ops.h).
//
// Shapes: T packed token rows, E model dim, F feed-forward dim, H query heads, K KV heads, D head dim, V vocabulary.
// All activations are contiguous, and fp32 on the CPU. Shape mismatches are programmers' errors (PARE_CHECK).
#pragma once

#include <cstdint>
#include <span>

#include "ops/exec.h"
#include "plan/step.h"
#include "tensor/tensor.h"

namespace pare::ops {

// A norm that the reader of the rows computes itself, in its own prologue: accelerators, few rows.
struct PendingNorm {
  const float* x = nullptr;  // [T, K]; null: none is pending
  const float* weight = nullptr;
  float eps = 0.0f;
};

// Rows that a matrix product will read: fp32 values, their quantized form, or both; on an accelerator 16-bit values.
struct LinearInput {
  Tensor values;  // [T, K], unless only the quantized form is kept
  PendingNorm norm;
  ActRows rows;  // the same rows; q/scale/sums set when `quantized`
  bool quantized = false;
};

// Space for [T, K] fp32 plus, when asked, its quantized form, from the context's arena. Without `with_values` the fp32
// values are left out where the quantized form is there; only glu_linear fills such an input.
LinearInput make_linear_input(ExecContext& ctx, int64_t t, int64_t k, bool quantized, bool with_values = true);
Tensor make_f32(ExecContext& ctx, std::initializer_list<int64_t> shape);
// Arena bytes of make_linear_input.
size_t linear_input_bytes(const ExecContext& ctx, int64_t t, int64_t k, bool quantized, bool with_values = true);

// A dense weight as ops see it: [n, k], packed.
using Weight = PackedWeight;

// out[t] = scale * table[ids[t]]. ids [T] i32 in [0, V).
void embed(ExecContext& ctx, const Weight& table, const Tensor& ids, float scale, Tensor& out);

// out = rms_norm(x) * weight, quantized when out asks for it.
void rms_norm(ExecContext& ctx, const Tensor& x, const float* weight, float eps, LinearInput& out);
// y = rms_norm(x) * weight + y_residual: the post-norms of gemma. x [T, E] is overwritten.
void rms_norm_add(ExecContext& ctx, Tensor& x, const float* weight, float eps, Tensor& residual);
void layer_norm(ExecContext& ctx, const Tensor& x, const float* weight, const float* bias, float eps, LinearInput& out);

// Fills out.q from out.values (when `quantized`).
void quantize(ExecContext& ctx, LinearInput& rows);

struct LinearOutput {
  const Weight* weight = nullptr;
  const float* bias = nullptr;  // [N] or null
  Tensor* y = nullptr;          // [T, N]
  bool accumulate = false;      // y += x W^T: the residual
};
// All outputs read the same input: one pass over the threads.
void linear(ExecContext& ctx, const LinearInput& x, std::span<const LinearOutput> outputs);

// out = act(x gate^T) * (x up^T), quantized when out asks for it; fp32 values are written only when it does not. The
// products of a few columns are activated and quantized while they are in a core's first cache: at 512 rows their way
// through memory cost as much as the multiplication. Workspace: glu_workspace_bytes from the arena.
size_t glu_workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t n);
void glu_linear(ExecContext& ctx, const LinearInput& x, const Weight& gate, const Weight& up, Activation act,
                LinearInput& out);
// out = act(x w^T + bias).
void linear_activate(ExecContext& ctx, const LinearInput& x, const Weight& w, const float* bias, Activation act,
                     LinearInput& out);

// Angles of this step's rows for one RoPE base: cos and sin [T, rot/2] times `magnitude`.
// positions [T] i32; inv_freq[rot/2] in double: angles are exact to fp32 at any position.
struct RopeTable {
  Tensor cos, sin;
  int64_t rot = 0;
};
RopeTable make_rope_table(ExecContext& ctx, const Tensor& positions, std::span<const double> inv_freq, float magnitude);

// In place on x [T, heads, D]: optional per-head RMS norm with weight [D], then half-split RoPE.
void head_norm_rope(ExecContext& ctx, Tensor& x, const float* norm_weight, float eps, const RopeTable& rope);

// What happens to the heads of q and k before attention: an optional RMS norm each [D], then RoPE unless rope is null.
struct HeadTransform {
  const float *q_norm = nullptr, *k_norm = nullptr;
  float eps = 0.0f;
  const RopeTable* rope = nullptr;
};

// Attention of model layer l: transforms q and k in place, stores k, v [T, K, D] where the step says, then fills out
// [T, H*D] for q [T, H, D] by the layer's BlockPlan and its class's SegmentPlan. Quantizes out when it asks for it.
void attend_layer(ExecContext& ctx, const StepPlans& plans, int32_t l, float logit_scale, const HeadTransform& heads,
                  Tensor& q, Tensor& k, const Tensor& v, LinearInput& out);
size_t attend_workspace_bytes(const ExecContext& ctx, int64_t rows, int32_t tile_rows, int32_t n_heads,
                              int32_t n_kv_heads, int32_t head_dim);

// Copies of shared pages that a step's writers need; once, before the first layer.
void copy_pages(ExecContext& ctx, const StepPlans& plans);
// Rows that leave the full zone, group after group (RowMove), when launch_step has returned: on a device, behind all
// that it queued.
void move_rows(ExecContext& ctx, const StepPlans& plans, std::span<const RowMove> moves);

// out[i] = x[rows[i]]: the rows whose logits are wanted. rows [n] i32.
void gather_rows(ExecContext& ctx, const Tensor& x, const Tensor& rows, Tensor& out);
void add(ExecContext& ctx, const Tensor& x, Tensor& y);       // y += x
void add_row(ExecContext& ctx, const float* row, Tensor& y);  // y[t] += row [E]
void copy(ExecContext& ctx, const Tensor& x, Tensor& y);
void scale(ExecContext& ctx, float factor, Tensor& x);
// x = cap * tanh(x / cap)
void softcap(ExecContext& ctx, float cap, Tensor& x);
// out[s] = mean over rows [begin[s], begin[s+1]) of x, then divided by its Euclidean norm when `normalize`.
void mean_pool(ExecContext& ctx, const Tensor& x, const Tensor& begin, bool normalize, Tensor& out);

}  // namespace pare::ops
