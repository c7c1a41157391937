// `pare bench kv`: decode attention under a KV policy beside dense.
#pragma once

#include <string>

#include "pare/status.h"

namespace pare::cli {

struct KvBenchOptions {
  std::string device = "cpu", kv = "dense";
  std::string shape = "32/8/128";  // query heads / KV heads / channels of one
  int layers = 1, batch = 1, threads = 0, repetitions = 20;
  std::string lengths;     // empty: the usual ones, of a gate if one is written
  std::string write_gate;  // a mask file whose gate for the device is measured and written; empty: none
};

// Measures and prints a table, or JSON.
Status bench_kv_command(const KvBenchOptions& options, bool json);

}  // namespace pare::cli
