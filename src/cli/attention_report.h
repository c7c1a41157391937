// `pare bench attention`: one layer's attention under a selector, beside dense.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"

namespace pare::cli {

struct AttentionReportOptions {
  std::string attn = "dense", shape, lengths, device = "cpu";  // empty shape and lengths: the usual ones of the device
  int threads = 0, repetitions = 5;
  std::string write_gate;  // a ranking file whose gate for the device is measured and written; empty: none
};

// The numbers of --lengths, as in "1024,4K,1M": K and M are multiples of 1,024.
Expected<std::vector<int32_t>> parse_lengths(std::string_view text);

// Measures and prints a table, or JSON.
Status bench_attention_command(const AttentionReportOptions& options, bool json);

}  // namespace pare::cli
