#include "cli/gate_report.h"

#include <fmt/format.h>

#include "base/limits.h"

namespace pare::cli {

using Json = nlohmann::ordered_json;

MeasuredGate gate_of_report(const GateReport& report, std::string_view measured) {
  return make_gate(report.device_class, report.points, report.allowance, measured);
}

Json verdict_json(double ratio, double allowance) {
  return ratio > 0 ? Json(gate_verdict(ratio, allowance)) : Json(nullptr);
}

std::string verdict_text(double ratio, double allowance) {
  return ratio > 0 ? fmt::format("{} ({:+.1f} %)", gate_verdict(ratio, allowance), 100.0 * (ratio - 1.0)) : "-";
}

void add_gate_json(const GateReport& report, Json* object) {
  const std::optional<int32_t> crossover = report.crossover();
  (*object)["device_class"] = report.device_class;
  (*object)["allowance"] = report.allowance;
  (*object)["crossover"] = crossover ? Json(*crossover) : Json(nullptr);
  if (!report.written) return;
  // Only a shape was measured: whether the file is for a model of that shape is all that can be known.
  (*object)["gate"] = {
      {"file", report.file},
      {"min_tokens", report.written->min_tokens},
      {"model_hash", report.model_hash == 0 ? Json(nullptr) : Json(fmt::format("{:016x}", report.model_hash))},
      {"model_checked", false}};
}

void print_gate(const GateReport& report, std::string_view policy) {
  if (report.points.empty()) return;
  const std::optional<int32_t> crossover = report.crossover();
  const std::string rule = fmt::format("by more than {:.0f} % ({})", 100.0 * report.allowance, report.device_class);
  if (crossover) {
    fmt::print("\ncrossover: from {} tokens on {} is slower than dense at no measured length {}\n", *crossover, policy,
               rule);
  } else {
    fmt::print("\ncrossover: none; {} is slower than dense at the longest measured length {}\n", policy, rule);
  }
  if (!report.written) return;
  fmt::print("{}: min_tokens of {} is now {}{}\n", report.file, report.device_class, report.written->min_tokens,
             crossover ? "" : ", the longest context: always dense");
  fmt::print("only a shape was measured: that it is the shape of {} was not checked\n",
             report.model_hash == 0 ? "the file's model" : fmt::format("the file's model {:016x}", report.model_hash));
}

}  // namespace pare::cli
