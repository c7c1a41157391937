// What is counted and reported of the times that a card gives its steps. Times in nanoseconds are written out by hand.
#include "runtime/step_clock.h"

#include <gtest/gtest.h>

#include <numeric>

namespace pare {
namespace {

StepStamp stamp(uint64_t step, int64_t begin_ns, int64_t end_ns, bool decode = true, bool followed = false) {
  return {step, begin_ns, end_ns, decode, followed};
}

TEST(StepClock, GapsAreBetweenNeighboursOfDecodeRowsAlone) {
  StepClock clock;
  const std::vector<StepStamp> steps = {
      stamp(0, 1'000, 51'000, false),          // a prompt: neither a step nor the side of a gap
      stamp(1, 53'000, 153'000),               // 100 us
      stamp(2, 156'500, 266'500),              // 110 us, 3.5 us after
      stamp(3, 268'000, 388'000, true, true),  // 120 us, 1.5 us after; something follows
      stamp(4, 488'000, 588'000),              // 100 us; not after a gap
      stamp(6, 600'000, 700'000),              // 100 us; a step without a draw stood between
      stamp(7, 700'000, 800'000, false),
      stamp(8, 807'000, 907'000),    // 100 us
      stamp(9, 907'032, 1'007'032),  // 100 us, 0.032 us after
  };
  for (const StepStamp& s : steps) clock.add(s);
  EngineStats stats;
  clock.count(&stats);
  EXPECT_EQ(stats.device_steps, 7u);
  EXPECT_EQ(stats.device_gaps, 3u);
  EXPECT_NEAR(stats.device_step_us, 730.0, 1e-9);
  EXPECT_NEAR(stats.device_gap_us, 5.032, 1e-9);
  EXPECT_NEAR(stats.device_gap_us_max, 3.5, 1e-9);

  const std::vector<StepStamp> taken = clock.take();
  ASSERT_EQ(taken.size(), steps.size());
  StepTimes times;
  append_times(taken, &times);
  EXPECT_EQ(times.step_us.size(), 7u);
  ASSERT_EQ(times.gap_us.size(), 3u);
  EXPECT_NEAR(times.gap_us[0], 3.5, 1e-9);
  EXPECT_NEAR(times.gap_us[1], 1.5, 1e-9);
  EXPECT_NEAR(times.gap_us[2], 0.032, 1e-9);
  // What was taken is gone; what was counted stays.
  EXPECT_TRUE(clock.take().empty());
  EngineStats again;
  clock.count(&again);
  EXPECT_EQ(again.device_steps, 7u);
}

// A clock that went back is shown, not hidden.
TEST(StepClock, NegativeGapsAreKept) {
  StepClock clock;
  clock.add(stamp(0, 0, 2'000));
  clock.add(stamp(1, 1'000, 4'000));
  EngineStats stats;
  clock.count(&stats);
  EXPECT_NEAR(stats.device_gap_us, -1.0, 1e-12);
  EXPECT_NEAR(stats.device_gap_us_max, -1.0, 1e-12);
  StepTimes times;
  append_times(clock.take(), &times);
  ASSERT_EQ(times.gap_us.size(), 1u);
  EXPECT_NEAR(times.gap_us[0], -1.0, 1e-12);
}

TEST(StepClock, KeepsTheLastStepsInTheirOrder) {
  StepClock clock;
  const uint64_t n = 2 * kStepStampsKept + 1'000;
  for (uint64_t i = 0; i < n; ++i) clock.add(stamp(i, static_cast<int64_t>(i) * 10, static_cast<int64_t>(i) * 10 + 5));
  std::vector<StepStamp> kept = clock.take();
  ASSERT_EQ(kept.size(), kStepStampsKept);
  for (size_t i = 0; i < kept.size(); ++i) ASSERT_EQ(kept[i].step, n - kStepStampsKept + i);
  EngineStats stats;
  clock.count(&stats);
  EXPECT_EQ(stats.device_steps, n);
  EXPECT_EQ(stats.device_gaps, n - 1);
  // From empty again, after a ring that had gone round.
  for (uint64_t i = n; i < n + 3; ++i) clock.add(stamp(i, 0, 0));
  kept = clock.take();
  ASSERT_EQ(kept.size(), 3u);
  EXPECT_EQ(kept[0].step, n);
  EXPECT_EQ(kept[2].step, n + 2);
}

TEST(StepClock, SpreadIsMedianNinetiethPercentAndLargest) {
  EXPECT_EQ(spread_of({}).n, 0u);
  EXPECT_EQ(spread_of({}).median, 0.0);
  const TimeSpread one = spread_of({7.0});
  EXPECT_EQ(one.median, 7.0);
  EXPECT_EQ(one.p90, 7.0);
  EXPECT_EQ(one.max, 7.0);
  std::vector<double> ten(10);
  std::iota(ten.rbegin(), ten.rend(), 1.0);  // 10, 9, ... 1
  const TimeSpread s = spread_of(ten);
  EXPECT_EQ(s.median, 5.5);
  EXPECT_EQ(s.p90, 9.0);
  EXPECT_EQ(s.max, 10.0);
  EXPECT_EQ(s.n, 10u);
  const TimeSpread eleven = spread_of({3, 1, 2, 11, 10, 4, 5, 6, 9, 8, 7});
  EXPECT_EQ(eleven.median, 6.0);
  EXPECT_EQ(eleven.p90, 10.0);  // 9 of 11 values are less than 90 percent
}

}  // namespace
}  // namespace pare
