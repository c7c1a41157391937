#include "runtime/step_clock.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"

namespace pare {
namespace {

double us_between(int64_t from_ns, int64_t to_ns) { return static_cast<double>(to_ns - from_ns) * 1e-3; }

}  // namespace

bool is_decode_gap(const StepStamp& a, const StepStamp& b) {
#ifdef PARE_FAULT_RUNTIME_GAP_OVER_PROMPT
  return b.step == a.step + 1 && !a.followed;
#else
  return b.step == a.step + 1 && a.decode && b.decode && !a.followed;
#endif
}

void StepClock::add(const StepStamp& stamp) {
  if (stamp.decode) {
    ++steps_;
    step_us_ += us_between(stamp.begin_ns, stamp.end_ns);
  }
  if (has_last_ && is_decode_gap(last_, stamp)) {
    const double gap = us_between(last_.end_ns, stamp.begin_ns);
    gap_us_max_ = gaps_ == 0 ? gap : std::max(gap_us_max_, gap);
    gap_us_ += gap;
    ++gaps_;
  }
  last_ = stamp;
  has_last_ = true;
  if (ring_.size() < kStepStampsKept) {
    ring_.reserve(kStepStampsKept);
    ring_.push_back(stamp);
    return;
  }
  ring_[oldest_] = stamp;
  oldest_ = (oldest_ + 1) % kStepStampsKept;
}

std::vector<StepStamp> StepClock::take() {
  std::vector<StepStamp> stamps(ring_.begin() + static_cast<std::ptrdiff_t>(oldest_), ring_.end());
  stamps.insert(stamps.end(), ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(oldest_));
  ring_.clear();
  oldest_ = 0;
  return stamps;
}

void StepClock::count(EngineStats* stats) const {
  stats->device_steps = steps_;
  stats->device_gaps = gaps_;
  stats->device_step_us = step_us_;
  stats->device_gap_us = gap_us_;
  stats->device_gap_us_max = gap_us_max_;
}

void append_times(std::span<const StepStamp> stamps, StepTimes* times) {
  for (size_t i = 0; i < stamps.size(); ++i) {
    if (stamps[i].decode) times->step_us.push_back(us_between(stamps[i].begin_ns, stamps[i].end_ns));
    if (i > 0 && is_decode_gap(stamps[i - 1], stamps[i])) {
      times->gap_us.push_back(us_between(stamps[i - 1].end_ns, stamps[i].begin_ns));
    }
  }
}

TimeSpread spread_of(std::vector<double> sample) {
  if (sample.empty()) return {};
  std::sort(sample.begin(), sample.end());
  const size_t n = sample.size(), half = n / 2;
  TimeSpread spread;
  spread.median = n % 2 == 1 ? sample[half] : (sample[half - 1] + sample[half]) / 2.0;
#ifdef PARE_FAULT_RUNTIME_GAP_QUANTILE
  spread.p90 = sample[n * 9 / 10 - (n >= 10)];
#else
  spread.p90 = sample[ceil_div<size_t>(9 * n, 10) - 1];
#endif
  spread.max = sample.back();
  spread.n = n;
  return spread;
}

}  // namespace pare
