// y = x * W^T for many tokens: cuBLASLt over 16-bit weights in rows, as dequantize.h writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "pare/status.h"
#include "tensor/cuda/stream.h"
#include "tensor/dtype.h"

namespace pare::cuda {

struct GemmCall {
  int64_t t = 0, n = 0, k = 0;
  DType type = DType::BF16;    // of x and w: BF16 or F16
  const void* x = nullptr;     // [T][ld_x]
  const void* w = nullptr;     // [N][ld_w]
  int64_t ld_x = 0, ld_w = 0;  // multiples of 8
  void* y = nullptr;           // [T][ld_y]; 16-byte aligned as x and w, rows as well for full speed
  int64_t ld_y = 0;
  DType y_type = DType::F32;    // F32, or as `type`
  const float* bias = nullptr;  // [N], added; or null. fp32 y only, and not with `accumulate`
  bool accumulate = false;      // y += result; fp32 only
};

// One device's handle, workspace and choice of algorithms. Calls of one Gemm must not overlap: they share the
// workspace. Nothing allocates on the device after create(); calls can be captured.
//
// An algorithm is chosen once per shape, with T rounded up to a power of two, and kept: the same T always gives the
// same bits. `strict` pins one algorithm per (N, K), without split K, for every T: then a row's bits depend neither on
// T nor on the other rows.
class Gemm {
 public:
  static Expected<Gemm> create(bool strict = false);
  ~Gemm();
  Gemm(Gemm&&) noexcept;
  Gemm& operator=(Gemm&&) noexcept;

  Status run(const GemmCall& call, Stream stream);

 private:
  struct State;
  explicit Gemm(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pare::cuda
