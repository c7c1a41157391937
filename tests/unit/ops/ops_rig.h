// A context to run ops in, and random tensors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "ops/ops.h"

namespace pare::test {

// Odd, prime, around a vector's and a task's width.
inline constexpr int64_t kRowCounts[] = {1, 2, 3, 17, 129};

struct OpsRig {
  explicit OpsRig(int threads, size_t arena_bytes = size_t{16} << 20)
      : pool(threads), ctx(&pool, selected_cpu_level().value(), Arena(AlignedBuffer::allocate(arena_bytes).value())) {}
  ThreadPool pool;
  ExecContext ctx;
};

inline std::vector<float> random_floats(Philox& rng, int64_t n, float spread = 1.0f) {
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = spread * rng.normal();
  return x;
}

inline Tensor floats(std::vector<float>& x, std::initializer_list<int64_t> shape) {
  return Tensor(x.data(), DType::F32, shape);
}
inline Tensor ints(std::vector<int32_t>& x) { return Tensor(x.data(), DType::I32, {static_cast<int64_t>(x.size())}); }

inline std::vector<float> values_of(const Tensor& t) { return {t.as<float>(), t.as<float>() + t.items()}; }

// An fp32 weight [n, k], packed.
struct FloatWeight {
  FloatWeight(Philox& rng, int64_t n, int64_t k) : rows(random_floats(rng, n * k)) {
    buffer = AlignedBuffer::allocate(packed_weight_bytes(DType::F32, n, k)).value();
    pack_weight_tiles(DType::F32, reinterpret_cast<const std::byte*>(rows.data()), n, k, 0,
                      (n + kRowTile - 1) / kRowTile, buffer.data());
    packed = {DType::F32, n, k, buffer.data()};
  }
  std::vector<float> rows;
  AlignedBuffer buffer;
  PackedWeight packed;
};

}  // namespace pare::test
