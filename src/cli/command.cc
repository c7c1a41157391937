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

void ModelOptions::add_to(CLI::App* app) {
  app->add_option("MODEL", model,
                  "A store name (see `pare pull --help`) or a path: .gguf, .safetensors or a model folder")
      ->required();
  app->add_option("--threads", threads, "CPU threads; 0 takes what the machine allows")
      ->check(CLI::Range(int64_t{0}, kMaxThreads));
  app->add_option("--attn", attn, "Prefill attention, e.g. dense or \"streaming(sink=4,window=256)\"");
  app->add_option("--kv", kv, "KV cache policy, e.g. dense or \"streaming(sink=4,recent=256)\"");
  app->add_option("--context", context, "Tokens of one sequence at most; 0 takes the model's context")
      ->check(CLI::Range(int64_t{0}, kMaxContext));
}

void SamplingOptions::add_to(CLI::App* app) {
  app->add_option("--temperature", params.temperature, "0 is greedy");
  app->add_option("--top-k", params.top_k, "Keep the k most likely tokens; 0 keeps all");
  app->add_option("--top-p", params.top_p, "Keep the most likely tokens that hold this much of the mass");
  app->add_option("--min-p", params.min_p, "Drop tokens less likely than this share of the most likely");
  app->add_option("--typical-p", params.typical_p, "Locally typical sampling");
  app->add_option("--repetition-penalty", params.repetition_penalty, "Divides logits of tokens already seen");
  app->add_option("--frequency-penalty", params.frequency_penalty, "Subtracted per occurrence in the answer");
  app->add_option("--presence-penalty", params.presence_penalty, "Subtracted once a token stands in the answer");
  app->add_option("--logit-bias", bias, "ID=VALUE, added to that token's logit")->allow_extra_args(false);
  app->add_option("--stop", stop, "Stop before this text; may be repeated")->allow_extra_args(false);
  app->add_option("--seed", params.seed, "Seed of the random numbers");
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

Expected<std::shared_ptr<const LoadedModel>> load_by_name(const std::string& model, int threads) {
  PARE_ASSIGN_OR_RETURN(const auto path, resolve_model(model));
  ThreadPool pool(threads > 0 ? threads : usable_cpus());
  auto loaded = load(path, &pool);
  if (!loaded.ok()) return loaded.status().with_context(path.string());
  return loaded;
}

Expected<std::unique_ptr<Tokenizer>> read_tokenizer(const ModelFile& file) {
  if (file.container() == ModelFile::Container::kGguf) return make_tokenizer_from_gguf(file.metadata());
  if (file.tokenizer_json().empty() && !file.vocab_txt().empty()) {
    return make_tokenizer_from_vocab_txt(file.vocab_txt(), file.tokenizer_config_json());
  }
  return make_tokenizer_from_json(file.tokenizer_json(), file.tokenizer_config_json());
}

}  // namespace pare::cli
