#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pare {
namespace {

TEST(Half, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_EQ(float_to_half(value), half | 0x200) << "a NaN stays a NaN, quiet, with its payload";
      EXPECT_TRUE(std::isnan(bfloat_to_float(float_to_bfloat(value))));
    } else {
      ASSERT_EQ(float_to_half(value), half) << value;
    }
    const float wide = bfloat_to_float(half);
    ASSERT_TRUE(std::isnan(wide) || float_to_bfloat(wide) == half) << wide;
  }
}

TEST(Half, TiesGoToEvenAndTheRestToTheNearest) {
  // Between every pair of finite neighbours: the middle, and one float above and below it.
  for (uint16_t half = 0; half < 0x7BFF; ++half) {
    const float low = half_to_float(half), high = half_to_float(half + 1), middle = (low + high) / 2;
    ASSERT_EQ(float_to_half(middle), half % 2 == 0 ? half : half + 1) << middle;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), half) << middle;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e6f)), half + 1) << middle;
    ASSERT_EQ(float_to_half(-middle) & 0x7FFF, float_to_half(middle));
  }
  EXPECT_EQ(float_to_half(65519.996f), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0f), 0x7C00);
  static_assert(float_to_half(1.0f) == 0x3C00 && half_to_float(0xC000) == -2.0f && float_to_bfloat(1.0f) == 0x3F80);
}

}  // namespace
}  // namespace pare
