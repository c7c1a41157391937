#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/plot/frame.h"

namespace pare::plot {
namespace {

bool has_interval(const Point& p) { return !std::isnan(p.low) && !std::isnan(p.high); }

Status check_axis(std::string_view what, const Axis& axis) { return check_text(what, axis.label); }

Status check_value(const Series& s, size_t i, std::string_view what, double v, bool log) {
  if (std::isfinite(v) && (!log || v > 0)) return ok_status();
  return invalid_argument(fmt::format("series '{}', point {}: {} is {}{}", s.name, i, what, v,
                                      log ? ", which a logarithmic axis cannot show" : ""));
}

struct Values {
  std::vector<double> x, y;
};

Expected<Values> collect(const LinePlot& plot) {
  PARE_RETURN_IF_ERROR(check_text("the title", plot.title));
  PARE_RETURN_IF_ERROR(check_axis("the label of x", plot.x));
  PARE_RETURN_IF_ERROR(check_axis("the label of y", plot.y));
  Values all;
  for (const Series& s : plot.series) {
    PARE_RETURN_IF_ERROR(check_text("the name of a series", s.name));
    for (size_t i = 0; i < s.points.size(); ++i) {
      const Point& p = s.points[i];
      PARE_RETURN_IF_ERROR(check_value(s, i, "x", p.x, plot.x.log));
      if (std::isnan(p.y)) continue;
      PARE_RETURN_IF_ERROR(check_value(s, i, "y", p.y, plot.y.log));
      all.x.push_back(p.x);
      all.y.push_back(p.y);
      if (!has_interval(p)) continue;
      PARE_RETURN_IF_ERROR(check_value(s, i, "the interval's low end", p.low, plot.y.log));
      PARE_RETURN_IF_ERROR(check_value(s, i, "the interval's high end", p.high, plot.y.log));
      if (p.low > p.high) return invalid_argument(fmt::format("series '{}', point {}: interval reversed", s.name, i));
      all.y.push_back(p.low);
      all.y.push_back(p.high);
    }
    if (static_cast<int64_t>(all.x.size()) > kMaxPlotItems) {
      return invalid_argument(fmt::format("'{}' has more than {} points", plot.title, kMaxPlotItems));
    }
  }
  if (all.x.empty()) return invalid_argument(fmt::format("'{}': no point to draw", plot.title));
  return all;
}

void draw_series(Canvas* canvas, const LinePlot& plot, const Series& s, std::string_view color, const Scale& x,
                 const Scale& y) {
  const double bottom = Frame::kTop + Frame::kHeight;
  const auto px = [&](double v) { return Frame::kLeft + x.at(v, Frame::kWidth); };
  const auto py = [&](double v) {
    return bottom - std::clamp(y.at(v, Frame::kHeight), 0.0, static_cast<double>(Frame::kHeight));
  };
  const auto outside = [&](const Point& p) {
    return p.x < x.low() || p.x > x.high() || (plot.y.min && p.y < *plot.y.min) || (plot.y.max && p.y > *plot.y.max);
  };
  for (const Point& p : s.points) {
    if (std::isnan(p.y) || outside(p)) {
      canvas->end_path(color);
      continue;
    }
    if (s.line) canvas->path_to(px(p.x), py(p.y));
  }
  canvas->end_path(color);
  for (const Point& p : s.points) {
    if (std::isnan(p.y) || outside(p)) continue;
    if (has_interval(p)) {
      canvas->line(px(p.x), py(p.low), px(p.x), py(p.high), color, 1.2);
      for (const double end : {p.low, p.high}) canvas->line(px(p.x) - 4, py(end), px(p.x) + 4, py(end), color, 1.2);
    }
    canvas->circle(px(p.x), py(p.y), 3, color);
  }
}

Status draw(Canvas* canvas, const LinePlot& plot) {
  PARE_ASSIGN_OR_RETURN(const Values all, collect(plot));
  PARE_ASSIGN_OR_RETURN(const Scale x, Scale::make("x", plot.x, all.x, false));
  PARE_ASSIGN_OR_RETURN(const Scale y, Scale::make("y", plot.y, all.y, false));
  draw_title(canvas, plot.title);
  draw_x_axis(canvas, x, plot.x.label);
  draw_y_axis(canvas, y, plot.y.label);
  std::vector<std::string> names;
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const Series& s = plot.series[i];
    draw_series(canvas, plot, s, series_color(i), x, y);
    const double slope = s.slope && plot.x.log && plot.y.log ? log_log_slope(s.points) : kNoData;
    names.push_back(std::isnan(slope) ? s.name : fmt::format("{} (slope {:.2f})", shortened(s.name, 17), slope));
  }
  draw_legend(canvas, names);
  return ok_status();
}

}  // namespace

double log_log_slope(std::span<const Point> points) {
  double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (const Point& p : points) {
    if (!(p.x > 0) || !(p.y > 0)) continue;
    const double x = std::log(p.x), y = std::log(p.y);
    n += 1;
    sx += x;
    sy += y;
    sxx += x * x;
    sxy += x * y;
  }
  const double spread = n * sxx - sx * sx;
  return n < 2 || spread <= 1e-12 * n * sxx ? kNoData : (n * sxy - sx * sy) / spread;
}

Expected<std::string> to_svg(const LinePlot& plot) { return to_svg(std::span(&plot, 1)); }

Expected<std::string> to_svg(std::span<const LinePlot> plots) {
  if (plots.empty()) return invalid_argument("no plot to draw");
  Canvas canvas;
  double top = 0;
  for (const LinePlot& plot : plots) {
    canvas.begin_group(0, top);
    PARE_RETURN_IF_ERROR(draw(&canvas, plot));
    canvas.end_group();
    top += Frame::kFigureHeight;
  }
  return canvas.document(Frame::kFigureWidth, top);
}

}  // namespace pare::plot
