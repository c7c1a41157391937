// Row-wise ops on a card.
#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/row_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "tensor/cuda/status.h"

namespace pare::ops {

void CudaOps::rms_norm_add(Tensor& x, const float* weight, float eps, Tensor& residual) {
  check(cuda::rms_norm({.x = residual.as<float>(),
                        .delta = x.data,
                        .delta_type = x.dtype,
                        .delta_weight = weight,
                        .eps = eps,
                        .rows = x.rows(),
                        .dim = x.row_items()},
                       stream_, true));
}

void CudaOps::layer_norm(const Tensor& x, const float* weight, const float* bias, float eps, LinearInput& out) {
  check(cuda::layer_norm({.x = x.as<float>(),
                          .weight = weight,
                          .bias = bias,
                          .out_bf16 = out.values.data,
                          .eps = eps,
                          .rows = x.rows(),
                          .dim = x.row_items()},
                         stream_, true));
}

RopeTable CudaOps::make_rope_table(Arena& arena, const Tensor& positions, std::span<const double> inv_freq,
                                   float magnitude) {
  auto known = std::find_if(frequencies_.begin(), frequencies_.end(),
                            [&](const Frequencies& f) { return f.host == inv_freq.data(); });
  if (known == frequencies_.end()) {
    // First step of a model: never within a capture, which needs a step of the same key before it.
    auto buffer = cuda::DeviceBuffer::allocate(inv_freq.size_bytes());
    check(buffer.ok() ? buffer->upload(inv_freq.data(), inv_freq.size_bytes()) : buffer.status());
    frequencies_.push_back({inv_freq.data(), buffer.ok() ? std::move(*buffer) : cuda::DeviceBuffer()});
    known = frequencies_.end() - 1;
  }
  const int64_t rows = positions.items(), half = static_cast<int64_t>(inv_freq.size());
  RopeTable table;
  table.rot = 2 * half;
  const auto cos = arena.take<float>(static_cast<size_t>(rows * half));
  const auto sin = arena.take<float>(static_cast<size_t>(rows * half));
  PARE_CHECK(rows == 0 || (!cos.empty() && !sin.empty()));
  table.cos = Tensor(cos.data(), DType::F32, {rows, half}, device());
  table.sin = Tensor(sin.data(), DType::F32, {rows, half}, device());
  check(cuda::rope_table({.positions = positions.as<int32_t>(),
                          .inv_freq = known->device.as<double>(),
                          .magnitude = magnitude,
                          .cos = cos.data(),
                          .sin = sin.data(),
                          .rows = rows,
                          .half = half},
                         stream_, true));
  return table;
}

void CudaOps::gather_rows(const Tensor& x, const Tensor& rows, Tensor& out) {
  PARE_CHECK(x.dtype == out.dtype);
  check(cuda::gather_rows({.x = x.data,
                           .rows = rows.as<int32_t>(),
                           .out = out.data,
                           .n = rows.items(),
                           .row_bytes = x.row_items() * dtype_info(x.dtype).block_bytes},
                          stream_, true));
}

void CudaOps::add(const Tensor& x, Tensor& y) {
  PARE_CHECK(x.items() == y.items());
  if (x.dtype == DType::F32) return check(cuda::add(x.as<float>(), y.as<float>(), x.items(), stream_, true));
  check(cuda::rms_norm(
      {.x = y.as<float>(), .delta = x.data, .delta_type = x.dtype, .rows = x.rows(), .dim = x.row_items()}, stream_,
      true));
}

void CudaOps::add_row(const float* row, Tensor& y) {
  check(cuda::add_row(row, y.as<float>(), y.rows(), y.row_items(), stream_, true));
}

// y = x, whatever their types.
void CudaOps::copy(const Tensor& x, Tensor& y) {
  PARE_CHECK(x.items() == y.items());
  if (x.dtype == y.dtype) {
    check(cuda::gather_rows(
        {.x = x.data, .out = y.data, .n = x.rows(), .row_bytes = x.row_items() * dtype_info(x.dtype).block_bytes},
        stream_, true));
    return;
  }
  PARE_CHECK(y.dtype == DType::F32);
  check(cuda::to_status(cudaMemsetAsync(y.data, 0, static_cast<size_t>(y.items()) * sizeof(float), stream_),
                        "cudaMemsetAsync"));
  add(x, y);
}

void CudaOps::scale(float factor, Tensor& x) { check(cuda::scale(factor, x.as<float>(), x.items(), stream_, true)); }

void CudaOps::softcap(float cap, Tensor& x) { check(cuda::softcap(cap, x.as<float>(), x.items(), stream_, true)); }

void CudaOps::mean_pool(const Tensor& x, const Tensor& begin, bool normalize, Tensor& out) {
  check(cuda::mean_pool({.x = x.as<float>(),
                         .begin = begin.as<int32_t>(),
                         .out = out.as<float>(),
                         .groups = begin.items() - 1,
                         .dim = x.row_items(),
                         .normalize = normalize},
                        stream_, true));
}

// A step's first launch, and not a dependent one: rows that earlier steps stored may be read before the launches
// between have ended (DecodeOptions::rows_settled).
void CudaOps::select_tokens(const Tensor& known, const Tensor& slots, const Tensor& last_tokens, Tensor& out) {
  check(cuda::select_tokens({.known = known.as<int32_t>(),
                             .slots = slots.as<int32_t>(),
                             .last_tokens = last_tokens.as<int32_t>(),
                             .out = out.as<int32_t>(),
                             .rows = out.items(),
                             .began = began_.data() ? began_.as<uint64_t>() + parity_ : nullptr},
                            stream_, false));
}

}  // namespace pare::ops
