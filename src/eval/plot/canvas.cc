#include "eval/plot/canvas.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "text/utf8.h"

namespace pare::plot {

std::string escape_xml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
#ifndef PARE_FAULT_EVAL_SVG_UNESCAPED
      case '<': out += "&lt;"; break;
#endif
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

Status check_text(std::string_view what, std::string_view text) {
  if (!utf8_valid(text)) return invalid_argument(fmt::format("{} is not UTF-8", what));
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      return invalid_argument(fmt::format("{} holds the control character {:#04x}", what, byte));
    }
  }
  // U+FFFE and U+FFFF are valid UTF-8 and no XML characters.
  for (const std::string_view bad : {"\xEF\xBF\xBE", "\xEF\xBF\xBF"}) {
    if (text.find(bad) != std::string_view::npos) {
      return invalid_argument(fmt::format("{} holds a character that XML does not allow", what));
    }
  }
  return ok_status();
}

void Canvas::line(double x1, double y1, double x2, double y2, std::string_view color, double width) {
  body_ += fmt::format(
      "<line x1=\"{:.2f}\" y1=\"{:.2f}\" x2=\"{:.2f}\" y2=\"{:.2f}\" stroke=\"{}\" stroke-width=\"{:.2f}\"/>\n", x1, y1,
      x2, y2, color, width);
}

void Canvas::rect(double x, double y, double w, double h, std::string_view fill) {
  body_ += fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\"/>\n", x, y, w, h,
                       fill);
}

void Canvas::circle(double x, double y, double radius, std::string_view fill) {
  body_ += fmt::format("<circle cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"{:.2f}\" fill=\"{}\"/>\n", x, y, radius, fill);
}

void Canvas::text(double x, double y, std::string_view text, Anchor anchor, int size, std::string_view color) {
  constexpr std::array<std::string_view, 3> kAnchors = {"start", "middle", "end"};
  body_ += fmt::format("<text x=\"{:.2f}\" y=\"{:.2f}\" text-anchor=\"{}\" font-size=\"{}\" fill=\"{}\">{}</text>\n", x,
                       y, kAnchors[static_cast<size_t>(anchor)], size, color, escape_xml(text));
}

void Canvas::vertical_text(double x, double y, std::string_view text) {
  body_ += fmt::format(
      "<text transform=\"translate({:.2f} {:.2f}) rotate(-90)\" text-anchor=\"middle\" font-size=\"12\" "
      "fill=\"#222\">{}</text>\n",
      x, y, escape_xml(text));
}

void Canvas::path_to(double x, double y) { path_ += fmt::format("{}{:.2f},{:.2f}", path_.empty() ? "" : " ", x, y); }

void Canvas::end_path(std::string_view color) {
  if (!path_.empty()) {
    body_ += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.80\"/>\n", path_, color);
  }
  path_.clear();
}

void Canvas::begin_group(double dx, double dy) {
  body_ += fmt::format("<g transform=\"translate({:.2f} {:.2f})\">\n", dx, dy);
}

void Canvas::end_group() { body_ += "</g>\n"; }

std::string Canvas::document(double width, double height) const {
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{2}</svg>\n",
      width, height, body_);
}

std::string_view series_color(size_t index) {
  constexpr std::array<std::string_view, 8> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                       "#e69f00", "#56b4e9", "#555555", "#b8a800"};
  return kColors[index % kColors.size()];
}

std::string shade(double t) {
  // Lightness falls in even steps, so that a print in grey reads the same.
  constexpr std::array<double, 3> kLight = {247, 251, 255}, kMiddle = {107, 174, 214}, kDark = {8, 48, 107};
  t = std::clamp(t, 0.0, 1.0);
  const auto& from = t < 0.5 ? kLight : kMiddle;
  const auto& to = t < 0.5 ? kMiddle : kDark;
  const double part = t < 0.5 ? 2 * t : 2 * t - 1;
  std::array<int, 3> rgb{};
  for (size_t i = 0; i < 3; ++i) rgb[i] = static_cast<int>(std::lround(from[i] + part * (to[i] - from[i])));
  return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

}  // namespace pare::plot
