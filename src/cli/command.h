// A command of the program: adds itself to the parser and runs when chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pare/engine.h"
#include "pare/status.h"
#include "runtime/loaded_model.h"

namespace pare::cli {

// Every command's body: prints its result and returns ok, or a Status that main reports.
using CommandBody = std::function<Status()>;

class Commands {
 public:
  explicit Commands(CLI::App* app) : app_(*app) {}
  // A subcommand with --json. The body runs after parsing, when this one was given.
  CLI::App* add(const std::string& name, const std::string& description, CommandBody body);
  // Runs the chosen one. Returns the exit code.
  int run();
  const bool& json() const { return json_; }

 private:
  struct Entry {
    CLI::App* app;
    CommandBody body;
  };
  CLI::App& app_;
  std::vector<Entry> entries_;
  bool json_ = false;
};

// Options that several commands share; each adds its flags and holds their values.
struct ModelOptions {
  std::string model;
  int threads = 0;
  std::string device = "cpu";
  bool strict = false;
  std::string attn = "dense", kv = "dense";
  int context = 0;
  // --context only where a command has no meaning of its own for it.
  void add_to(CLI::App* app, bool with_context = true);
};
void add_threads_option(CLI::App* app, int* threads);
void add_device_option(CLI::App* app, std::string* device);

struct SamplingOptions {
  SamplingParams params;
  std::vector<std::string> stop;
  std::vector<std::string> bias;  // "ID=VALUE"
  void add_to(CLI::App* app);
  // Fills what the flags name but SamplingParams spells differently.
  Status finish();
};

// Resolves a store name or path and loads it onto a device, with a word on the terminal when it takes long.
Expected<std::shared_ptr<const LoadedModel>> load_by_name(const std::string& model, int threads,
                                                          const std::string& device = "cpu");

// kInvalidArgument when `tokens`, asked for by `option`, do not fit the model's context.
Status check_context(const LoadedModel& model, std::string_view option, int64_t tokens);

// The tokenizer that comes with a model, without its weights.
Expected<std::unique_ptr<Tokenizer>> read_tokenizer(const ModelFile& file);

// One file each, in the order that --help lists them.
void add_run_command(Commands* commands);
void add_chat_command(Commands* commands);
void add_embed_command(Commands* commands);
void add_bench_command(Commands* commands);
void add_eval_command(Commands* commands);
void add_tune_command(Commands* commands);
void add_tokenize_command(Commands* commands);
void add_render_command(Commands* commands);
void add_inspect_command(Commands* commands);
void add_convert_command(Commands* commands);
void add_quantize_command(Commands* commands);
void add_pull_command(Commands* commands);
void add_doctor_command(Commands* commands);

}  // namespace pare::cli
