#include "eval/plot/scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace pare::plot {

std::string short_number(double value) {
  const double magnitude = std::abs(value);
  if (magnitude >= 1e12 || (magnitude < 1e-4 && magnitude > 0)) return fmt::format("{:.3g}", value);
  if (magnitude >= 1e9) return fmt::format("{:.4g}G", value / 1e9);
  if (magnitude >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
  if (magnitude >= 1e4) return fmt::format("{:.4g}k", value / 1e3);
  return fmt::format("{:.4g}", value);
}

Expected<Scale> Scale::make(std::string_view what, const Axis& axis, std::span<const double> values, bool from_zero) {
  Scale s;
  s.log_ = axis.log;
  for (const auto& end : {axis.min, axis.max}) {
    if (end && (!std::isfinite(*end) || (axis.log && *end <= 0))) {
      return invalid_argument(fmt::format("{}: an axis cannot end at {}", what, *end));
    }
  }
  double low = 0, high = 1;
  if (!values.empty()) {
    low = *std::min_element(values.begin(), values.end());
    high = *std::max_element(values.begin(), values.end());
  } else if (!axis.min || !axis.max) {
    return invalid_argument(fmt::format("{}: nothing to draw", what));
  }
  if (axis.log) {
    if (low == high) {
      low /= 2;
      high *= 2;
    } else {
      const double margin = std::pow(high / low, 0.05);
      low /= margin;
      high *= margin;
    }
  } else {
    if (from_zero) {
      low = std::min(low, 0.0);
      high = std::max(high, 0.0);
    }
    const double margin = low == high ? (low == 0 ? 1.0 : std::abs(low) * 0.5) : (high - low) * 0.05;
    if (!from_zero || low < 0) low -= margin;
    if (!from_zero || high > 0 || low == high) high += margin;
  }
  s.low_ = axis.min.value_or(low);
  s.high_ = axis.max.value_or(high);
  if (!(s.low_ < s.high_) || !std::isfinite(s.high_ - s.low_) || (axis.log && !(s.low_ > 0))) {
    return invalid_argument(fmt::format("{}: an axis from {} to {}", what, s.low_, s.high_));
  }
  return s;
}

double Scale::at(double value, double pixels) const {
  if (log_) return std::log(value / low_) / std::log(high_ / low_) * pixels;
  return (value - low_) / (high_ - low_) * pixels;
}

std::vector<Tick> Scale::ticks() const {
  std::vector<Tick> out;
  const auto add = [&](double v) {
    if (v >= low_ * (1 - (log_ ? 1e-12 : 0)) && v <= high_) out.push_back({v, short_number(v)});
  };
  if (log_) {
    const int first = static_cast<int>(std::floor(std::log10(low_))),
              last = static_cast<int>(std::ceil(std::log10(high_)));
    const int stride = std::max(1, (last - first) / 8);
    const bool fine = last - first <= 3;
    for (int e = first; e <= last; e += stride) {
      for (const double m : {1.0, 2.0, 5.0}) {
        if (m == 1.0 || fine) add(m * std::pow(10.0, e));
      }
    }
  } else {
    const double raw = (high_ - low_) / 6;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    double step = power;
    for (const double m : {1.0, 2.0, 5.0, 10.0}) {
      step = m * power;
      if (step >= raw) break;
    }
    const double first = std::ceil(low_ / step - 1e-9);
    for (int i = 0; i < 16; ++i) {
      const double v = (first + i) * step;
      add(std::abs(v) < step * 1e-9 ? 0.0 : v);
    }
  }
  if (out.size() < 2) out = {{low_, short_number(low_)}, {high_, short_number(high_)}};
  return out;
}

}  // namespace pare::plot
