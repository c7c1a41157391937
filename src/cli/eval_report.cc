#include "cli/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/console.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string number(double value, const char* format = "{:.4g}") {
  return std::isnan(value) ? "-" : fmt::format(fmt::runtime(format), value);
}

// "96.0 [91.2, 99.1]" in percent.
std::string percent(const Interval& i, bool sign = false) {
  if (std::isnan(i.value)) return "-";
  const char* one = sign ? "{:+.1f}" : "{:.1f}";
  std::string text = number(i.value * 100, one);
  if (!std::isnan(i.low)) text += fmt::format(" [{}, {}]", number(i.low * 100, one), number(i.high * 100, one));
  return text;
}

std::string nats(const Interval& i) {
  std::string text = number(i.value, "{:.3g}");
  if (!std::isnan(i.low)) text += fmt::format(" [{:.3g}, {:.3g}]", i.low, i.high);
  return text;
}

// Columns as wide as they must be; the first is flush left, the others right.
std::string table(const std::vector<std::vector<std::string>>& lines) {
  std::vector<size_t> widths;
  for (const auto& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (size_t c = 0; c < line.size(); ++c) widths[c] = std::max(widths[c], line[c].size());
  }
  std::string text;
  for (const auto& line : lines) {
    for (size_t c = 0; c < line.size(); ++c) {
      text += c == 0 ? fmt::format("{:<{}}", line[c], widths[c]) : fmt::format("  {:>{}}", line[c], widths[c]);
    }
    text += '\n';
  }
  return text;
}

Json to_json(double value) { return std::isnan(value) ? Json(nullptr) : Json(value); }

Json to_json(const Interval& i) {
  return {{"value", to_json(i.value)}, {"low", to_json(i.low)}, {"high", to_json(i.high)}};
}

Json to_json(const EvalSummary& s) {
  Json positions = Json::array(), copies = Json::array();
  for (const PositionBucket& b : s.positions) {
    positions.push_back(
        {{"first", b.first}, {"last", b.last}, {"tokens", b.tokens}, {"kl_mean", b.kl_mean}, {"top1", b.top1}});
  }
  for (const CopyBucket& b : s.copies) {
    copies.push_back({{"length", b.length},
                      {"distance", b.distance},
                      {"prompt_nll", to_json(b.prompt_nll)},
                      {"decode_nll", to_json(b.decode_nll)}});
  }
  return {{"name", s.name},
          {"config", s.config},
          {"cases", s.cases},
          {"score", to_json(s.score)},
          {"difference", to_json(s.difference)},
          {"reference_solved", s.reference_solved},
          {"of_solved", to_json(s.of_solved)},
          {"kl_mean", to_json(s.kl_mean)},
          {"kl_median", to_json(s.kl_median)},
          {"kl_p95", to_json(s.kl_p95)},
          {"first_kl_mean", to_json(s.first_kl)},
          {"first_kl_median", to_json(s.first_kl_median)},
          {"top1", to_json(s.top1)},
          {"prompt_pairs_percent", to_json(s.prompt_pairs)},
          {"decode_pairs_percent", to_json(s.decode_pairs)},
          {"kv_bytes_peak", s.kv_bytes_peak},
          {"kv_bytes_held", s.kv_bytes_held},
          {"ttft_ms_median", s.ttft_ms},
          {"by_position", std::move(positions)},
          {"by_distance", std::move(copies)}};
}

std::string positions_text(const std::vector<EvalSummary>& summaries) {
  std::vector<std::vector<std::string>> lines;
  for (const EvalSummary& s : summaries) {
    if (s.positions.empty()) continue;
    std::vector<std::string> head = {"mean KL by token of the answer"}, line = {"  " + s.name};
    for (const PositionBucket& b : s.positions) {
      head.push_back(b.first == b.last ? fmt::format("{}", b.first)
                                       : (b.last == INT32_MAX - 1 ? fmt::format("{}-", b.first)
                                                                  : fmt::format("{}-{}", b.first, b.last)));
      line.push_back(number(b.kl_mean, "{:.3g}"));
    }
    if (lines.empty()) lines.push_back(head);
    lines.push_back(line);
  }
  return lines.empty() ? "" : "\n" + table(lines);
}

std::string copies_text(const std::vector<EvalSummary>& summaries) {
  std::vector<std::vector<std::string>> lines = {
      {"NLL of the second copy, nats", "length", "distance", "in the prompt", "in decode steps"}};
  for (const EvalSummary& s : summaries) {
    for (const CopyBucket& b : s.copies) {
      lines.push_back({"  " + s.name, std::to_string(b.length), std::to_string(b.distance), nats(b.prompt_nll),
                       nats(b.decode_nll)});
    }
  }
  return lines.size() == 1 ? "" : "\n" + table(lines);
}

}  // namespace

std::string report_text(const std::string& task, const std::vector<EvalSummary>& summaries) {
  std::vector<std::vector<std::string>> lines = {{task, "score %", "of solved %", "KL mean", "median", "p95",
                                                  "first KL", "top-1 %", "pairs %", "decode %", "KV peak", "KV held",
                                                  "TTFT ms"}};
  for (const EvalSummary& s : summaries) {
    const bool reference = &s == &summaries.front();
    lines.push_back({s.name, percent(s.score), reference ? "-" : percent(s.of_solved), nats(s.kl_mean),
                     number(s.kl_median, "{:.3g}"), number(s.kl_p95, "{:.3g}"), number(s.first_kl_median, "{:.3g}"),
                     percent({s.top1.value, std::nan(""), std::nan("")}), number(s.prompt_pairs, "{:.1f}"),
                     number(s.decode_pairs, "{:.1f}"), format_bytes(s.kv_bytes_peak), format_bytes(s.kv_bytes_held),
                     number(s.ttft_ms, "{:.0f}")});
  }
  std::string text = table(lines);
  for (const EvalSummary& s : summaries)
    text += fmt::format("{}{}: {}", text.back() == '\n' ? "" : "\n", s.name, s.config);
  text +=
      fmt::format("\n{} cases, of which the reference solves {}; brackets: 95 % intervals of a bootstrap over cases\n",
                  summaries.front().cases, summaries.front().reference_solved);
  return text + copies_text(summaries) + positions_text(summaries);
}

Json report_json(const std::string& task, const LoadedModel& model, const std::vector<EvalRow>& rows,
                 const std::vector<EvalSummary>& summaries) {
  Json candidates = Json::array(), cases = Json::array();
  for (const EvalSummary& s : summaries) candidates.push_back(to_json(s));
  for (size_t i = 0; i < rows.front().records.size(); ++i) {
    const CaseRecord& r = rows.front().records[i];
    Json scores = Json::array();
    for (const EvalRow& row : rows) scores.push_back(row.records[i].score);
    cases.push_back({{"seed", r.key.seed},
                     {"length", r.key.length},
                     {"depth", r.key.depth},
                     {"prompt_tokens", r.prompt_tokens},
                     {"scores", std::move(scores)}});
  }
  return {{"task", task},
          {"model", model_identity(model)},
          {"candidates", std::move(candidates)},
          {"cases", std::move(cases)}};
}

}  // namespace pare::cli
