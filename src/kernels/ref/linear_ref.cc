#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/linear.h"
#include "kernels/packed_format.h"
#include "kernels/packed_row.h"

namespace pare::ref {
namespace {

float finite(float x) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  if (std::isnan(x)) return 0.0f;
  return std::fmin(std::fmax(x, -kLargest), kLargest);
}

void quantize_block(const float* x, ActBlock* out) {
  *out = ActBlock{};
  float largest = 0.0f;
  for (int i = 0; i < kActBlock; ++i) largest = std::fmax(largest, std::fabs(finite(x[i])));
  if (largest < kActBlockMin) return;
  const float inverse = 127.0f / largest;
  int32_t sum[2] = {};
  for (int i = 0; i < kActBlock; ++i) {
    const auto q = static_cast<int32_t>(std::nearbyint(finite(x[i]) * inverse));
    out->q[i] = static_cast<int8_t>(q);
    sum[i / 16] += q;
  }
  out->scale = largest / 127.0f;
  out->scaled_sum = out->scale * static_cast<float>(sum[0] + sum[1]);
  out->neg_sum = -(sum[0] + sum[1]);
  out->neg_sum16[0] = -sum[0];
  out->neg_sum16[1] = -sum[1];
}

// The fp32 chain of one block; the integer sums are exact in int32 and, where they meet scales, below 2^24.
float add_block(BlockMath math, const PackedBlock& w, const ActBlock& x, float acc) {
  int32_t half[2] = {};
  for (int i = 0; i < kActBlock; ++i) half[i / 16] += w.value[i] * x.q[i];
  const auto sum = static_cast<float>(half[0] + half[1]);
  const auto scaled = static_cast<float>(half[0] * w.scale[0] + half[1] * w.scale[1]);
  switch (math) {
    case BlockMath::kSym32: return std::fma(sum, w.d * x.scale, acc);
    case BlockMath::kMin32: return std::fma(w.m, x.scaled_sum, std::fma(sum, w.d * x.scale, acc));
    case BlockMath::kSym16: return std::fma(scaled, w.d * x.scale, acc);
    case BlockMath::kMin16: {
      const auto min = static_cast<float>(x.neg_sum16[0] * w.min[0] + x.neg_sum16[1] * w.min[1]);
      return std::fma(min, w.m * x.scale, std::fma(scaled, w.d * x.scale, acc));
    }
  }
  return acc;
}

}  // namespace

void quantize(const float* x, int64_t ld, const ActRows& out, int64_t t0, int64_t t1, int64_t b0, int64_t b1) {
  for (int64_t t = t0; t < t1; ++t) {
    for (int64_t b = b0; b < b1; ++b) {
      quantize_block(x + (t - t0) * ld + (b - b0) * kActBlock, out.block(t, b));
    }
  }
}

void linear(const PackedWeight& w, const ActRows& x, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1,
            const LinearEpilogue& epilogue, float* y, int64_t ld_y) {
  const PackedFormat* f = packed_format(w.dtype);
  const int64_t blocks = f != nullptr ? w.k / kActBlock : 0;
  for (int64_t row = tile0 * kRowTile; row < w.n && row < tile1 * kRowTile; ++row) {
    const auto finish = [&](int64_t t, float acc) {
      if (epilogue.bias != nullptr) acc += epilogue.bias[row];
      float& out = y[(t - t0) * ld_y + row - tile0 * kRowTile];
      out = epilogue.accumulate ? out + acc : acc;
    };
    if (f == nullptr) {
      for (int64_t t = t0; t < t1; ++t) {
        float acc = 0.0f;
        for (int64_t i = 0; i < w.k; ++i) acc = std::fma(x.f32[t * x.ld + i], read_packed_float(w, row, i), acc);
        finish(t, acc);
      }
      continue;
    }
    // A handful of rows at a time share the unpacking, which is most of the work here.
    constexpr int64_t kRows = 16;
    for (int64_t first = t0; first < t1; first += kRows) {
      const int64_t rows = std::min(kRows, t1 - first);
      float acc[kRows] = {};
      for (int64_t b = 0; b < blocks; ++b) {
        const PackedBlock p = read_packed_block(w, row, b);
        for (int64_t i = 0; i < rows; ++i) acc[i] = add_block(f->math, p, *x.block(first + i, b), acc[i]);
      }
      for (int64_t i = 0; i < rows; ++i) finish(first + i, acc[i]);
    }
  }
}

}  // namespace pare::ref
