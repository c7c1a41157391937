#include "eval/figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "eval/plot/plot.h"

namespace pare {
namespace {

constexpr std::array<std::string_view, 6> kNames = {"heat", "score", "nll", "kl-pairs", "kl-bytes", "ttft"};

std::string task_of(const std::vector<EvalRow>& rows) {
  return rows.empty() || rows[0].records.empty() ? std::string("nothing") : rows[0].records[0].key.task;
}

Expected<std::string> draw_heat(const std::vector<EvalRow>& rows) {
  std::vector<plot::HeatMap> maps;
  for (const EvalRow& row : rows) {
    std::map<std::pair<int32_t, int32_t>, std::pair<double, int64_t>> cells;
    std::set<int32_t> lengths, depths;
    for (const CaseRecord& r : row.records) {
      auto& [sum, n] = cells[{r.key.depth, r.key.length}];
      sum += r.score;
      ++n;
      lengths.insert(r.key.length);
      depths.insert(r.key.depth);
    }
    plot::HeatMap map;
    map.title = fmt::format("{}: {}", task_of(rows), row.name);
    map.x_label = "prompt tokens";
    map.y_label = "depth";
    map.value_label = "score";
    for (const int32_t length : lengths) map.columns.push_back(std::to_string(length));
    for (const int32_t depth : depths) {
      map.rows.push_back(fmt::format("{} %", depth));
      for (const int32_t length : lengths) {
        const auto cell = cells.find({depth, length});
        map.values.push_back(cell == cells.end() ? plot::kNoData
                                                 : cell->second.first / static_cast<double>(cell->second.second));
      }
    }
    maps.push_back(std::move(map));
  }
  return plot::to_svg(std::span<const plot::HeatMap>(maps));
}

plot::Point point_of(double x, const Interval& y) {
  plot::Point p{x, y.value};
  if (!std::isnan(y.low) && !std::isnan(y.high)) {
    p.low = y.low;
    p.high = y.high;
  }
  return p;
}

// One point a length: the mean of `value` over its cases.
plot::Series by_length(const EvalRow& row, const std::function<double(const CaseRecord&)>& value,
                       const BootstrapOptions& options) {
  std::map<int32_t, std::vector<size_t>> groups;
  for (size_t i = 0; i < row.records.size(); ++i) groups[row.records[i].key.length].push_back(i);
  plot::Series series{row.name, {}};
  for (const auto& [length, which] : groups) {
    series.points.push_back(point_of(length, mean_over_cases(row.records, which, value, options)));
  }
  return series;
}

Expected<std::string> draw_score(const std::vector<EvalRow>& rows, const BootstrapOptions& options) {
  plot::LinePlot p;
  p.title = fmt::format("{}: score by length", task_of(rows));
  p.x = {.label = "prompt tokens", .log = true};
  p.y = {.label = "score", .min = -0.02, .max = 1.02};
  for (const EvalRow& row : rows) {
    p.series.push_back(by_length(
        row, [](const CaseRecord& r) { return r.score; }, options));
    for (plot::Point& point : p.series.back().points) point.x = std::max(point.x, 1.0);
  }
  return plot::to_svg(p);
}

Expected<std::string> draw_ttft(const std::vector<EvalRow>& rows, const BootstrapOptions& options) {
  plot::LinePlot p;
  p.title = fmt::format("{}: time to the first token", task_of(rows));
  p.x = {.label = "prompt tokens", .log = true};
  p.y = {.label = "ms", .log = true};
  for (const EvalRow& row : rows) {
    plot::Series s = by_length(
        row, [](const CaseRecord& r) { return r.cost.ttft_ms; }, options);
    s.slope = true;
    for (plot::Point& point : s.points) point.x = std::max(point.x, 1.0);
    p.series.push_back(std::move(s));
  }
  return plot::to_svg(p);
}

Expected<std::string> draw_nll(const std::vector<EvalRow>& rows, const std::vector<EvalSummary>& summaries) {
  std::vector<plot::LinePlot> panels(2);
  panels[0].title = fmt::format("{}: told in decode steps", task_of(rows));
  panels[1].title = fmt::format("{}: in the prompt", task_of(rows));
  for (plot::LinePlot& p : panels) {
    p.x = {.label = "distance of the copies, tokens", .log = true};
    p.y = {.label = "negative log-likelihood, nats", .min = 0.0};
  }
  for (const EvalSummary& s : summaries) {
    std::map<int32_t, std::array<plot::Series, 2>> by_prompt;
    for (const CopyBucket& b : s.copies) {
      auto& [decode, prompt] = by_prompt[b.length];
      decode.points.push_back(point_of(b.distance, b.decode_nll));
      prompt.points.push_back(point_of(b.distance, b.prompt_nll));
    }
    for (auto& [length, both] : by_prompt) {
      for (size_t i = 0; i < 2; ++i) {
        both[i].name = by_prompt.size() > 1 ? fmt::format("{} @{}", s.name, length) : s.name;
        panels[i].series.push_back(std::move(both[i]));
      }
    }
  }
  return plot::to_svg(std::span<const plot::LinePlot>(panels));
}

Expected<std::string> draw_kl(const std::vector<EvalRow>& rows, const std::vector<EvalSummary>& summaries, bool bytes) {
  plot::LinePlot p;
  p.title = fmt::format("{}: KL from the reference", task_of(rows));
  p.x = {.label = bytes ? "keys and values held in the answer, MiB" : "query-key pairs of the prompt kept, percent",
         .log = true};
  p.y = {.label = "mean KL, nats", .log = true};
  for (const EvalSummary& s : summaries) {
    const double x = bytes ? static_cast<double>(s.kv_bytes_held) / (1 << 20) : s.prompt_pairs;
    // Zero is equal to the reference, and has no place on a logarithmic axis.
    if (!(x > 0) || !(s.kl_mean.value > 0)) continue;
    plot::Point point = point_of(x, s.kl_mean);
    if (!(point.low > 0)) point.low = point.high = plot::kNoData;
    p.series.push_back({s.name, {point}, false});
  }
  return plot::to_svg(p);
}

}  // namespace

std::span<const std::string_view> figure_names() { return kNames; }

Expected<FigureKind> find_figure(std::string_view name) {
  const auto it = std::find(kNames.begin(), kNames.end(), name);
  if (it != kNames.end()) return static_cast<FigureKind>(it - kNames.begin());
  return not_found(fmt::format("no figure '{}'; there are {}", name, fmt::join(kNames, ", ")));
}

FigureKind default_figure(std::string_view task) {
  if (task == "copy") return FigureKind::kNll;
  const TaskFamily* family = find_family(task);
  return family && family->uses_depth ? FigureKind::kHeat : FigureKind::kScore;
}

Expected<std::string> draw_figure(FigureKind kind, const std::vector<EvalRow>& rows,
                                  const std::vector<EvalSummary>& summaries, const BootstrapOptions& options) {
  switch (kind) {
    case FigureKind::kHeat: return draw_heat(rows);
    case FigureKind::kScore: return draw_score(rows, options);
    case FigureKind::kNll: return draw_nll(rows, summaries);
    case FigureKind::kKlPairs: return draw_kl(rows, summaries, false);
    case FigureKind::kKlBytes: return draw_kl(rows, summaries, true);
    case FigureKind::kTtft: return draw_ttft(rows, options);
  }
  return internal_error("no such figure");
}

}  // namespace pare
