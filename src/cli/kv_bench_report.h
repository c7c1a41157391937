// `pare bench kv`: decode attention under a KV policy beside dense.
#pragma once

#include <string>

#include "pare/status.h"

namespace pare::cli {

struct KvBenchOptions {
  std::string device = "cpu", kv = "dense";
  std::string shape = "32/8/128";  // query heads / KV heads / channels of one
  int layers = 1, batch = 1, threads = 0, repetitions = 20;
  std::string lengths = "4096,8192,32768";
};

// Measures and prints a table, or JSON.
Status bench_kv_command(const KvBenchOptions& options, bool json);

}  // namespace pare::cli
