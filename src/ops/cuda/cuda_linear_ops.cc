// Matrix products on a card: a few rows straight from the packed weights, many through 16-bit copies and cuBLASLt.
#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/batch_linear.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/row_ops.h"
#include "ops/cuda/cuda_ops.h"

namespace pare::ops {
namespace {

// Up to here the packed weights are read once for each 32 rows; beyond, writing them out as bf16 and multiplying that
// is faster.
constexpr int64_t kMaxPackedRows = 3 * cuda::kMaxSmallTokens;
// Rows whose norm is worth repeating in every block of the product instead of a launch of its own.
constexpr int64_t kMaxPendingNormRows = 2;
// Rows from which on the batch kernel is faster than the one for a few. Strict mode has one kernel for any number.
constexpr int64_t kMinBatchRows = 9;
// Scratch rows of dequantized weights start on a multiple of this many elements.
constexpr int64_t kRowAlign = 8;

cuda::DeviceWeight device_weight(const Weight& w) { return {w.dtype, w.n, w.k, w.data}; }

}  // namespace

Tensor CudaOps::make_activations(Arena& arena, std::initializer_list<int64_t> shape) {
  int64_t items = 1;
  for (int64_t d : shape) items *= d;
  const auto block = arena.take<uint16_t>(static_cast<size_t>(items));
  PARE_CHECK(items == 0 || !block.empty());
  return Tensor(block.data(), DType::BF16, shape, device());
}

void CudaOps::embed(const Weight& table, const Tensor& ids, float factor, Tensor& out) {
  check(cuda::embed_rows(device_weight(table), ids.as<int32_t>(), ids.items(), factor, out.as<float>(), stream_, true));
}

void CudaOps::rms_norm(const Tensor& x, const float* weight, float eps, LinearInput& out) {
  if (x.rows() <= kMaxPendingNormRows && packed_rows(x.rows()) == x.rows() && x.row_items() % kRowAlign == 0) {
    out.norm = {x.as<float>(), weight, eps};
    return;
  }
  check(cuda::rms_norm({.x = x.as<float>(),
                        .weight = weight,
                        .out = out.values.data,
                        .eps = eps,
                        .rows = x.rows(),
                        .dim = x.row_items()},
                       stream_, true));
}

cuda::SmallLinearInput CudaOps::small_input(const LinearInput& x, int64_t t0, int64_t t1) const {
  cuda::SmallLinearInput in;
  in.t = t1 - t0;
  in.k = in.ld = x.rows.k;
  if (x.norm.x) {
    in.residual = x.norm.x + t0 * in.ld;
    in.norm_weight = x.norm.weight;
    in.eps = x.norm.eps;
  } else {
    in.x = x.values.as<uint16_t>() + t0 * in.ld;
  }
  return in;
}

int64_t CudaOps::packed_rows(int64_t t) const {
  if (!memory_.strict) return t <= kMaxPackedRows ? t : 0;
  // After the last attention only the rows whose logits are wanted go on.
  return t == rows_.all ? rows_.decode : logit_rows_.decode;
}

void CudaOps::linear(const LinearInput& x, std::span<const LinearOutput> outputs) {
  const int64_t packed = packed_rows(x.rows.t);
  if (packed > 0) packed_linear(x, packed, outputs);
  if (packed == x.rows.t) return;
  for (const LinearOutput& o : outputs) dense_linear(x, packed, o);
}

bool CudaOps::takes_batch(int64_t rows, DType dtype, int64_t k) const {
  return !memory_.strict && rows >= kMinBatchRows && cuda::batch_linear_takes(dtype, k);
}

void CudaOps::packed_linear(const LinearInput& x, int64_t rows, std::span<const LinearOutput> outputs) {
  std::array<cuda::SmallLinearOutput, cuda::kMaxSmallOutputs> out;
  PARE_CHECK(outputs.size() <= out.size());
  for (int64_t t0 = 0; t0 < rows; t0 += cuda::kMaxSmallTokens) {
    const int64_t t1 = std::min(rows, t0 + cuda::kMaxSmallTokens);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const LinearOutput& o = outputs[i];
      const bool bf16 = o.y->dtype == DType::BF16;
      out[i] = {.weight = device_weight(*o.weight),
                .y = static_cast<std::byte*>(o.y->data) + t0 * o.weight->n * (bf16 ? 2 : 4),
                .ld_y = o.weight->n,
                .bias = o.bias,
                .bf16 = bf16,
                .accumulate = o.accumulate};
    }
    const auto chunk = std::span(out).first(outputs.size());
    const auto takes = [&](const LinearOutput& o) { return takes_batch(t1 - t0, o.weight->dtype, o.weight->k); };
    if (std::ranges::all_of(outputs, takes)) {
      check(cuda::batch_linear(small_input(x, t0, t1), chunk, stream_, true));
    } else {
      check(cuda::small_linear(small_input(x, t0, t1), chunk, linear_workspace_.data(), stream_, true));
    }
  }
}

void CudaOps::dense_linear(const LinearInput& x, int64_t first_row, const LinearOutput& output) {
  const Weight& w = *output.weight;
  const int64_t ld = round_up(w.k, kRowAlign);
  // Slices of whole tiles that fit the scratch.
  const int64_t rows_fit = static_cast<int64_t>(scratch_.size() / (ld * sizeof(uint16_t))) / kRowTile * kRowTile;
  const int64_t tile_bytes = static_cast<int64_t>(cuda::device_weight_bytes(w.dtype, kRowTile, w.k));
  const size_t item = output.y->dtype == DType::BF16 ? 2 : 4;
  for (int64_t n0 = 0; n0 < w.n; n0 += rows_fit) {
    const int64_t n = std::min(rows_fit, w.n - n0);
    const cuda::DeviceWeight slice{w.dtype, n, w.k, w.data + n0 / kRowTile * tile_bytes};
    check(cuda::dequantize(slice, scratch_.as<uint16_t>(), ld, stream_, true));
    check(gemm_->run({.t = x.rows.t - first_row,
                      .n = n,
                      .k = w.k,
                      .x = x.values.as<uint16_t>() + first_row * x.rows.k,
                      .w = scratch_.data(),
                      .ld_x = x.rows.k,
                      .ld_w = ld,
                      .y = static_cast<std::byte*>(output.y->data) + (first_row * w.n + n0) * item,
                      .ld_y = w.n,
                      .y_type = output.y->dtype,
                      .bias = output.bias ? output.bias + n0 : nullptr,
                      .accumulate = output.accumulate},
                     stream_));
  }
}

size_t CudaOps::glu_workspace_bytes(int64_t rows, int64_t n) const {
  constexpr size_t kAlign = 2 * 64;
  return 2 * static_cast<size_t>(rows * n) * sizeof(uint16_t) + kAlign;
}

void CudaOps::glu_linear(Arena& arena, const LinearInput& x, const Weight& gate, const Weight& up, Activation act,
                         LinearInput& out) {
  const int64_t rows = x.rows.t;
  // Both products and the activation in one launch, where one kernel takes both weights.
  const int64_t fused = gate.dtype == up.dtype ? packed_rows(rows) : 0;
  for (int64_t t0 = 0; t0 < fused; t0 += cuda::kMaxSmallTokens) {
    const int64_t t1 = std::min(fused, t0 + cuda::kMaxSmallTokens);
    uint16_t* y = out.values.as<uint16_t>() + t0 * gate.n;
    const cuda::SmallLinearInput in = small_input(x, t0, t1);
    if (takes_batch(t1 - t0, gate.dtype, gate.k)) {
      check(cuda::batch_glu(in, device_weight(gate), device_weight(up), act, y, gate.n, stream_, true));
    } else {
      check(cuda::small_glu(in, device_weight(gate), device_weight(up), act, y, gate.n, linear_workspace_.data(),
                            stream_, true));
    }
  }
  if (fused == rows) return;
  const size_t mark = arena.mark();
  Tensor g = make_activations(arena, {rows, gate.n}), u = make_activations(arena, {rows, up.n});
  const std::array<LinearOutput, 2> products{{{&gate, nullptr, &g, false}, {&up, nullptr, &u, false}}};
  if (fused == 0) {
    linear(x, products);
  } else {
    for (const LinearOutput& product : products) dense_linear(x, fused, product);
  }
  const int64_t first = fused * gate.n;
  check(cuda::glu({.activation = act,
                   .gate = g.as<uint16_t>() + first,
                   .up = u.as<uint16_t>() + first,
                   .type = DType::BF16,
                   .pitch = gate.n,
                   .out = out.values.as<uint16_t>() + first,
                   .rows = rows - fused,
                   .dim = gate.n},
                  stream_, true));
  arena.release(mark);
}

void CudaOps::linear_activate(Arena& arena, const LinearInput& x, const Weight& w, const float* bias, Activation act,
                              LinearInput& out) {
  const size_t mark = arena.mark();
  const auto products = arena.take<float>(static_cast<size_t>(x.rows.t * w.n));
  PARE_CHECK(x.rows.t == 0 || !products.empty());
  Tensor y(products.data(), DType::F32, {x.rows.t, w.n}, device());
  const LinearOutput product{&w, bias, &y, false};
  linear(x, std::span(&product, 1));
  check(cuda::glu({.activation = act,
                   .gate = y.data,
                   .type = DType::F32,
                   .pitch = w.n,
                   .out = out.values.data,
                   .rows = x.rows.t,
                   .dim = w.n},
                  stream_, true));
  arena.release(mark);
}

}  // namespace pare::ops
