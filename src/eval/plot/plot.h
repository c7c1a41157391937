// Figures as plain SVG text: line plots with intervals and linear or logarithmic axes, heat maps, bar charts. Pure
// functions of their argument: the same figure gives the same bytes on every machine. No fonts, scripts or links are
// embedded; every text is escaped.
//
// Units are the caller's, told in labels. Errors (kInvalidArgument, naming figure and place): nothing to draw, sizes
// that do not match, a value that is infinite (or not positive on a logarithmic axis), more than kMaxPlotItems marks,
// text that is not UTF-8 or holds control characters. NaN is "no data": a gap in a line, an empty cell, no bar.
// Any thread. Cost: O(marks).
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pare/status.h"

namespace pare::plot {

inline constexpr int64_t kMaxPlotItems = 100'000;  // marks of one figure
inline constexpr double kNoData = std::numeric_limits<double>::quiet_NaN();

struct Axis {
  std::string label;
  bool log = false;                // decades; every value > 0
  std::optional<double> min, max;  // where the axis begins and ends; absent: where the data does, with a margin
};

struct Point {
  double x = 0, y = 0;
  double low = kNoData, high = kNoData;  // interval of y; both or neither
};

struct Series {
  std::string name;
  std::vector<Point> points;
  bool line = true;    // false: marks alone
  bool slope = false;  // with two logarithmic axes: the legend tells the least-squares exponent of y = c * x^slope
};

struct LinePlot {
  std::string title;
  Axis x, y;
  std::vector<Series> series;
};

// Cell (row, column) is values[row * columns.size() + column]; row 0 is at the top.
struct HeatMap {
  std::string title, x_label, y_label, value_label;
  std::vector<std::string> columns, rows;
  std::vector<double> values;
  double low = 0.0, high = 1.0;  // ends of the colour scale; values beyond take the colour of the end
};

struct BarSeries {
  std::string name;
  std::vector<double> values;  // one a category
};

// Bars grow from zero, series side by side.
struct BarChart {
  std::string title, x_label;
  Axis y;  // linear
  std::vector<std::string> categories;
  std::vector<BarSeries> series;
};

// One SVG document each, ending with a newline.
Expected<std::string> to_svg(const LinePlot& plot);
Expected<std::string> to_svg(const HeatMap& map);
Expected<std::string> to_svg(const BarChart& chart);
// Panels one below the other in one document: one heat map a configuration, say.
Expected<std::string> to_svg(std::span<const HeatMap> maps);
Expected<std::string> to_svg(std::span<const LinePlot> plots);

// Least-squares slope of log y over log x; points without data or not positive are left out. NaN with fewer than two
// distinct x.
double log_log_slope(std::span<const Point> points);

}  // namespace pare::plot
