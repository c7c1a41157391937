// Which tokens of a decode run count, and over which time.
#include "eval/decode_timing.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

using std::chrono::milliseconds;

TEST(DecodeTiming, StartsWhenEverySequenceHasDelivered) {
  DecodeTiming timing(2);
  const DecodeTiming::Time zero{};
  timing.token(0);
  timing.step_ended(zero + milliseconds(10));
  timing.token(0);
  timing.token(1);  // the last first token: the clock starts when its step ends, and this step's tokens don't count
  timing.token(0);
  timing.step_ended(zero + milliseconds(20));
  EXPECT_EQ(timing.tokens(), 0);
  EXPECT_EQ(timing.tokens_per_second(), 0.0);
  timing.token(0);
  timing.token(1);
  timing.step_ended(zero + milliseconds(30));
  timing.step_ended(zero + milliseconds(35));  // a step that delivers nothing
  timing.token(1);
  timing.step_ended(zero + milliseconds(40));
  timing.step_ended(zero + milliseconds(90));  // nothing came any more
  EXPECT_EQ(timing.tokens(), 3);
  EXPECT_EQ(timing.steps(), 2);
  EXPECT_DOUBLE_EQ(timing.seconds(), 0.020);
  EXPECT_DOUBLE_EQ(timing.tokens_per_second(), 150.0);
}

TEST(DecodeTiming, NeverStartsWithoutASequence) {
  DecodeTiming timing(2);
  for (int i = 0; i < 5; ++i) {
    timing.token(0);
    timing.step_ended(DecodeTiming::Time{} + milliseconds(i));
  }
  EXPECT_EQ(timing.tokens(), 0);
}

}  // namespace
}  // namespace pare
