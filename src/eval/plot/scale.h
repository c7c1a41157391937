// From values to pixels: one axis of a figure, with the places of its ticks.
#pragma once

#include <string>
#include <vector>

#include "eval/plot/plot.h"

namespace pare::plot {

struct Tick {
  double value;
  std::string label;
};

class Scale {
 public:
  // `values` are finite and, with axis.log, positive; at least one, or both ends of the axis are given. `from_zero`:
  // a linear axis that the data leaves open begins at zero (bars). Errors name `what`.
  static Expected<Scale> make(std::string_view what, const Axis& axis, std::span<const double> values, bool from_zero);

  // Position between 0 and `pixels`; values beyond the ends come to lie beyond.
  double at(double value, double pixels) const;
  // At least two, ascending, within the ends.
  std::vector<Tick> ticks() const;
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  double low_ = 0, high_ = 1;
  bool log_ = false;
};

// "0.25", "2048", "131k", "1e-06": short, the same on every machine.
std::string short_number(double value);

}  // namespace pare::plot
