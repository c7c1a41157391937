#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/plot/frame.h"

namespace pare::plot {
namespace {

constexpr double kCellHeight = 26, kTop = 44, kBottom = 60, kBar = 90, kLabels = 90;

double cell_width(const HeatMap& map) { return std::clamp(600.0 / static_cast<double>(map.columns.size()), 8.0, 72.0); }

double width_of(const HeatMap& map) {
  return kLabels + std::max(240.0, cell_width(map) * static_cast<double>(map.columns.size())) + kBar;
}

double height_of(const HeatMap& map) { return kTop + kCellHeight * static_cast<double>(map.rows.size()) + kBottom; }

Status check(const HeatMap& map) {
  PARE_RETURN_IF_ERROR(check_text("the title", map.title));
  for (const std::string* label : {&map.x_label, &map.y_label, &map.value_label}) {
    PARE_RETURN_IF_ERROR(check_text("a label", *label));
  }
  for (const auto* names : {&map.columns, &map.rows}) {
    for (const std::string& name : *names) PARE_RETURN_IF_ERROR(check_text("the name of a row or column", name));
  }
  if (map.columns.empty() || map.rows.empty()) return invalid_argument(fmt::format("'{}' has no cell", map.title));
  if (map.columns.size() > static_cast<size_t>(kMaxPlotItems) / map.rows.size()) {
    return invalid_argument(fmt::format("'{}' has more than {} cells", map.title, kMaxPlotItems));
  }
  if (map.values.size() != map.columns.size() * map.rows.size()) {
    return invalid_argument(fmt::format("'{}' has {} values for {} rows of {}", map.title, map.values.size(),
                                        map.rows.size(), map.columns.size()));
  }
  if (!std::isfinite(map.low) || !std::isfinite(map.high) || !(map.low < map.high)) {
    return invalid_argument(fmt::format("'{}': a colour scale from {} to {}", map.title, map.low, map.high));
  }
  for (const double v : map.values) {
    if (std::isinf(v)) return invalid_argument(fmt::format("'{}' has an infinite value", map.title));
  }
  return ok_status();
}

void draw_scale(Canvas* canvas, const HeatMap& map, double x, double height) {
  constexpr int kSteps = 20;
  for (int i = 0; i < kSteps; ++i) {
    const double step = height / kSteps;
    canvas->rect(x, kTop + height - (i + 1) * step, 14, step + 0.5, shade((i + 0.5) / kSteps));
  }
  canvas->text(x + 18, kTop + height, short_number(map.low), Anchor::kStart, 11);
  canvas->text(x + 18, kTop + 9, short_number(map.high), Anchor::kStart, 11);
  canvas->text(x, kTop + height + 18, shortened(map.value_label, 14), Anchor::kStart, 11);
}

void draw(Canvas* canvas, const HeatMap& map) {
  const double w = cell_width(map);
  canvas->text(kLabels, 24, shortened(map.title, 80), Anchor::kStart, 15);
  for (size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kTop + kCellHeight * static_cast<double>(row);
    canvas->text(kLabels - 6, y + kCellHeight / 2 + 4, shortened(map.rows[row], 10), Anchor::kEnd);
    for (size_t column = 0; column < map.columns.size(); ++column) {
      const double v = map.values[row * map.columns.size() + column];
      const double x = kLabels + w * static_cast<double>(column);
      const double t = (v - map.low) / (map.high - map.low);
      canvas->rect(x, y, w - 1, kCellHeight - 1, std::isnan(v) ? "#dddddd" : shade(t));
      if (std::isnan(v) || w < 30) continue;
      canvas->text(x + w / 2, y + kCellHeight / 2 + 4, short_number(std::round(v * 100) / 100), Anchor::kMiddle, 11,
                   t > 0.55 ? "#fff" : "#222");
    }
  }
  const double bottom = kTop + kCellHeight * static_cast<double>(map.rows.size());
  // Narrow columns: every so many are named.
  const auto stride = static_cast<size_t>(std::ceil(40.0 / w));
  for (size_t column = 0; column < map.columns.size(); column += stride) {
    canvas->text(kLabels + w * (static_cast<double>(column) + 0.5), bottom + 16, shortened(map.columns[column], 10),
                 Anchor::kMiddle);
  }
  const double span = w * static_cast<double>(map.columns.size());
  canvas->text(kLabels + span / 2, bottom + 40, shortened(map.x_label, 80), Anchor::kMiddle);
  canvas->vertical_text(16, (kTop + bottom) / 2, shortened(map.y_label, 40));
  draw_scale(canvas, map, kLabels + std::max(240.0, span) + 12, bottom - kTop);
}

}  // namespace

Expected<std::string> to_svg(const HeatMap& map) { return to_svg(std::span(&map, 1)); }

Expected<std::string> to_svg(std::span<const HeatMap> maps) {
  if (maps.empty()) return invalid_argument("no heat map to draw");
  Canvas canvas;
  double top = 0, width = 0;
  for (const HeatMap& map : maps) {
    PARE_RETURN_IF_ERROR(check(map));
    canvas.begin_group(0, top);
    draw(&canvas, map);
    canvas.end_group();
    top += height_of(map);
    width = std::max(width, width_of(map));
  }
  return canvas.document(width, top);
}

}  // namespace pare::plot
