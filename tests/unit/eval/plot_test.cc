// Figures: well-formed documents, escaped texts, marks where the values are, errors instead of broken pictures.
#include "eval/plot/plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>
#include <string>
#include <vector>

#include "eval/plot/canvas.h"
#include "eval/plot/scale.h"

namespace pare::plot {
namespace {

// Why `xml` is not well-formed, as far as these documents go: tags nest, attributes are quoted, entities are known.
std::string fault_of(const std::string& xml) {
  std::vector<std::string> open;
  size_t at = xml.starts_with("<?xml") ? xml.find("?>") + 2 : 0;
  const std::regex tag(R"(^<(/?)([a-z]+)((?:\s+[a-zA-Z0-9:-]+="[^"<]*")*)\s*(/?)>)");
  const std::regex entity(R"(^&(amp|lt|gt|quot|#39);)");
  while (at < xml.size()) {
    if (xml[at] == '<') {
      std::smatch m;
      const std::string rest = xml.substr(at, xml.find('>', at) + 1 - at);
      if (!std::regex_search(rest, m, tag)) return "tag at " + std::to_string(at) + ": " + rest;
      if (m[1].length() > 0) {
        if (open.empty() || open.back() != m[2]) return "unexpected end of " + m[2].str();
        open.pop_back();
      } else if (m[4].length() == 0) {
        open.push_back(m[2]);
      }
      at += static_cast<size_t>(m.length());
    } else if (xml[at] == '&') {
      const std::string rest = xml.substr(at, 8);
      if (!std::regex_search(rest, entity)) return "entity " + rest;
      ++at;
    } else {
      ++at;
    }
  }
  return open.empty() ? "" : "open: " + open.back();
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

LinePlot some_lines() {
  LinePlot p;
  p.title = "KL <against> \"bytes\" & 'time'";
  p.x = {.label = "bytes", .log = true};
  p.y = {.label = "KL", .log = true};
  p.series = {{"a<b>&c", {{1, 0.5, 0.4, 0.6}, {10, 0.05}, {100, 0.005, 0.001, 0.01}}, true, true},
              {"marks", {{2, 1.0}, {20, 2.0}}, false}};
  return p;
}

HeatMap some_map() {
  HeatMap m;
  m.title = "needle";
  m.columns = {"1024", "2048", "4096"};
  m.rows = {"0 %", "100 %"};
  m.values = {1, 0.5, kNoData, 0, 0.25, 2};
  return m;
}

BarChart some_bars() {
  return {"kept <channels>",
          "frequency",
          {.label = "share"},
          {"0", "1", "2"},
          {{"K", {0.5, kNoData, -0.1}}, {"V", {1, 1, 1}}}};
}

TEST(Plot, DocumentsAreWellFormed) {
  for (const auto& svg : {to_svg(some_lines()), to_svg(some_map()), to_svg(some_bars())}) {
    ASSERT_TRUE(svg.ok()) << svg.status().to_string();
    EXPECT_EQ(fault_of(*svg), "");
  }
  EXPECT_NE(fault_of("<a><b></a>"), "") << "the check itself can fail";
  EXPECT_NE(fault_of("<a>&nbsp;</a>"), "");
  EXPECT_NE(fault_of("<a>x < y</a>"), "");
}

TEST(Plot, TextsAreEscaped) {
  EXPECT_EQ(escape_xml("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  LinePlot hostile = some_lines();
  hostile.title = hostile.x.label = hostile.series[0].name = "</text><script>alert(1)</script>";
  const auto svg = to_svg(hostile);
  ASSERT_TRUE(svg.ok());
  EXPECT_EQ(fault_of(*svg), "");
  EXPECT_EQ(svg->find("<script"), std::string::npos);
  HeatMap map = some_map();
  map.rows[0] = "</g>";
  map.columns[1] = "]]>&<";
  EXPECT_EQ(fault_of(*to_svg(map)), "");
  for (const std::string& bad : {std::string("a\nb"), std::string("a\0b", 3), std::string("\xFF"), std::string("\x7F"),
                                 std::string("\xEF\xBF\xBF")}) {
    LinePlot p = some_lines();
    p.title = bad;
    EXPECT_EQ(to_svg(p).status().code(), StatusCode::kInvalidArgument) << bad;
    map = some_map();
    map.x_label = bad;
    EXPECT_FALSE(to_svg(map).ok());
    BarChart bars = some_bars();
    bars.series[0].name = bad;
    EXPECT_FALSE(to_svg(bars).ok());
  }
  // Cut names stay whole code points.
  LinePlot p = some_lines();
  p.series[0].name = std::string();
  for (int i = 0; i < 60; ++i) p.series[0].name += "\xC3\xA9";
  EXPECT_EQ(fault_of(*to_svg(p)), "");
}

TEST(Plot, MarksStandWhereTheValuesAre) {
  const std::string svg = *to_svg(some_lines());
  EXPECT_EQ(count(svg, "<circle"), 5u);
  EXPECT_EQ(count(svg, "<polyline"), 1u) << "the second series has no line";
  EXPECT_NE(svg.find("slope -1.00"), std::string::npos);
  // A value that is missing cuts the line in two.
  LinePlot gap;
  gap.series = {{"s", {{0, 0}, {1, 1}, {2, kNoData}, {3, 3}, {4, 4}}}};
  EXPECT_EQ(count(*to_svg(gap), "<polyline"), 2u);
  EXPECT_EQ(count(*to_svg(gap), "<circle"), 4u);
  const std::string map = *to_svg(some_map());
  EXPECT_EQ(count(map, "fill=\"#dddddd\""), 1u) << "one cell has no data";
  EXPECT_GE(count(map, "fill=\"" + shade(1) + "\""), 2u) << "1, and 2 beyond the end of the scale";
  EXPECT_EQ(count(*to_svg(some_bars()), "fill=\"" + std::string(series_color(0)) + "\""), 2u + 1u) << "and the legend";
  EXPECT_EQ(*to_svg(some_lines()), svg) << "the same bytes again";
  const std::vector<HeatMap> two = {some_map(), some_map()};
  EXPECT_EQ(count(*to_svg(two), "fill=\"#dddddd\""), 2u);
}

TEST(Plot, ScalesPutEndsAtTheEnds) {
  const std::vector<double> values = {1, 1000};
  const auto log = Scale::make("x", {.log = true, .min = 1.0, .max = 1000.0}, values, false);
  ASSERT_TRUE(log.ok());
  EXPECT_NEAR(log->at(1, 300), 0, 1e-9);
  EXPECT_NEAR(log->at(10, 300), 100, 1e-9);
  EXPECT_NEAR(log->at(1000, 300), 300, 1e-9);
  const auto linear = Scale::make("x", {.min = -1.0, .max = 1.0}, values, false);
  EXPECT_NEAR(linear->at(0, 300), 150, 1e-9);
  for (const double high : {1e-12, 0.3, 7.0, 1e5, 1e15}) {
    for (const bool on_log : {false, true}) {
      const std::vector<double> ends = {high / 50, high};
      const auto scale = Scale::make("x", {.log = on_log}, ends, false);
      const auto ticks = scale->ticks();
      EXPECT_GE(ticks.size(), 2u);
      EXPECT_LE(ticks.size(), 16u);
      for (size_t i = 1; i < ticks.size(); ++i) EXPECT_LT(ticks[i - 1].value, ticks[i].value);
    }
  }
  EXPECT_EQ(short_number(2048), "2048");
  EXPECT_EQ(short_number(131072), "131.1k");
  EXPECT_EQ(short_number(0), "0");
}

TEST(Plot, SaysWhatCannotBeDrawn) {
  const auto bad_lines = [](auto change) {
    LinePlot p = some_lines();
    change(&p);
    return to_svg(p).status().code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(bad_lines([](LinePlot* p) { p->series.clear(); }));
  EXPECT_TRUE(bad_lines([](LinePlot* p) { p->series[0].points[0].y = 0; })) << "zero on a logarithmic axis";
  EXPECT_TRUE(bad_lines([](LinePlot* p) { p->series[0].points[0].low = -1; }));
  EXPECT_TRUE(bad_lines([](LinePlot* p) { p->series[0].points[0].x = kNoData; }));
  EXPECT_TRUE(bad_lines([](LinePlot* p) { p->series[0].points[0].y = INFINITY; }));
  EXPECT_TRUE(bad_lines([](LinePlot* p) { std::swap(p->series[0].points[0].low, p->series[0].points[0].high); }));
  EXPECT_TRUE(bad_lines([](LinePlot* p) { p->x.min = 5, p->x.max = 5; }));
  EXPECT_TRUE(bad_lines([](LinePlot* p) { p->series[0].points.assign(kMaxPlotItems + 1, {1, 1}); }));
  const auto bad_map = [](auto change) {
    HeatMap m = some_map();
    change(&m);
    return to_svg(m).status().code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(bad_map([](HeatMap* m) { m->values.pop_back(); }));
  EXPECT_TRUE(bad_map([](HeatMap* m) { m->columns.clear(), m->values.clear(); }));
  EXPECT_TRUE(bad_map([](HeatMap* m) { m->high = m->low; }));
  EXPECT_TRUE(bad_map([](HeatMap* m) { m->values[0] = -INFINITY; }));
  const auto bad_bars = [](auto change) {
    BarChart b = some_bars();
    change(&b);
    return to_svg(b).status().code() == StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(bad_bars([](BarChart* b) { b->series[0].values.pop_back(); }));
  EXPECT_TRUE(bad_bars([](BarChart* b) { b->y.log = true; }));
  EXPECT_TRUE(bad_bars([](BarChart* b) { b->series.clear(); }));
  EXPECT_TRUE(bad_bars([](BarChart* b) { b->series[1].values[0] = INFINITY; }));
  EXPECT_FALSE(to_svg(std::span<const HeatMap>{}).ok());
}

TEST(Plot, SlopeIsTheExponent) {
  std::vector<Point> cube, flat = {{5, 1}, {5, 2}};
  for (double x = 1; x < 100; x *= 2) cube.push_back({x, 7 * x * x * x});
  EXPECT_NEAR(log_log_slope(cube), 3.0, 1e-9);
  cube.push_back({200, kNoData});
  cube.push_back({0, 4});
  EXPECT_NEAR(log_log_slope(cube), 3.0, 1e-9);
  EXPECT_TRUE(std::isnan(log_log_slope(flat)));
  EXPECT_TRUE(std::isnan(log_log_slope({})));
}

}  // namespace
}  // namespace pare::plot
