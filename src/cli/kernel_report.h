// `pare bench kernels`: the CUDA kernels one by one.
#pragma once

#include <string>

#include "pare/status.h"

namespace pare::cli {

struct KernelsOptions {
  std::string device = "cpu";
  std::string only;       // lines whose "group: name" contains this
  std::string peer_file;  // what tools/bench_cudnn.py printed; empty: none
};

// Measures and prints a table, or JSON.
Status bench_kernels_command(const KernelsOptions& options, bool json);

}  // namespace pare::cli
