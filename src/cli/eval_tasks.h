// `pare eval` of synthetic tasks: its options, its table, its JSON and figure.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/command.h"
#include "eval/tasks/task.h"

namespace pare::cli {

struct EvalTaskOptions {
  std::vector<std::string> candidates;  // "NAME=attn=...; kv=..."
  std::vector<int> lengths = {2048}, depths = {0, 25, 50, 75, 100}, distances = {256, 512, 1024};
  int cases = 4, scored = 64, rounds = 2000;
  uint64_t seed = 1;
  TaskParams params;
  bool plain = false;
  std::string out, plot, figure;
  void add_to(CLI::App* app);
};

// "perplexity" and "kl" aside, what TASK may be.
std::vector<std::string> eval_task_names();
std::string eval_task_help();

// `file`: problems of gsm8k or the haystack; "" for none. `against`: the reference's specs.
Status run_eval_task(const std::string& task, const ModelOptions& model, const EvalTaskOptions& options,
                     const std::string& file, const std::string& against, bool json);

}  // namespace pare::cli
