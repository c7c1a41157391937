#include "eval/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/rng.h"

namespace pare {
namespace {
constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
}  // namespace

double quantile(std::span<const double> values, double q) {
  if (values.empty()) return kUndefined;
  std::vector<double> sorted(values.begin(), values.end());
  const double at = std::clamp(q, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(below);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const double low = *middle;
  if (below + 1 == sorted.size()) return low;
  const double high = *std::min_element(middle + 1, sorted.end());
  return low + (at - static_cast<double>(below)) * (high - low);
}

Interval bootstrap(int32_t cases, const CaseStatistic& statistic, const BootstrapOptions& options) {
  std::vector<int32_t> drawn(static_cast<size_t>(std::max(0, cases)));
  std::iota(drawn.begin(), drawn.end(), 0);
  Interval interval{kUndefined, kUndefined, kUndefined};
  if (cases < 1) return interval;
  interval.value = statistic(drawn);
  if (cases < 2) return interval;
  std::vector<double> values;
  values.reserve(static_cast<size_t>(std::max(0, options.rounds)));
  for (int32_t round = 0; round < options.rounds; ++round) {
    Philox rng(options.seed, static_cast<uint64_t>(round));
#ifdef PARE_FAULT_EVAL_BOOTSTRAP_WITHOUT_REPLACEMENT
    for (int32_t i = 0; i < cases; ++i) drawn[static_cast<size_t>(i)] = i;
#else
    for (int32_t& index : drawn) index = static_cast<int32_t>(rng.below(static_cast<uint32_t>(cases)));
#endif
    const double value = statistic(drawn);
    if (!std::isnan(value)) values.push_back(value);
  }
  const double tail = (1.0 - options.confidence) / 2.0;
  interval.low = quantile(values, tail);
  interval.high = quantile(values, 1.0 - tail);
  return interval;
}

Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options) {
  return bootstrap(
      static_cast<int32_t>(values.size()),
      [&](std::span<const int32_t> cases) {
        double sum = 0;
        for (const int32_t i : cases) sum += values[static_cast<size_t>(i)];
        return sum / static_cast<double>(cases.size());
      },
      options);
}

}  // namespace pare
