// Intervals: equal for equal seeds, right for cases worked out by hand, and covering as often as they say.
#include "eval/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace pare {
namespace {

TEST(Bootstrap, Quantiles) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_EQ(quantile(values, 0.0), 1);
  EXPECT_EQ(quantile(values, 1.0), 4);
  EXPECT_DOUBLE_EQ(quantile(values, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile(values, 0.25), 1.75);
  EXPECT_EQ(quantile(std::vector<double>{7}, 0.9), 7);
  EXPECT_TRUE(std::isnan(quantile({}, 0.5)));
}

TEST(Bootstrap, SameSeedSameInterval) {
  const std::vector<double> values = {0, 1, 1, 0, 1, 1, 1, 0.5};
  const Interval a = bootstrap_mean(values, {.seed = 5}), b = bootstrap_mean(values, {.seed = 5});
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_DOUBLE_EQ(a.value, 5.5 / 8);
  EXPECT_LT(a.low, a.value);
  EXPECT_GT(a.high, a.value);
  const Interval wide = bootstrap_mean(values, {.seed = 5, .confidence = 0.99});
  EXPECT_LE(wide.low, a.low);
  EXPECT_GE(wide.high, a.high);
}

TEST(Bootstrap, WithoutSpreadThereIsNone) {
  const Interval same = bootstrap_mean(std::vector<double>(9, 0.25));
  EXPECT_EQ(same.low, 0.25);
  EXPECT_EQ(same.high, 0.25);
  const Interval one = bootstrap_mean(std::vector<double>{3});
  EXPECT_EQ(one.value, 3);
  EXPECT_TRUE(std::isnan(one.low));
  EXPECT_TRUE(std::isnan(bootstrap_mean({}).value));
}

TEST(Bootstrap, DrawsWithoutAValueAreLeftOut) {
  // A ratio whose denominator is zero in some draws.
  const std::vector<double> below = {0, 0, 1, 0};
  const auto ratio = [&](std::span<const int32_t> cases) {
    double b = 0;
    for (const int32_t i : cases) b += below[static_cast<size_t>(i)];
    return b > 0 ? 1.0 : std::nan("");
  };
  const Interval i = bootstrap(4, ratio);
  EXPECT_EQ(i.low, 1.0);
  EXPECT_EQ(i.high, 1.0);
}

// The percentile interval of a mean of 40 values covers the truth a little less often than it says; 92 to 97 in 100
// is what 600 trials allow.
TEST(Bootstrap, CoversTheMeanAsOftenAsItSays) {
  Philox rng(2024);
  int covered = 0;
  constexpr int kTrials = 600;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> values(40);
    for (double& v : values) v = 3.0 + 2.0 * static_cast<double>(rng.normal());
    const Interval i = bootstrap_mean(values, {.seed = static_cast<uint64_t>(trial), .rounds = 400});
    covered += i.low <= 3.0 && 3.0 <= i.high;
  }
  EXPECT_GE(covered, kTrials * 91 / 100);
  EXPECT_LE(covered, kTrials * 98 / 100);
}

}  // namespace
}  // namespace pare
