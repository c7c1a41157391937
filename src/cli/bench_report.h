// What `pare bench` found, as a table for a page or as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/model_bench.h"
#include "ops/accelerator.h"

namespace pare::cli {

// Steps by the card's own clock, of all repetitions; on a card alone.
struct StepFigures {
  TimeSpread step_us, gap_us;
  int64_t resolution_ns = 0;  // of that clock, measured
};

struct BenchSeries {
  std::vector<double> prefill, decode;  // tokens per second of each repetition
};

// Memory of the card when the runs had ended, before the peaks were measured.
struct CardFacts {
  ops::AcceleratorInfo info;
  ops::AcceleratorMemory memory;
};

struct BenchReport {
  std::string model;
  bool random_weights = false;
  std::string dtype;  // of random weights
  BenchConfig config;
  int repetitions = 0;
  bool has_peer = false;
  BenchSeries ours, peer;
  std::string cpu_level, attn, kv;
  std::optional<CardFacts> card;
  double read_bandwidth = 0;  // bytes a second, of the card where there is one
  double gemm_rate = 0;       // FLOP a second; 0: not measured
  std::optional<StepFigures> steps;
  BenchFloor floor;
  EngineStats stats;
  uint64_t tensor_bytes = 0;
  int64_t peak_rss_bytes = 0;

  double floor_steps_per_s() const { return read_bandwidth / floor.decode_bytes_per_step; }
  double decode_floor_ratio() const;
  // Of the matrix products and of attention where it is known.
  double prefill_flop_per_s() const;
};

nlohmann::ordered_json bench_json(const BenchReport& report);
void print_bench_table(const BenchReport& report);

}  // namespace pare::cli
