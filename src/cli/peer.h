// Another engine measured beside ours: llama.cpp's llama-bench, run as a program.
#pragma once

#include <filesystem>
#include <string>

#include "eval/model_bench.h"
#include "pare/status.h"

namespace pare::cli {

// One repetition of `program` on the same file, threads and sizes. Errors: it cannot be started, fails, or prints
// something else than its JSON.
Expected<BenchSample> run_llama_bench(const std::string& program, const std::filesystem::path& model,
                                      const BenchConfig& config);

}  // namespace pare::cli
