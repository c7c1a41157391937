// When steps ran on an accelerator, by its own clock: what EngineStats counts of it, the last steps one by one, and
// the figures that reports give. Host code only; one thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "pare/engine.h"

namespace pare {

// Keeps the last kStepStampsKept stamps until they are taken. Memory is taken by the first stamp, so that an engine
// without an accelerator has none of it; later ones allocate nothing.
inline constexpr size_t kStepStampsKept = 8192;

class StepClock {
 public:
  // Of a step that has ended; steps come in their order, and not all need come.
  void add(const StepStamp& stamp);
  // The kept ones, oldest first; none are kept afterwards. What is counted stays.
  std::vector<StepStamp> take();
  void count(EngineStats* stats) const;

 private:
  std::vector<StepStamp> ring_;
  size_t oldest_ = 0;
  StepStamp last_;
  bool has_last_ = false;
  uint64_t steps_ = 0, gaps_ = 0;
  double step_us_ = 0, gap_us_ = 0, gap_us_max_ = 0;
};

// Whether the time from the end of `a` to the begin of `b` is a gap between decode steps: neighbours, both of decode
// rows alone, with nothing of `a` left to run.
bool is_decode_gap(const StepStamp& a, const StepStamp& b);

// Microseconds, in the order of the steps.
struct StepTimes {
  std::vector<double> step_us;  // of decode steps
  std::vector<double> gap_us;   // between decode steps
};
// Appends those of `stamps`, whose neighbours outside the span do not count.
void append_times(std::span<const StepStamp> stamps, StepTimes* times);

// The p-quantile of a sample is its smallest value that no less than a share p of the sample does not exceed; of an
// even number of values the median is the mean of the two in the middle. All 0 for an empty sample.
struct TimeSpread {
  double median = 0, p90 = 0, max = 0;
  size_t n = 0;
};
TimeSpread spread_of(std::vector<double> sample);

}  // namespace pare
