#include "cli/command.h"

#include <fmt/format.h>

#include <charconv>

#include "base/limits.h"
#include "cli/console.h"
#include "io/store.h"

namespace pare::cli {

CLI::App* Commands::add(const std::string& name, const std::string& description, CommandBody body) {
  CLI::App* command = app_.add_subcommand(name, description);
  command->add_flag("--json", json_, "Print one JSON object on standard output and nothing else there");
  entries_.push_back({command, std::move(body)});
  return command;
}

int Commands::run() {
  for (const Entry& entry : entries_) {
    if (!entry.app->parsed()) continue;
    const Status status = entry.body();
    return status.ok() ? static_cast<int>(kExitOk) : report_error(status, json_);
  }
  return kExitBadInput;
}

void ModelOptions::add_to(CLI::App* app, bool with_context) {
  app->add_option("MODEL", model, "A store name (`pare pull` lists them) or a path: .gguf, .safetensors or a folder")
      ->required();
  add_threads_option(app, &threads);
  add_device_option(app, &device);
  app->add_flag("--strict", strict,
                "On a card: the same bits whatever else runs, at some cost in speed; a CPU always is");
  app->add_option("--attn", attn, "Which keys a prompt attends: dense, streaming(sink=4,window=256)")
      ->type_name("SPEC")
      ->group("Policies (`pare inspect policies` explains them)");
  app->add_option("--kv", kv, "Which keys and values are kept: dense, streaming(sink=4,recent=256)")
      ->type_name("SPEC")
      ->group("Policies (`pare inspect policies` explains them)");
  if (!with_context) return;
  app->add_option("--context", context, "Tokens of prompt and answer together at most; 0: what the model was made for")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, kMaxContext));
}

void SamplingOptions::add_to(CLI::App* app) {
  const auto add = [&](const char* name, auto& value, const char* type, const char* description) {
    return app->add_option(name, value, description)->type_name(type)->group("Sampling");
  };
  add("--temperature", params.temperature, "X", "Divides the logits, 0 to 100; 0 always takes the most likely token");
  add("--top-k", params.top_k, "N", "Draw from the N most likely tokens; 0: from all");
  add("--top-p", params.top_p, "X", "Draw from the most likely tokens that hold this share of the probability");
  add("--min-p", params.min_p, "X", "Drop tokens less likely than this share of the most likely one");
  add("--typical-p", params.typical_p, "X", "Locally typical sampling: the share of the probability that is kept");
  add("--repetition-penalty", params.repetition_penalty, "X", "Divides logits of tokens in prompt or answer; 1: none");
  add("--frequency-penalty", params.frequency_penalty, "X", "Subtracted for each time a token stands in the answer");
  add("--presence-penalty", params.presence_penalty, "X", "Subtracted once from tokens that stand in the answer");
  add("--logit-bias", bias, "ID=X", "Added to that token's logit; may be repeated")->allow_extra_args(false);
  add("--stop", stop, "TEXT", "Stop before this text; may be repeated")->allow_extra_args(false);
  add("--seed", params.seed, "N", "Seed of the random numbers: the same seed draws the same answer")
      // The parser would read "-1" as 2^64 - 1.
      ->check([](const std::string& text) {
        return text.starts_with('-') ? fmt::format("{} is negative", text) : std::string();
      });
}

void add_threads_option(CLI::App* app, int* threads) {
  app->add_option("--threads", *threads, "CPU threads; 0: as many as the process may use")
      ->type_name("N")
      ->check(CLI::Range(int64_t{0}, kMaxThreads));
}

void add_device_option(CLI::App* app, std::string* device) {
  app->add_option("--device", *device, "Where the model runs: cpu, cuda, cuda:N, or auto: a card if there is one")
      ->type_name("DEVICE");
}

Status SamplingOptions::finish() {
  for (const std::string& item : bias) {
    const size_t equals = item.find('=');
    int32_t id = 0;
    float value = 0.0f;
    const char* end = item.data() + item.size();
    bool good = equals != std::string::npos;
    if (good) {
      const auto first = std::from_chars(item.data(), item.data() + equals, id);
      const auto second = std::from_chars(item.data() + equals + 1, end, value);
      good =
          first.ec == std::errc() && first.ptr == item.data() + equals && second.ec == std::errc() && second.ptr == end;
    }
    if (!good) return invalid_argument(fmt::format("--logit-bias '{}' is not ID=VALUE", item));
    params.logit_bias.emplace_back(id, value);
  }
  return ok_status();
}

Expected<std::shared_ptr<const LoadedModel>> load_by_name(const std::string& model, int threads,
                                                          const std::string& device) {
  PARE_ASSIGN_OR_RETURN(const auto path, resolve_model(model));
  PARE_ASSIGN_OR_RETURN(auto accelerator, ops::accelerator_by_name(device));
  const Waiting waiting("loading " + model);
  ThreadPool pool(threads > 0 ? threads : usable_cpus());
  auto loaded = load(path, &pool, std::move(accelerator));
  if (!loaded.ok()) return at_path(loaded.status(), path.string());
  return loaded;
}

Status check_context(const LoadedModel& model, std::string_view option, int64_t tokens) {
  const int32_t longest = model.model->config().context_max;
  if (tokens <= longest) return ok_status();
  return invalid_argument(fmt::format("{}: {} tokens, the context of this model holds {}", option, tokens, longest));
}

Expected<std::unique_ptr<Tokenizer>> read_tokenizer(const ModelFile& file) {
  if (file.container() == ModelFile::Container::kGguf) return make_tokenizer_from_gguf(file.metadata());
  if (file.tokenizer_json().empty() && !file.vocab_txt().empty()) {
    return make_tokenizer_from_vocab_txt(file.vocab_txt(), file.tokenizer_config_json());
  }
  return make_tokenizer_from_json(file.tokenizer_json(), file.tokenizer_config_json());
}

}  // namespace pare::cli
