#include "eval/plot/frame.h"

namespace pare::plot {
namespace {
constexpr std::string_view kGrid = "#e2e2e2", kInk = "#222";
}  // namespace

std::string shortened(std::string_view text, size_t max) {
  size_t points = 0, cut = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) continue;
    if (++points == max) cut = i;
  }
  return points <= max ? std::string(text) : std::string(text.substr(0, cut)) + "\xE2\x80\xA6";
}

void draw_title(Canvas* canvas, std::string_view title) {
  canvas->text(Frame::kLeft, 24, shortened(title, 96), Anchor::kStart, 15);
}

void draw_y_axis(Canvas* canvas, const Scale& y, std::string_view label) {
  const double bottom = Frame::kTop + Frame::kHeight;
  for (const Tick& t : y.ticks()) {
    const double at = bottom - y.at(t.value, Frame::kHeight);
    canvas->line(Frame::kLeft, at, Frame::kLeft + Frame::kWidth, at, kGrid);
    canvas->text(Frame::kLeft - 6, at + 4, t.label, Anchor::kEnd);
  }
  canvas->line(Frame::kLeft, Frame::kTop, Frame::kLeft, bottom, kInk);
  canvas->vertical_text(18, Frame::kTop + Frame::kHeight / 2, shortened(label, 52));
}

void draw_x_axis(Canvas* canvas, const Scale& x, std::string_view label) {
  const double bottom = Frame::kTop + Frame::kHeight;
  for (const Tick& t : x.ticks()) {
    const double at = Frame::kLeft + x.at(t.value, Frame::kWidth);
    canvas->line(at, Frame::kTop, at, bottom, kGrid);
    canvas->text(at, bottom + 18, t.label, Anchor::kMiddle);
  }
  draw_x_label(canvas, label);
}

void draw_x_label(Canvas* canvas, std::string_view label) {
  const double bottom = Frame::kTop + Frame::kHeight;
  canvas->line(Frame::kLeft, bottom, Frame::kLeft + Frame::kWidth, bottom, kInk);
  canvas->text(Frame::kLeft + Frame::kWidth / 2, bottom + 42, shortened(label, 90), Anchor::kMiddle);
}

void draw_legend(Canvas* canvas, const std::vector<std::string>& names) {
  const double x = Frame::kLeft + Frame::kWidth + 16;
  double y = Frame::kTop + 10;
  for (size_t i = 0; i < names.size(); ++i, y += 20) {
    canvas->rect(x, y - 9, 12, 12, series_color(i));
    canvas->text(x + 18, y + 1, shortened(names[i], 30), Anchor::kStart, 11);
  }
}

}  // namespace pare::plot
