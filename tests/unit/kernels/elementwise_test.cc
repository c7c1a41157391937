#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cmath>
#include <string>
#include <vector>

#include "base/rng.h"

namespace pare {
namespace {

constexpr int64_t kSizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 127, 576, 1001};
constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf};

std::vector<float> random_row(int64_t n, uint64_t seed, float spread) {
  Philox rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = rng.normal() * spread;
  return x;
}

// A value of every kind, and the neighbourhoods where exp and the activations change regime.
std::vector<float> special_row() {
  std::vector<float> x = {0.0f,   -0.0f,   1.0f,     -1.0f,    FLT_MIN,   -FLT_MIN,
                          1e-42f, FLT_MAX, -FLT_MAX, INFINITY, -INFINITY, NAN};
  for (float v = -110; v < 110; v += 0.37f) x.push_back(v);
  return x;
}

uint32_t bits(float x) { return std::isnan(x) ? 0x7FC00000u : std::bit_cast<uint32_t>(x); }

void expect_same(const std::vector<float>& expected, const std::vector<float>& actual, const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(bits(expected[i]), bits(actual[i])) << what << " [" << i << "]: " << expected[i] << ", " << actual[i];
  }
}

// Runs `kernel(kernels, x)` on the oracle (scalar level) and on every level, over all sizes and kinds of
// rows, inside a guard that a store past the end would change.
template <typename Kernel>
void compare_levels(Kernel kernel) {
  std::vector<std::vector<float>> rows = {special_row()};
  for (const int64_t n : kSizes) {
    rows.push_back(random_row(n, static_cast<uint64_t>(n), 1.0f));
    rows.push_back(random_row(n, static_cast<uint64_t>(n), 30.0f));
  }
  for (const std::vector<float>& row : rows) {
    std::vector<float> expected;
    for (const CpuLevel level : testable_cpu_levels()) {
      std::vector<float> x = row;
      x.push_back(42.0f);
      kernel(elementwise_kernels(level), x.data(), static_cast<int64_t>(row.size()));
      ASSERT_EQ(x.back(), 42.0f);
      if (level == CpuLevel::kScalar) expected = x;
      expect_same(expected, x, std::string(cpu_level_name(level)) + " n " + std::to_string(row.size()));
    }
  }
}

TEST(Elementwise, EveryLevelHasTheOraclesBits) {
  const std::vector<float> w = random_row(1100, 1, 1.0f), b = random_row(1100, 2, 1.0f);
  compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { k.rms_norm(x, w.data(), 1e-5f, n, x); });
  compare_levels(
      [&](const ElementwiseKernels& k, float* x, int64_t n) { k.layer_norm(x, w.data(), b.data(), 1e-5f, n, x); });
  compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { k.rope(x, w.data(), b.data(), n / 2 * 2); });
  compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { k.add(w.data(), n, x); });
  compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { k.scale(x, 1.7f, n); });
  compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { x[0] = k.log_sum_exp(x, n); });
  compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { x[0] = static_cast<float>(k.argmax(x, n)); });
  for (const Activation act : kActivations) {
    compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { k.activate(act, x, n); });
    compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { k.glu(act, x, w.data(), n, x); });
    compare_levels([&](const ElementwiseKernels& k, float* x, int64_t n) { k.glu(act, w.data(), x, n, x); });
  }
}

const ElementwiseKernels& oracle() { return elementwise_kernels(CpuLevel::kScalar); }

// exp is reached through log_sum_exp: of {0, x} with x far below, only its sum term is visible; so through
// silu, whose other operations round three times: exp within 2 ulp leaves at most 2 + 0.5 + 0.5 ulp (x > 0,
// where 1 + e is benign).
TEST(Elementwise, ActivationsAreCloseToDouble) {
  for (double v = -80; v < 80; v += 0.0173) {
    const auto x = static_cast<float>(v);
    const double xd = x, cubic = std::sqrt(2 / M_PI) * (xd + 0.044715 * xd * xd * xd);
    const double silu = xd / (1 + std::exp(-xd)), gelu_tanh = xd / (1 + std::exp(-2 * cubic));
    const double gelu_erf = xd * 0.5 * std::erfc(-xd / std::sqrt(2));
    float y[3] = {x, x, x};
    for (int i = 0; i < 3; ++i) oracle().activate(kActivations[i], y + i, 1);
    EXPECT_NEAR(y[0], silu, std::fabs(silu) * 3 * 0x1p-23 + std::fabs(xd) * FLT_MIN) << x;  // e^88 and more is infinite
    // The argument -2u of exp carries three roundings: relative error of exp is |2u| times theirs.
    EXPECT_NEAR(
        y[1], gelu_tanh,
        std::fabs(gelu_tanh) * (3 + 3 * std::min(std::fabs(2 * cubic), 88.0)) * 0x1p-23 + std::fabs(xd) * FLT_MIN)
        << x;
    EXPECT_NEAR(y[2], gelu_erf, std::fabs(xd) * 2.5e-7) << x;  // erfc's 1.5e-7 and fp32 rounding of 1 - erfc / 2
  }
}

// silu(-x) = -x e^-x / (1 + e^-x): for large x it is -x e^-x, so e^-x itself to within the roundings of the
// division (0.5 ulp) and of the sum.
TEST(Elementwise, ExpIsWithinTwoUlp) {
  double worst = 0;
  for (double v = 20; v < 80; v += 0.00137) {
    const auto x = static_cast<float>(v);
    float y = -x;
    oracle().activate(Activation::kSilu, &y, 1);
    const double e = std::exp(-static_cast<double>(x)), exact = -x * e / (1 + e);
    worst = std::max(worst, std::fabs(y - exact) / std::fabs(exact));
  }
  EXPECT_LT(worst, 3 * 0x1p-23);
}

TEST(Elementwise, NormsAreCloseToDouble) {
  for (const int64_t n : kSizes) {
    const std::vector<float> x = random_row(n, 5, 2.0f), w = random_row(n, 6, 1.0f), b = random_row(n, 7, 1.0f);
    double mean = 0, squares = 0, variance = 0;
    for (const float v : x) mean += v / static_cast<double>(n), squares += double{v} * v / static_cast<double>(n);
    for (const float v : x) variance += (v - mean) * (v - mean) / static_cast<double>(n);
    std::vector<float> rms(x.size()), layer(x.size());
    oracle().rms_norm(x.data(), w.data(), 1e-5f, n, rms.data());
    oracle().layer_norm(x.data(), w.data(), b.data(), 1e-5f, n, layer.data());
    const double roundings = (static_cast<double>(n) / 16 + 12) * 0x1p-23;
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = x[i] / std::sqrt(squares + 1e-5) * w[i];
      EXPECT_NEAR(rms[i], expected, std::fabs(expected) * roundings);
      if (n == 1) continue;  // all cancellation: the bound below would be the value
      const double inverse = 1 / std::sqrt(variance + 1e-5);
      EXPECT_NEAR(layer[i], (x[i] - mean) * inverse * w[i] + b[i],
                  (std::fabs(x[i]) + std::fabs(mean) + 2) * inverse * (std::fabs(w[i]) + 1) * 2 * roundings + 1e-6);
    }
  }
}

TEST(Elementwise, RopeRotates) {
  std::vector<float> x = {1, 2, 3, 4, 5};
  const float c[] = {0.0f, 1.0f}, s[] = {1.0f, 0.0f};
  for (const CpuLevel level : testable_cpu_levels()) {
    std::vector<float> y = x;
    elementwise_kernels(level).rope(y.data(), c, s, 4);
    EXPECT_EQ(y, (std::vector<float>{-3, 2, 1, 4, 5}));
  }
}

TEST(Elementwise, ArgmaxTiesGoToTheLowestAndNanNeverWins) {
  struct Case {
    std::vector<float> x;
    int64_t at;
  };
  std::vector<float> long_row(100, 1.0f);
  long_row[37] = long_row[38] = long_row[99] = 2.0f;
  const Case cases[] = {{{1, 3, 3, 2}, 1},    {{NAN, 1}, 1},      {{-INFINITY, NAN}, 0}, {{NAN, -INFINITY}, 1},
                        {{NAN, NAN, NAN}, 0}, {{-0.0f, 0.0f}, 0}, {{1, INFINITY}, 1},    {long_row, 37}};
  for (const Case& c : cases) {
    for (const CpuLevel level : testable_cpu_levels()) {
      EXPECT_EQ(elementwise_kernels(level).argmax(c.x.data(), static_cast<int64_t>(c.x.size())), c.at);
    }
  }
}

TEST(Elementwise, LogSumExp) {
  const std::vector<float> x = random_row(5000, 9, 10.0f);
  double max = -1e9, sum = 0;
  for (const float v : x) max = std::max(max, double{v});
  for (const float v : x) sum += std::exp(v - max);
  EXPECT_NEAR(oracle().log_sum_exp(x.data(), 5000), max + std::log(sum), 1e-5);
  const float huge[] = {FLT_MAX, -FLT_MAX}, infinite[] = {INFINITY, 0}, none[] = {-INFINITY, -INFINITY};
  EXPECT_EQ(oracle().log_sum_exp(huge, 2), FLT_MAX);
  EXPECT_EQ(oracle().log_sum_exp(infinite, 2), INFINITY);
  EXPECT_EQ(oracle().log_sum_exp(none, 2), -INFINITY);
}

}  // namespace
}  // namespace pare
