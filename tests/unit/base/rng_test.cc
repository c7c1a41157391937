#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace pare {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox 4x32, 10 rounds).
TEST(Philox, KnownAnswers) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StreamIsTheBlocksOfItsKeyInOrder) {
  Philox stream(0x299f31d0a4093822, 0x0370734413198a2e);
  for (uint32_t block = 0; block < 3; ++block) {
    const auto expected = philox4x32({block, 0, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0});
    for (const uint32_t word : expected) EXPECT_EQ(stream(), word);
  }
}

TEST(Philox, UniformStaysBelowOne) {
  EXPECT_EQ(uniform_float(0), 0.0f);
  EXPECT_LT(uniform_float(~0u), 1.0f);
}

TEST(Philox, NormalHasUnitVariance) {
  Philox rng(1);
  double sum = 0, squares = 0;
  constexpr int kDraws = 200'000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
  }
  // Six standard errors: 1/sqrt(n) of the mean, sqrt(2/n) of the variance.
  EXPECT_NEAR(sum / kDraws, 0.0, 6 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0, 6 * std::sqrt(2.0 / kDraws));
}

TEST(Philox, BelowIsUniform) {
  Philox rng(2);
  constexpr int kDraws = 70'000, kBins = 7;
  std::vector<int> bins(kBins);
  for (int i = 0; i < kDraws; ++i) {
    const uint32_t v = rng.below(kBins);
    ASSERT_LT(v, static_cast<uint32_t>(kBins));
    ++bins[v];
  }
  for (const int n : bins) EXPECT_NEAR(n, kDraws / kBins, 6 * std::sqrt(kDraws / kBins));
  EXPECT_EQ(rng.below(1), 0u);
}

TEST(Philox, BelowRejectsWhatModuloWouldFavour) {
  // 3 * 2^30: a quarter of all words must be drawn again, or the low third would be twice as likely.
  Philox rng(3);
  constexpr uint32_t kN = 3u << 30;
  int low = 0;
  constexpr int kDraws = 60'000;
  for (int i = 0; i < kDraws; ++i) low += rng.below(kN) < (1u << 30);
  EXPECT_NEAR(low, kDraws / 3, 6 * std::sqrt(kDraws * 2.0 / 9));
}

}  // namespace
}  // namespace pare
