// Another engine measured beside ours: llama.cpp's llama-bench, run as a program.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "eval/model_bench.h"
#include "pare/status.h"

namespace pare::cli {

// One repetition of `program` on the same file, threads and sizes; `on_card` puts the whole model on the card, with the
// attention that llama.cpp has for it. Errors: it cannot be started, fails, or prints
// something else than its JSON.
Expected<BenchSample> run_llama_bench(const std::string& program, const std::filesystem::path& model,
                                      const BenchConfig& config, bool on_card);

// Takes from llama-bench's JSON table what it has of a prefill at depth 0 and a decode at `depth`; the rest of *sample
// stays. False when the text is no such table.
bool read_llama_bench(std::string_view output, int32_t depth, BenchSample* sample);

}  // namespace pare::cli
