#include "kernels/cuda/device_weight.h"

#include "kernels/cuda/dequantize.h"
#include "random_weight.h"

namespace pare::cuda {
namespace {

class DeviceWeightTest : public CudaTest, public ::testing::WithParamInterface<DType> {};

// Columns that a type allows: K formats have blocks of 256.
std::vector<int64_t> widths(DType t) {
  if (dtype_info(t).block_items == 256) return {256, 768, 2304};
  if (dtype_info(t).block_items == 32) return {32, 96, 576};
  return {1, 32, 33, 200, 576};
}

TEST_P(DeviceWeightTest, BecomesRowsOfBf16AgainRoundedOnce) {
  for (const int64_t k : widths(GetParam())) {
    for (const int64_t n : {1, 16, 35}) {
      const RandomWeight w = random_weight(GetParam(), n, k, static_cast<uint32_t>(7 * n + k));
      const int64_t ld = (k + 7) / 8 * 8 + 8;
      const DeviceBuffer out = poisoned<uint16_t>(n * ld);
      ASSERT_TRUE(is_ok(dequantize(w.device(), out.as<uint16_t>(), ld, nullptr, false)));
      sync();
      const auto got = to_host<uint16_t>(out, n * ld);
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t c = 0; c < ld; ++c) {
          const uint16_t want = c < k ? float_to_bfloat(w.values[r * k + c]) : 0xffff;
          // Zeros of either sign are equal.
          ASSERT_TRUE(got[r * ld + c] == want || ((got[r * ld + c] | want) & 0x7fff) == 0)
              << dtype_name(GetParam()) << " [" << n << ", " << k << "] row " << r << " column " << c << ": "
              << bfloat_to_float(got[r * ld + c]) << ", wanted " << bfloat_to_float(want);
        }
      }
    }
  }
}

TEST_P(DeviceWeightTest, EmbedsRowsExactly) {
  const int64_t n = 37, k = widths(GetParam()).back(), t = 5;
  const RandomWeight w = random_weight(GetParam(), n, k, 11);
  const std::vector<int32_t> ids = {36, 0, 8, 8, 17};
  const DeviceBuffer device_ids = to_device(ids), out = poisoned<float>(t * k);
  const float scale = 1.7f;
  ASSERT_TRUE(is_ok(embed_rows(w.device(), device_ids.as<int32_t>(), t, scale, out.as<float>(), nullptr, false)));
  sync();
  const auto got = to_host<float>(out, t * k);
  for (int64_t i = 0; i < t * k; ++i) {
    ASSERT_EQ(got[i], scale * w.values[ids[i / k] * k + i % k]) << dtype_name(GetParam()) << " item " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceWeightTest, ::testing::ValuesIn(kDeviceTypes),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(DeviceWeightSizes, KeepTheBitsOfTheFile) {
  struct Expected {
    DType dtype;
    double most;  // of the source's bytes
  };
  for (const auto& [dtype, most] : {Expected{DType::Q4_0, 1.0},
                                    {DType::Q4_1, 1.0},
                                    {DType::Q5_0, 1.0},
                                    {DType::Q5_1, 1.0},
                                    {DType::Q8_0, 1.0},
                                    {DType::Q2_K, 1.0},
                                    {DType::Q3_K, 1.04},
                                    {DType::Q4_K, 1.03},
                                    {DType::Q5_K, 1.025},
                                    {DType::Q6_K, 1.01},
                                    {DType::IQ4_NL, 1.0},
                                    {DType::IQ4_XS, 1.02},
                                    {DType::BF16, 1.0}}) {
    const double source = 1024.0 * 4096 / dtype_info(dtype).block_items * dtype_info(dtype).block_bytes;
    EXPECT_LE(static_cast<double>(device_weight_bytes(dtype, 1024, 4096)), most * source) << dtype_name(dtype);
  }
  EXPECT_EQ(device_weight_bytes(DType::Q4_K, 16, 128), 0u);
  EXPECT_EQ(device_weight_bytes(DType::I8, 16, 256), 0u);
  EXPECT_EQ(device_weight_bytes(DType::Q4_0, INT64_MAX / 2, 1 << 20), 0u);
}

}  // namespace
}  // namespace pare::cuda
