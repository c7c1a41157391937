#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/plot/frame.h"

namespace pare::plot {
namespace {

Expected<std::vector<double>> collect(const BarChart& chart) {
  PARE_RETURN_IF_ERROR(check_text("the title", chart.title));
  PARE_RETURN_IF_ERROR(check_text("the label of x", chart.x_label));
  PARE_RETURN_IF_ERROR(check_text("the label of y", chart.y.label));
  for (const std::string& name : chart.categories) PARE_RETURN_IF_ERROR(check_text("the name of a category", name));
  if (chart.y.log) return invalid_argument(fmt::format("'{}': bars need a linear axis", chart.title));
  if (chart.categories.empty() || chart.series.empty()) {
    return invalid_argument(fmt::format("'{}' has no bar", chart.title));
  }
  if (chart.series.size() > static_cast<size_t>(kMaxPlotItems) / chart.categories.size()) {
    return invalid_argument(fmt::format("'{}' has more than {} bars", chart.title, kMaxPlotItems));
  }
  std::vector<double> all;
  for (const BarSeries& s : chart.series) {
    PARE_RETURN_IF_ERROR(check_text("the name of a series", s.name));
    if (s.values.size() != chart.categories.size()) {
      return invalid_argument(
          fmt::format("series '{}' has {} values for {} categories", s.name, s.values.size(), chart.categories.size()));
    }
    for (const double v : s.values) {
      if (std::isinf(v)) return invalid_argument(fmt::format("series '{}' has an infinite value", s.name));
      if (!std::isnan(v)) all.push_back(v);
    }
  }
  if (all.empty()) return invalid_argument(fmt::format("'{}': no bar has a value", chart.title));
  return all;
}

}  // namespace

Expected<std::string> to_svg(const BarChart& chart) {
  PARE_ASSIGN_OR_RETURN(const std::vector<double> all, collect(chart));
  PARE_ASSIGN_OR_RETURN(const Scale y, Scale::make("y", chart.y, all, true));
  Canvas canvas;
  draw_title(&canvas, chart.title);
  draw_y_axis(&canvas, y, chart.y.label);
  const double bottom = Frame::kTop + Frame::kHeight;
  const auto py = [&](double v) { return bottom - std::clamp(y.at(v, Frame::kHeight), 0.0, double{Frame::kHeight}); };
  const double slot = Frame::kWidth / static_cast<double>(chart.categories.size());
  const double bar = slot * 0.84 / static_cast<double>(chart.series.size());
  std::vector<std::string> names;
  for (size_t s = 0; s < chart.series.size(); ++s) {
    names.push_back(chart.series[s].name);
    for (size_t c = 0; c < chart.categories.size(); ++c) {
      const double v = chart.series[s].values[c];
      if (std::isnan(v)) continue;
      const double top = std::min(py(v), py(0.0)), height = std::abs(py(v) - py(0.0));
      const double x = Frame::kLeft + slot * (static_cast<double>(c) + 0.08) + bar * static_cast<double>(s);
      canvas.rect(x, top, std::max(0.5, bar - 0.5), height, series_color(s));
    }
  }
  const auto stride = static_cast<size_t>(std::ceil(34.0 / slot));
  for (size_t c = 0; c < chart.categories.size(); c += stride) {
    canvas.text(Frame::kLeft + slot * (static_cast<double>(c) + 0.5), bottom + 18, shortened(chart.categories[c], 12),
                Anchor::kMiddle, 11);
  }
  draw_x_label(&canvas, chart.x_label);
  draw_legend(&canvas, names);
  return canvas.document(Frame::kFigureWidth, Frame::kFigureHeight);
}

}  // namespace pare::plot
