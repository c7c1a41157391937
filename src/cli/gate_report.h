// What both benches beside dense say of lengths: verdicts, the crossover, and the file that --write-gate changes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/gate.h"
#include "pare/status.h"

namespace pare::cli {

struct GateReport {
  std::string device_class;
  double allowance = kCpuAllowance;
  std::vector<GatePoint> points;  // lengths where dense was measured too
  std::string file;               // of --write-gate; empty: none is written
  uint64_t model_hash = 0;        // the file's; 0: it names no model
  std::optional<MeasuredGate> written;

  std::optional<int32_t> crossover() const { return find_crossover(points, allowance); }
};

// Turns the points into the gate that goes into `report->file`; the caller writes it.
MeasuredGate gate_of_report(const GateReport& report, std::string_view measured);

// "pays", "even", "slower"; null or "-" for a length without dense.
nlohmann::ordered_json verdict_json(double ratio, double allowance);
std::string verdict_text(double ratio, double allowance);

// Adds `device_class`, `allowance`, `crossover` and `gate`.
void add_gate_json(const GateReport& report, nlohmann::ordered_json* object);
void print_gate(const GateReport& report, std::string_view policy);

}  // namespace pare::cli
