// Weights of any type for CUDA tests: source bytes as a file would have them, their values by the CPU's own decoder,
// and the device form.
#pragma once

#include <random>

#include "../unit/kernels/linear_fixture.h"
#include "cuda_test.h"
#include "kernels/cuda/device_weight.h"
#include "quant/blocks.h"

namespace pare::cuda {

inline constexpr DType kDeviceTypes[] = {DType::F32,  DType::F16,  DType::BF16, DType::Q4_0,   DType::Q4_1,
                                         DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q2_K,   DType::Q3_K,
                                         DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS};

struct RandomWeight {
  DType dtype;
  int64_t n, k;
  std::vector<std::byte> rows;  // as in a file
  std::vector<float> values;    // [N][K]
  DeviceBuffer packed;

  DeviceWeight device() const { return {dtype, n, k, packed.data()}; }
};

// Any bits as quants and sub-scales, scales of either sign around 0.01.
inline RandomWeight random_weight(DType dtype, int64_t n, int64_t k, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  RandomWeight w{dtype, n, k, {}, {}, {}};
  const DTypeInfo info = dtype_info(dtype);
  w.rows.resize(static_cast<size_t>(n * k / info.block_items * info.block_bytes));
  const auto put = [&](size_t at, auto value) { std::memcpy(w.rows.data() + at, &value, sizeof value); };
  if (!is_quantized(dtype)) {
    for (int64_t i = 0; i < n * k; ++i) {
      const float value = normal(rng);
      if (dtype == DType::F32) put(4 * i, value);
      if (dtype == DType::F16) put(2 * i, float_to_half(value));
      if (dtype == DType::BF16) put(2 * i, float_to_bfloat(value));
    }
  } else {
    for (std::byte& b : w.rows) b = static_cast<std::byte>(rng());
    const auto [d, m] = scale_fields(dtype);
    for (size_t block = 0; block < w.rows.size(); block += info.block_bytes) {
      put(block + d, float_to_half(0.2f * normal(rng)));
      if (m >= 0) put(block + m, float_to_half(0.2f * normal(rng)));
    }
  }
  w.values.resize(static_cast<size_t>(n * k));
  EXPECT_TRUE(is_ok(dequantize_row(dtype, w.rows, w.values)));

  std::vector<std::byte> packed(device_weight_bytes(dtype, n, k), std::byte{0xff});
  EXPECT_FALSE(packed.empty());
  // In two parts, the later first: tiles are independent.
  const int64_t tiles = device_weight_tiles(n);
  pack_device_weight(dtype, w.rows.data(), n, k, tiles / 2, tiles, packed.data());
  pack_device_weight(dtype, w.rows.data(), n, k, 0, tiles / 2, packed.data());
  w.packed = to_device(packed);
  return w;
}

inline std::vector<float> random_floats(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(count);
  for (float& v : x) v = normal(rng);
  return x;
}

}  // namespace pare::cuda
