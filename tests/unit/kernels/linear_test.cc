#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cmath>

#include "linear_fixture.h"

namespace pare {
namespace {

constexpr int64_t kRowCounts[] = {1, 2, 3, 7, 16, 17, 33, 65};

void fill_random(TestRows& rows, Philox& rng) {
  for (float& v : rows.x) v = rng.normal() * 3.0f;
}

// Zeros, huge, denormal, non-finite, equal magnitudes and ties mixed into random rows.
void fill_extreme(TestRows& rows, Philox& rng) {
  constexpr float kSpecial[] = {0.0f,   -0.0f,    FLT_MAX,   -FLT_MAX, 1e30f, 1e-30f,    FLT_MIN,
                                1e-40f, INFINITY, -INFINITY, NAN,      0.5f,  0x1p-100f, -127.0f};
  for (size_t i = 0; i < rows.x.size(); ++i) {
    const uint32_t block = static_cast<uint32_t>(i / 32) * 2654435761u >> 28;  // one kind a block
    const float special = kSpecial[block % std::size(kSpecial)];
    rows.x[i] = block % 3 == 0 ? special : rng.below(4) == 0 ? special : rng.normal();
  }
}

void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    // NaN payloads depend on operand order and carry no information.
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << what << " at " << i << ": " << a[i] << " and " << b[i];
  }
}

std::string name(CpuLevel level, DType dtype, int64_t n, int64_t k, int64_t t) {
  return std::string(cpu_level_name(level)) + " " + std::string(dtype_name(dtype)) + " N " + std::to_string(n) + " K " +
         std::to_string(k) + " T " + std::to_string(t);
}

int64_t tiles(int64_t n) { return (n + kRowTile - 1) / kRowTile; }

// y of the oracle with its own quantization.
std::vector<float> oracle(const PackedWeight& w, TestRows& x, const LinearEpilogue& epilogue, std::vector<float> y,
                          int64_t ld_y) {
  if (wants_quantized_input(w.dtype)) quantize_rows(linear_kernels(CpuLevel::kScalar), x.rows, 0, x.rows.t);
  ref::linear(w, x.rows, 0, x.rows.t, 0, tiles(w.n), epilogue, y.data(), ld_y);
  return y;
}

void compare_levels(DType dtype, int64_t n, int64_t k, int64_t t, bool extreme, uint64_t seed) {
  Philox rng(seed);
  const TestWeight w(dtype, n, k, random_weight(dtype, n, k, rng));
  TestRows x(t, k, k + 3);
  extreme ? fill_extreme(x, rng) : fill_random(x, rng);
  const int64_t ld_y = n + 5;
  std::vector<float> start(static_cast<size_t>(t * ld_y)), bias(static_cast<size_t>(n));
  for (float& v : start) v = rng.normal();
  for (float& v : bias) v = rng.normal();
  for (const LinearEpilogue& epilogue : {LinearEpilogue{}, LinearEpilogue{bias.data(), true}}) {
    const std::vector<float> expected = oracle(w.packed, x, epilogue, start, ld_y);
    for (const CpuLevel level : testable_cpu_levels()) {
      const LinearKernels& kernels = linear_kernels(level);
      if (wants_quantized_input(dtype)) {
        std::fill_n(x.buffer.data(), x.buffer.size(), std::byte{0x55});
        quantize_rows(kernels, x.rows, 0, t);
      }
      std::vector<float> y = start;  // columns beyond N must stay as they were
      kernels.linear(w.packed, x.rows, 0, t, 0, tiles(n), epilogue, y.data(), ld_y);
      expect_same_bits(expected, y, name(level, dtype, n, k, t));
    }
  }
}

class LinearFormats : public testing::TestWithParam<DType> {};

TEST_P(LinearFormats, EveryLevelHasTheOraclesBits) {
  const DType dtype = GetParam();
  const int64_t block = dtype_info(dtype).block_items;
  uint64_t seed = 100;
  for (const int64_t n : {1, 15, 16, 17, 33}) {
    for (const int64_t t : kRowCounts) {
      for (const int64_t blocks : {1, 3}) {
        compare_levels(dtype, n, block == 1 ? 16 * blocks + 5 : block * blocks, t, false, ++seed);
      }
    }
  }
  // Several tiles in flight, and more super-blocks than one.
  compare_levels(dtype, 16 * 9 + 3, block == 1 ? 77 : block * 5, 20, false, ++seed);
  // Enough rows for the tile unit, in several passes, and more columns than it unpacks at a time.
  compare_levels(dtype, 33, block == 1 ? 16 : 2048, 32 + 7, false, ++seed);
  compare_levels(dtype, 18, block == 1 ? 16 : 256, 128 + 33, false, ++seed);
}

TEST_P(LinearFormats, ExtremeActivationsToo) {
  const DType dtype = GetParam();
  const int64_t k = dtype_info(dtype).block_items == 1 ? 96 : 256 * 3;
  for (const int64_t t : {1, 2, 17}) compare_levels(dtype, 33, k, t, true, 200 + static_cast<uint64_t>(t));
}

TEST_P(LinearFormats, RangesOfRowsAndTilesDoNotMatter) {
  const DType dtype = GetParam();
  const int64_t n = 70, k = dtype_info(dtype).block_items == 1 ? 41 : 512, t = 90;
  Philox rng(300);
  const TestWeight w(dtype, n, k, random_weight(dtype, n, k, rng));
  TestRows x(t, k, k);
  fill_random(x, rng);
  for (const CpuLevel level : testable_cpu_levels()) {
    const LinearKernels& kernels = linear_kernels(level);
    for (int64_t i = t - 1; wants_quantized_input(dtype) && i >= 0; --i) quantize_rows(kernels, x.rows, i, i + 1);
    std::vector<float> whole(static_cast<size_t>(t * n)), parts(whole.size(), -1.0f);
    kernels.linear(w.packed, x.rows, 0, t, 0, tiles(n), {}, whole.data(), n);
    int64_t t0 = 0;
    for (const int64_t t1 : {1, 4, 11, 12, 29, 37, 90}) {
      for (const auto& [tile0, tile1] : {std::pair{2, 5}, std::pair{0, 1}, std::pair{1, 2}}) {
        kernels.linear(w.packed, x.rows, t0, t1, tile0, tile1, {}, parts.data() + t0 * n + tile0 * kRowTile, n);
      }
      t0 = t1;
    }
    expect_same_bits(whole, parts, name(level, dtype, n, k, t));
  }
}

// |y - exact| is bounded by the rounding of activations (half a step of max|x|/127 each, and q's own
// rounding), and of the fp32 chain: two operations a block whose partial sums are below sum |w||x|.
TEST_P(LinearFormats, OracleIsCloseToTheExactProduct) {
  const DType dtype = GetParam();
  const int64_t n = 16, k = dtype_info(dtype).block_items == 1 ? 300 : 1024, t = 3;
  Philox rng(400);
  const TestWeight w(dtype, n, k, random_weight(dtype, n, k, rng));
  TestRows x(t, k, k);
  fill_random(x, rng);
  const std::vector<float> y = oracle(w.packed, x, {}, std::vector<float>(static_cast<size_t>(t * n)), n);
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t r = 0; r < n; ++r) {
    unpack_weight_row(w.packed, r, row.data());
    for (int64_t i = 0; i < t; ++i) {
      double exact = 0, bound = 0, magnitude = 0;
      for (int64_t b = 0; b < k; b += 32) {
        double largest = 0, weights = 0;
        for (int64_t j = b; j < std::min(k, b + 32); ++j) {
          const double xj = x.x[static_cast<size_t>(i * k + j)], wj = row[static_cast<size_t>(j)];
          exact += xj * wj;
          magnitude += std::fabs(xj * wj);
          weights += std::fabs(wj);
          largest = std::max(largest, std::fabs(xj));
        }
        if (wants_quantized_input(dtype)) {
          bound += weights * largest * (1.0 / 254 + 4 * 0x1p-24);
          magnitude += weights * largest;  // offsets and minima cancel against each other inside a block
        }
      }
      const double chain = wants_quantized_input(dtype) ? static_cast<double>(k) / 16 : static_cast<double>(k);
      bound += magnitude * chain * 0x1p-23;
      ASSERT_NEAR(y[static_cast<size_t>(i * n + r)], exact, bound) << dtype_name(dtype) << " row " << r;
    }
  }
}

std::string param_name(const testing::TestParamInfo<DType>& info) { return std::string(dtype_name(info.param)); }
INSTANTIATE_TEST_SUITE_P(Blocks, LinearFormats, testing::ValuesIn(kBlockTypes), param_name);
INSTANTIATE_TEST_SUITE_P(Floats, LinearFormats, testing::ValuesIn(kFloatTypes), param_name);

// Every quant and every activation at its largest: what 16-bit partial sums must survive.
TEST(Linear, LargestProductsDoNotSaturate) {
  for (const DType dtype : kBlockTypes) {
    for (const int fill : {0x00, 0xFF, 0x80, 0x7F}) {
      for (const float sign : {1.0f, -1.0f}) {
        const int64_t n = 16, k = 256;
        Philox rng(500);
        std::vector<std::byte> source = random_weight(dtype, n, k, rng);
        std::vector<std::byte> filled(source.size(), static_cast<std::byte>(fill));
        const DTypeInfo info = dtype_info(dtype);
        for (size_t b = 0; b < source.size(); b += info.block_bytes) {
          for (const int at : {scale_fields(dtype).d, scale_fields(dtype).m}) {
            if (at >= 0) std::memcpy(&filled[b + static_cast<size_t>(at)], &source[b + static_cast<size_t>(at)], 2);
          }
        }
        const TestWeight w(dtype, n, k, filled);
        TestRows x(3, k, k);
        for (float& v : x.x) v = sign * 127.0f;
        const std::vector<float> expected = oracle(w.packed, x, {}, std::vector<float>(3 * 16), n);
        for (const CpuLevel level : testable_cpu_levels()) {
          std::vector<float> y(3 * 16);
          linear_kernels(level).linear(w.packed, x.rows, 0, 3, 0, 1, {}, y.data(), n);
          linear_kernels(level).linear(w.packed, x.rows, 2, 3, 0, 1, {}, y.data(), n);
          expect_same_bits(expected, y, name(level, dtype, n, k, 3));
        }
      }
    }
  }
}

TEST(QuantizeRows, EveryLevelHasTheOraclesBits) {
  Philox rng(600);
  for (const bool extreme : {false, true}) {
    TestRows x(5, 32 * 41, 32 * 41 + 1);
    extreme ? fill_extreme(x, rng) : fill_random(x, rng);
    quantize_rows(linear_kernels(CpuLevel::kScalar), x.rows, 0, 5);
    const std::vector<std::byte> expected(x.buffer.data(), x.buffer.data() + x.buffer.size());
    for (const CpuLevel level : testable_cpu_levels()) {
      std::fill_n(x.buffer.data(), x.buffer.size(), std::byte{0x55});
      quantize_rows(linear_kernels(level), x.rows, 0, 5);
      EXPECT_EQ(std::memcmp(expected.data(), x.buffer.data(), expected.size()), 0) << cpu_level_name(level);
    }
  }
}

TEST(QuantizeRows, MeansWhatTheHeaderSays) {
  TestRows x(1, 32 * 4, 32 * 4);
  x.x[0] = 127.0f;
  x.x[1] = 0.5f;   // ties to even: 0
  x.x[2] = 1.5f;   // 2
  x.x[3] = -2.5f;  // -2
  x.x[17] = -127.0f;
  x.x[32] = 1e-31f;                   // below kActBlockMin: counts as zero
  x.x[64] = INFINITY, x.x[65] = NAN;  // the largest finite number, zero
  x.x[66] = -FLT_MAX;
  quantize_rows(linear_kernels(CpuLevel::kScalar), x.rows, 0, 1);
  const ActBlock* b = x.rows.blocks;
  EXPECT_EQ(b[0].scale, 1.0f);
  EXPECT_EQ(b[0].q[0], 127);
  EXPECT_EQ(b[0].q[1], 0);
  EXPECT_EQ(b[0].q[2], 2);
  EXPECT_EQ(b[0].q[3], -2);
  EXPECT_EQ(b[0].neg_sum16[0], -127);
  EXPECT_EQ(b[0].neg_sum16[1], 127);
  EXPECT_EQ(b[0].neg_sum, 0);
  EXPECT_EQ(b[1].scale, 0.0f);
  EXPECT_EQ(b[1].q[0], 0);
  EXPECT_EQ(b[2].scale, FLT_MAX / 127.0f);
  EXPECT_EQ(b[2].q[0], 127);
  EXPECT_EQ(b[2].q[1], 0);
  EXPECT_EQ(b[2].q[2], -127);
  EXPECT_EQ(b[2].scaled_sum, 0.0f);
  EXPECT_EQ(b[3].scale, 0.0f);
}

}  // namespace
}  // namespace pare
