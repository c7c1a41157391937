// The axes, grid, title and legend that line plots and bar charts share.
#pragma once

#include <string>
#include <vector>

#include "eval/plot/canvas.h"
#include "eval/plot/scale.h"

namespace pare::plot {

// The area of the data inside a figure, in pixels.
struct Frame {
  static constexpr double kLeft = 76, kTop = 40, kWidth = 520, kHeight = 320, kBottom = 56, kLegend = 220;
  static constexpr double kFigureWidth = kLeft + kWidth + kLegend, kFigureHeight = kTop + kHeight + kBottom;
};

void draw_title(Canvas* canvas, std::string_view title);
// Grid lines and numbers of y, and its label.
void draw_y_axis(Canvas* canvas, const Scale& y, std::string_view label);
void draw_x_axis(Canvas* canvas, const Scale& x, std::string_view label);
void draw_x_label(Canvas* canvas, std::string_view label);
// To the right of the data; long names are cut.
void draw_legend(Canvas* canvas, const std::vector<std::string>& names);
// At most `max` code points, the last of them an ellipsis when some were cut.
std::string shortened(std::string_view text, size_t max);

}  // namespace pare::plot
