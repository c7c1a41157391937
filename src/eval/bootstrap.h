// Bootstrap intervals of statistics over cases (Efron 1979, percentile method): cases are drawn with replacement, all
// of a case's values together, so that tokens of one answer and configurations of one case stay paired. Seeded: the
// same cases give the same interval.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace pare {

struct Interval {
  double value = 0;          // of the cases as they are; NaN: undefined for them
  double low = 0, high = 0;  // NaN where fewer than two cases, or no draw, define it
};

struct BootstrapOptions {
  uint64_t seed = 1;
  int32_t rounds = 2000;
  double confidence = 0.95;  // (0, 1)
};

// A statistic of the cases with these indices (some may repeat); NaN where it is undefined, which leaves a draw out.
using CaseStatistic = std::function<double(std::span<const int32_t> cases)>;
Interval bootstrap(int32_t cases, const CaseStatistic& statistic, const BootstrapOptions& options = {});

Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options = {});

// Quantile q in [0, 1] of `values` (order does not matter), linear between neighbours; NaN of none.
double quantile(std::span<const double> values, double q);

}  // namespace pare
