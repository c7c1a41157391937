// `pare bench attention`: one layer's attention under a selector, beside dense.
#pragma once

#include <string>

#include "pare/status.h"

namespace pare::cli {

struct AttentionReportOptions {
  std::string attn = "dense", shape, lengths, device = "cpu";  // empty shape and lengths: the usual ones of the device
  int threads = 0, repetitions = 5;
};

// Measures and prints a table, or JSON.
Status bench_attention_command(const AttentionReportOptions& options, bool json);

}  // namespace pare::cli
