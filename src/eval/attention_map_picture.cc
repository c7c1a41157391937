// attention_map as text and as SVG.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/attention_map.h"

namespace pare {
namespace {

// 0: all of a row's mass; one step each factor of two below, to 9 for a five-hundredth and less.
int mass_step(float mass) {
  if (mass <= 0.0f) return 9;
  return std::clamp(static_cast<int>(std::floor(-std::log2(mass))), 0, 9);
}

// Of what a row would see, the part that is kept: nothing, some, all.
enum class Kept { kNothing, kSome, kAll };
Kept kept(float share) { return share <= 0.0f ? Kept::kNothing : share >= 1.0f ? Kept::kAll : Kept::kSome; }

std::string summary(const AttentionMap& m) {
  return fmt::format(
      "{}\nlayer {}, head {}, {} tokens, cells of {}: {} of {} pairs kept ({:.1f} %), softmax mass captured {:.4f} "
      "(least row {:.4f}, last rows {:.4f})",
      m.attn, m.layer, m.head, m.tokens, m.cell_tokens, m.pairs_kept, m.pairs_causal,
      100.0 * static_cast<double>(m.pairs_kept) / static_cast<double>(std::max<int64_t>(1, m.pairs_causal)),
      m.captured_mean, m.captured_min, m.captured_last);
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace

std::string attention_map_text(const AttentionMap& m) {
  std::string text = summary(m) + "\nmass of a cell: 9 a row's half or more, 8 a quarter, ... 0; left out: .\n";
  for (int32_t a = 0; a < m.cells; ++a) {
    text += fmt::format("{:>7} ", a * m.cell_tokens);
    for (int32_t b = 0; b <= a; ++b) {
      const size_t at = static_cast<size_t>(a) * m.cells + b;
      text += kept(m.kept[at]) == Kept::kNothing ? '.' : static_cast<char>('9' - mass_step(m.mass[at]));
    }
    text += fmt::format("{:{}} {:.3f}\n", "", m.cells - a - 1, m.captured[a]);
  }
  return text;
}

std::string attention_map_svg(const AttentionMap& m) {
  constexpr int kCell = 10, kMargin = 50, kTop = 60;
  const int side = m.cells * kCell;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      std::max(side + 2 * kMargin, 520), side + kTop + 70);
  const std::string text = summary(m);
  const size_t line = text.find('\n');
  svg += fmt::format("<text x=\"{}\" y=\"18\">{}</text>\n", kMargin, escaped(text.substr(0, line)));
  svg += fmt::format("<text x=\"{}\" y=\"34\">{}</text>\n", kMargin, escaped(text.substr(line + 1)));
  for (int32_t a = 0; a < m.cells; ++a) {
    for (int32_t b = 0; b <= a; ++b) {
      const size_t at = static_cast<size_t>(a) * m.cells + b;
      const int level = 245 - 22 * (9 - mass_step(m.mass[at]));
      const int x = kMargin + b * kCell, y = kTop + a * kCell;
      const bool none = kept(m.kept[at]) == Kept::kNothing;
      svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"rgb({},{},{})\"/>\n", x, y, kCell,
                         kCell, none ? 255 : level, none ? level : std::min(255, level + 10), none ? level : 255);
      if (kept(m.kept[at]) == Kept::kAll) continue;
      svg += fmt::format("<path d=\"M{} {}l{} {}\" stroke=\"{}\" stroke-width=\"0.7\"/>\n", x, y + kCell, kCell, -kCell,
                         none ? "#c00" : "#88a");
    }
  }
  svg += fmt::format(
      "<text x=\"{}\" y=\"{}\">keys, {} tokens a cell; dark: much softmax mass; red: left out; "
      "struck through: left out in part</text>\n",
      kMargin, kTop + side + 20, m.cell_tokens);
  return svg + "</svg>\n";
}

}  // namespace pare
