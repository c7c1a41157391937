// An SVG document under construction. Coordinates are pixels from the top left corner. Texts are escaped here and
// nowhere else; numbers are written with two decimals, so that documents do not depend on the C library.
#pragma once

#include <string>
#include <string_view>

#include "pare/status.h"

namespace pare::plot {

enum class Anchor : uint8_t { kStart, kMiddle, kEnd };

// Ampersand, angle brackets and quotes as entities.
std::string escape_xml(std::string_view text);
// kInvalidArgument unless `text` is UTF-8 of characters that XML 1.0 allows on one line; `what` names it.
Status check_text(std::string_view what, std::string_view text);

class Canvas {
 public:
  void line(double x1, double y1, double x2, double y2, std::string_view color, double width = 1.0);
  void rect(double x, double y, double w, double h, std::string_view fill);
  void circle(double x, double y, double radius, std::string_view fill);
  void text(double x, double y, std::string_view text, Anchor anchor, int size = 12, std::string_view color = "#222");
  void vertical_text(double x, double y, std::string_view text);  // centred, read upwards
  // Points are added to one open polyline; a gap ends it.
  void path_to(double x, double y);
  void end_path(std::string_view color);
  // What follows is moved by so much, until the next call.
  void begin_group(double dx, double dy);
  void end_group();
  std::string document(double width, double height) const;

 private:
  std::string body_, path_;
};

// Distinguishable with colour-deficient sight; repeats after eight.
std::string_view series_color(size_t index);
// From light to dark blue for t in [0, 1], "#rrggbb"; clamped.
std::string shade(double t);

}  // namespace pare::plot
