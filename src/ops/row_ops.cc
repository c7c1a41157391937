#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/checked.h"
#include "ops/device_ops.h"
#include "ops/ops.h"

namespace pare::ops {
namespace {

// Rows a task takes when rows are cheap: enough work to pay for a claim, few enough to balance.
constexpr int64_t kRowsPerTask = 8;

// Runs body(t) for every row, inline when there are too few rows to wake anybody.
template <typename Body>
void for_rows(ExecContext& ctx, int64_t rows, Body&& body) {
  if (rows <= 2) {
    for (int64_t t = 0; t < rows; ++t) body(t);
    return;
  }
  const int64_t per_task = std::min(kRowsPerTask, ceil_div<int64_t>(rows, ctx.pool.threads()));
  ctx.pool.run_shares(ceil_div(rows, per_task), [&](int64_t task, int) {
    const int64_t end = std::min(rows, (task + 1) * per_task);
    for (int64_t t = task * per_task; t < end; ++t) body(t);
  });
}

void quantize_row(ExecContext& ctx, const LinearInput& rows, int64_t t) {
  if (rows.quantized) quantize_rows(ctx.linear, rows.rows, t, t + 1);
}

}  // namespace

Tensor make_f32(ExecContext& ctx, std::initializer_list<int64_t> shape) {
  int64_t items = 1;
  for (int64_t d : shape) items *= d;
  const auto block = ctx.arena.take<float>(static_cast<size_t>(items));
  PARE_CHECK(items == 0 || !block.empty());
  return Tensor(block.data(), DType::F32, shape, ctx.device);
}

size_t linear_input_bytes(const ExecContext& ctx, int64_t t, int64_t k, bool quantized, bool with_values) {
  if (ctx.device_ops) return static_cast<size_t>(t * k) * sizeof(uint16_t);
  const size_t values = static_cast<size_t>(t * k) * sizeof(float);
  if (!quantized) return values;
  return (with_values ? values : 0) + act_rows_bytes(t, k);
}

LinearInput make_linear_input(ExecContext& ctx, int64_t t, int64_t k, bool quantized, bool with_values) {
  if (ctx.device_ops) {
    LinearInput in;
    in.values = ctx.device_ops->make_activations(ctx.arena, {t, k});
    in.rows.t = t;
    in.rows.k = k;
    return in;
  }
  LinearInput in;
  with_values |= !quantized;
  if (with_values) in.values = make_f32(ctx, {t, k});
  in.quantized = quantized;
  if (quantized) {
    const auto block = ctx.arena.take<std::byte>(act_rows_bytes(t, k));
    PARE_CHECK(t == 0 || !block.empty());
    place_act_rows(block.data(), t, k, &in.rows);
  }
  in.rows.t = t;
  in.rows.k = k;
  if (with_values) in.rows.f32 = in.values.as<float>();
  in.rows.ld = k;
  return in;
}

void embed(ExecContext& ctx, const Weight& table, const Tensor& ids, float factor, Tensor& out) {
  if (ctx.device_ops) return ctx.device_ops->embed(table, ids, factor, out);
  const int64_t rows = ids.items(), dim = table.k;
  PARE_CHECK(out.items() == rows * dim);
  const int32_t* id = ids.as<int32_t>();
  float* y = out.as<float>();
  for_rows(ctx, rows, [&](int64_t t) {
    unpack_weight_row(table, id[t], y + t * dim);
    if (factor != 1.0f) ctx.elementwise.scale(y + t * dim, factor, dim);
  });
}

void quantize(ExecContext& ctx, LinearInput& rows) {  // accelerators quantize no activations
  if (!rows.quantized) return;
  for_rows(ctx, rows.rows.t, [&](int64_t t) { quantize_row(ctx, rows, t); });
}

void rms_norm(ExecContext& ctx, const Tensor& x, const float* weight, float eps, LinearInput& out) {
  if (ctx.device_ops) return ctx.device_ops->rms_norm(x, weight, eps, out);
  const int64_t rows = x.rows(), n = x.row_items();
  PARE_CHECK(out.rows.t == rows && out.rows.k == n);
  const float* in = x.as<float>();
  float* y = out.values.as<float>();
  for_rows(ctx, rows, [&](int64_t t) {
    ctx.elementwise.rms_norm(in + t * n, weight, eps, n, y + t * n);
    quantize_row(ctx, out, t);
  });
}

void rms_norm_add(ExecContext& ctx, Tensor& x, const float* weight, float eps, Tensor& residual) {
  if (ctx.device_ops) return ctx.device_ops->rms_norm_add(x, weight, eps, residual);
  const int64_t rows = x.rows(), n = x.row_items();
  PARE_CHECK(residual.items() == x.items());
  float* in = x.as<float>();
  float* y = residual.as<float>();
  for_rows(ctx, rows, [&](int64_t t) {
    ctx.elementwise.rms_norm(in + t * n, weight, eps, n, in + t * n);
    ctx.elementwise.add(in + t * n, n, y + t * n);
  });
}

void layer_norm(ExecContext& ctx, const Tensor& x, const float* weight, const float* bias, float eps,
                LinearInput& out) {
  if (ctx.device_ops) return ctx.device_ops->layer_norm(x, weight, bias, eps, out);
  const int64_t rows = x.rows(), n = x.row_items();
  PARE_CHECK(out.rows.t == rows && out.rows.k == n);
  const float* in = x.as<float>();
  float* y = out.values.as<float>();
  for_rows(ctx, rows, [&](int64_t t) {
    ctx.elementwise.layer_norm(in + t * n, weight, bias, eps, n, y + t * n);
    quantize_row(ctx, out, t);
  });
}

RopeTable make_rope_table(ExecContext& ctx, const Tensor& positions, std::span<const double> inv_freq,
                          float magnitude) {
  if (ctx.device_ops) return ctx.device_ops->make_rope_table(ctx.arena, positions, inv_freq, magnitude);
  const int64_t rows = positions.items(), half = static_cast<int64_t>(inv_freq.size());
  RopeTable table;
  table.rot = 2 * half;
  table.cos = make_f32(ctx, {rows, half});
  table.sin = make_f32(ctx, {rows, half});
  const int32_t* position = positions.as<int32_t>();
  float* cos = table.cos.as<float>();
  float* sin = table.sin.as<float>();
  for_rows(ctx, rows, [&](int64_t t) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = position[t] * inv_freq[i];
      cos[t * half + i] = magnitude * static_cast<float>(std::cos(angle));
      sin[t * half + i] = magnitude * static_cast<float>(std::sin(angle));
    }
  });
  return table;
}

void head_norm_rope(ExecContext& ctx, Tensor& x, const float* norm_weight, float eps, const RopeTable& rope) {
  const int64_t rows = x.shape[0], heads = x.shape[1], dim = x.shape[2], half = rope.rot / 2;
  PARE_CHECK(rope.rot <= dim && rope.cos.rows() == rows);
  float* data = x.as<float>();
  const float* cos = rope.cos.as<float>();
  const float* sin = rope.sin.as<float>();
  for_rows(ctx, rows, [&](int64_t t) {
    for (int64_t h = 0; h < heads; ++h) {
      float* head = data + (t * heads + h) * dim;
      if (norm_weight) ctx.elementwise.rms_norm(head, norm_weight, eps, dim, head);
      ctx.elementwise.rope(head, cos + t * half, sin + t * half, rope.rot);
    }
  });
}

void gather_rows(ExecContext& ctx, const Tensor& x, const Tensor& rows, Tensor& out) {
  if (ctx.device_ops) return ctx.device_ops->gather_rows(x, rows, out);
  const int64_t n = rows.items(), dim = x.row_items();
  PARE_CHECK(out.items() == n * dim);
  const int32_t* row = rows.as<int32_t>();
  const float* in = x.as<float>();
  float* y = out.as<float>();
  for_rows(ctx, n, [&](int64_t i) { std::copy_n(in + row[i] * dim, dim, y + i * dim); });
}

void add(ExecContext& ctx, const Tensor& x, Tensor& y) {
  if (ctx.device_ops) return ctx.device_ops->add(x, y);
  const int64_t rows = x.rows(), n = x.row_items();
  PARE_CHECK(x.items() == y.items());
  const float* in = x.as<float>();
  float* out = y.as<float>();
  for_rows(ctx, rows, [&](int64_t t) { ctx.elementwise.add(in + t * n, n, out + t * n); });
}

void add_row(ExecContext& ctx, const float* row, Tensor& y) {
  if (ctx.device_ops) return ctx.device_ops->add_row(row, y);
  const int64_t n = y.row_items();
  float* out = y.as<float>();
  for_rows(ctx, y.rows(), [&](int64_t t) { ctx.elementwise.add(row, n, out + t * n); });
}

void copy(ExecContext& ctx, const Tensor& x, Tensor& y) {
  if (ctx.device_ops) return ctx.device_ops->copy(x, y);
  const int64_t rows = x.rows(), n = x.row_items();
  PARE_CHECK(x.items() == y.items());
  const float* in = x.as<float>();
  float* out = y.as<float>();
  for_rows(ctx, rows, [&](int64_t t) { std::copy_n(in + t * n, n, out + t * n); });
}

void scale(ExecContext& ctx, float factor, Tensor& x) {
  if (ctx.device_ops) return ctx.device_ops->scale(factor, x);
  const int64_t rows = x.rows(), n = x.row_items();
  float* data = x.as<float>();
  for_rows(ctx, rows, [&](int64_t t) { ctx.elementwise.scale(data + t * n, factor, n); });
}

void softcap(ExecContext& ctx, float cap, Tensor& x) {
  if (ctx.device_ops) return ctx.device_ops->softcap(cap, x);
  const int64_t rows = x.rows(), n = x.row_items();
  float* data = x.as<float>();
  for_rows(ctx, rows, [&](int64_t t) {
    for (int64_t i = 0; i < n; ++i) data[t * n + i] = cap * std::tanh(data[t * n + i] / cap);
  });
}

void mean_pool(ExecContext& ctx, const Tensor& x, const Tensor& begin, bool normalize, Tensor& out) {
  if (ctx.device_ops) return ctx.device_ops->mean_pool(x, begin, normalize, out);
  const int64_t groups = begin.items() - 1, dim = x.row_items();
  PARE_CHECK(out.items() == groups * dim);
  const int32_t* first = begin.as<int32_t>();
  const float* in = x.as<float>();
  float* y = out.as<float>();
  for_rows(ctx, groups, [&](int64_t s) {
    float* row = y + s * dim;
    std::fill_n(row, dim, 0.0f);
    for (int64_t t = first[s]; t < first[s + 1]; ++t) ctx.elementwise.add(in + t * dim, dim, row);
    const int64_t count = first[s + 1] - first[s];
    ctx.elementwise.scale(row, count > 0 ? 1.0f / static_cast<float>(count) : 0.0f, dim);
    if (!normalize) return;
    double norm = 0.0;
    for (int64_t i = 0; i < dim; ++i) norm += static_cast<double>(row[i]) * row[i];
    // The floor keeps an all-zero embedding at zero instead of NaN.
    ctx.elementwise.scale(row, static_cast<float>(1.0 / std::sqrt(std::max(norm, 1e-24))), dim);
  });
}

}  // namespace pare::ops
