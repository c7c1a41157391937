#include "cli/tune_leank.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "base/limits.h"
#include "cli/console.h"
#include "cli/inspect_mask.h"
#include "eval/tune_leank.h"
#include "io/mask_file.h"
#include "io/sha256.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

// Longer prompts give no other statistics and take memory.
constexpr int32_t kPromptTokens = 2'048;

struct TuneLeankFlags {
  std::string model, out, method = "magnitude", budgets = "pooled";
  std::vector<std::string> files;
  double keep = 0.5;
  uint64_t seed = 0;
  int32_t tokens = 4'096;
  int threads = 0;
  bool force = false;
};

struct CalibrationPrompts {
  std::vector<std::vector<TokenId>> prompts;
  int64_t tokens = 0;
  std::string description;
};

// As many tokens as asked for, from the beginnings of the files in equal parts, cut into prompts.
Expected<CalibrationPrompts> read_prompts(const TuneLeankFlags& o, const LoadedModel& model) {
  std::vector<std::pair<std::string, std::string>> texts;  // name, text
  for (const std::string& file : o.files) {
    PARE_ASSIGN_OR_RETURN(std::string text, read_text_file(file, kMaxPromptBytes));
    PARE_RETURN_IF_ERROR(check_utf8(file, text));
    texts.emplace_back(file, std::move(text));
  }
  if (texts.empty()) texts.emplace_back("built-in", calibration_text(o.seed, int64_t{8} * o.tokens));

  CalibrationPrompts out;
  const int64_t share = std::max<int64_t>(1, o.tokens / static_cast<int64_t>(texts.size()));
  const int64_t longest = std::min<int64_t>(kPromptTokens, model.model->config().context_max - 1);
  for (const auto& [name, text] : texts) {
    EncodeOptions options;
    options.parse_special = false;
    PARE_ASSIGN_OR_RETURN(std::vector<TokenId> ids, model.tokenizer->encode(text, options));
    if (static_cast<int64_t>(ids.size()) > share) ids.resize(static_cast<size_t>(share));
    out.tokens += static_cast<int64_t>(ids.size());
    for (size_t begin = 0; begin < ids.size(); begin += static_cast<size_t>(longest)) {
      const size_t end = std::min(ids.size(), begin + static_cast<size_t>(longest));
      if (end - begin <= kCalibrationSinkRows) continue;
      out.prompts.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                               ids.begin() + static_cast<std::ptrdiff_t>(end));
    }
    Sha256 hash;
    hash.update(text);
    PARE_ASSIGN_OR_RETURN(const std::string digest, hash.finish_hex());
    out.description += fmt::format("{}{} (SHA-256 {})", out.description.empty() ? "" : ", ",
                                   std::filesystem::path(name).filename().string(), digest);
  }
  if (out.prompts.empty()) {
    return invalid_argument(
        fmt::format("the text has {} tokens; more than {} are needed", out.tokens, kCalibrationSinkRows));
  }
  return out;
}

// Before anything is loaded.
Status check_flags(const TuneLeankFlags& o) {
  if (!(o.keep > 0.0 && o.keep <= 1.0)) return invalid_argument(fmt::format("--keep: {} is not in (0, 1]", o.keep));
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::absolute(o.out, error).parent_path();
  if (!std::filesystem::is_directory(folder, error)) return not_found(folder.string() + ": no such folder");
  if (!o.force && std::filesystem::exists(o.out, error)) {
    return invalid_argument(fmt::format("{} exists (--force replaces it)", o.out));
  }
  return ok_status();
}

Status tune_leank(const TuneLeankFlags& o, bool json) {
  PARE_RETURN_IF_ERROR(check_flags(o));
  PARE_ASSIGN_OR_RETURN(const auto model, load_by_name(o.model, o.threads));
  PARE_ASSIGN_OR_RETURN(const CalibrationPrompts text, read_prompts(o, *model));
  arm_interrupt();
  Progress progress;
  auto scores = calibrate_channels(model, text.prompts, o.threads, [&](int64_t done, int64_t total) {
    progress.update("calibrating", done, total, "tokens");
    return !interrupted();
  });
  progress.finish();
  if (!scores.ok()) return scores.status();
  TuneLeankOptions options;
  options.keep = o.keep;
  options.seed = o.seed;
  options.channels = o.method == "random" ? MaskChannels::kRandom : MaskChannels::kMagnitude;
  options.budgets = o.budgets == "uniform" ? MaskBudgets::kUniform : MaskBudgets::kPooled;
  PARE_ASSIGN_OR_RETURN(ChannelMask mask, make_channel_mask(*scores, options));
  mask.model_hash = model->content_hash;
  mask.provenance =
      fmt::format("pare tune leank: model {}, method {}, budgets {}, keep {}, seed {}; {} tokens in {} prompts of {}",
                  model->path.filename().string(), o.method, o.budgets, o.keep, o.seed, text.tokens,
                  text.prompts.size(), text.description);
  PARE_RETURN_IF_ERROR(write_channel_mask(o.out, mask));

  if (json) {
    Json summary{{"path", o.out}, {"rows", scores->rows}};
    summary.update(mask_json(mask));
    print_json(summary);
  } else {
    fmt::print("{}\n", o.out);
    print_mask(mask);
  }
  return ok_status();
}

}  // namespace

void add_tune_leank(CLI::App* tune, const Commands* commands, const std::shared_ptr<CommandBody>& chosen) {
  auto o = std::make_shared<TuneLeankFlags>();
  CLI::App* app = tune->add_subcommand("leank", "A channel mask: which key channels each KV head keeps");
  app->fallthrough();  // --json
  app->final_callback([o, commands, chosen] { *chosen = [o, commands] { return tune_leank(*o, commands->json()); }; });
  app->add_option("MODEL", o->model, "A store name (`pare pull` lists them) or a path: .gguf, .safetensors or a folder")
      ->required();
  app->add_option("-o,--out", o->out, "The mask file to write")->type_name("FILE")->required();
  app->add_option("--keep", o->keep, "Share of all key channels to keep, before rounding to whole widths")
      ->type_name("X");
  app->add_option("--method", o->method, "Channels of a head: the largest by magnitude, or drawn at random")
      ->check(CLI::IsMember({"magnitude", "random"}));
  app->add_option("--budgets", o->budgets, "Widths of heads: by one threshold over all scores, or as even as possible")
      ->check(CLI::IsMember({"pooled", "uniform"}));
  app->add_option("--file", o->files, "Text to calibrate with; may be repeated; without it, a built-in text")
      ->type_name("FILE")
      ->allow_extra_args(false);
  app->add_option("--tokens", o->tokens, "Tokens to calibrate with, over all files")
      ->type_name("N")
      ->check(CLI::Range(kCalibrationSinkRows + 1, 1 << 20));
  app->add_option("--seed", o->seed, "Of random channels, uniform budgets and the built-in text")
      ->type_name("N")
      ->check([](const std::string& text) {
        return text.starts_with('-') ? fmt::format("{} is negative", text) : std::string();
      });
  add_threads_option(app, &o->threads);
  app->add_flag("--force", o->force, "Replace FILE when it exists");
  app->footer(
      "Magnitude is the mean of |q_c k_c| over the text (docs/papers/leank.md). Layers that slide a window keep\n"
      "everything. The result does not depend on --threads.\n\n"
      "  pare tune leank smollm2-135m-instruct --keep 0.5 -o smollm2.mask.json\n"
      "  pare tune leank smollm2-135m-instruct --keep 0.5 --method random --budgets uniform -o control.mask.json");
}

}  // namespace pare::cli
