#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/tune_leank.h"
#include "eval/tune_triangle.h"
#include "io/ranking_file.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

// What is tuned: a parser of its own below `tune`.
struct TuneTask {
  CLI::App* app;
  CommandBody body;
};

struct TriangleOptions {
  std::string model, device = "cpu", out;
  std::vector<std::string> files;
  TuneOptions tune;
  bool force = false;
};

Json pairs_json(const std::vector<std::pair<int32_t, double>>& pairs, const char* first) {
  Json list = Json::array();
  for (const auto& [n, kl] : pairs) list.push_back({{first, n}, {"kl", kl}});
  return list;
}

Status run_triangle(const TriangleOptions& o, bool json) {
  if (!o.force && std::filesystem::exists(o.out)) {
    return invalid_argument(fmt::format("--out {} exists; --force replaces it", o.out));
  }
  std::vector<std::string> texts;
  for (const std::string& file : o.files) {
    PARE_ASSIGN_OR_RETURN(texts.emplace_back(), read_text_file(file, kMaxPromptBytes));
    PARE_RETURN_IF_ERROR(check_utf8(file, texts.back()));
  }
  PARE_ASSIGN_OR_RETURN(const auto model, load_by_name(o.model, o.tune.threads, o.device));
  PARE_ASSIGN_OR_RETURN(const std::vector<TuneSample> samples, triangle_samples(*model, texts, o.tune));
  arm_interrupt();
  Progress progress;
  const auto tuning = tune_triangle(model, samples, o.tune, [&](int64_t done, int64_t total) {
    progress.update("ranking layers", done, total, "prompts");
    return !interrupted();
  });
  progress.finish();
  if (!tuning.ok()) {
    return tuning.status().code() == StatusCode::kCancelled ? cancelled("interrupted") : tuning.status();
  }
  PARE_RETURN_IF_ERROR(write_ranking_file(o.out, tuning->ranking));
  const LayerRanking& r = tuning->ranking;
  if (json) {
    print_json({{"path", o.out},
                {"ranking", r.layers},
                {"recommended", r.recommended},
                {"layers", pairs_json(tuning->layer_kl, "layer")},
                {"together", pairs_json(tuning->joint_kl, "count")},
                {"samples", samples.size()},
                {"tokens", o.tune.tokens},
                {"seed", o.tune.seed}});
    return ok_status();
  }
  fmt::print("layer  KL (nats) when it alone is triangle\n");
  for (const auto& [layer, kl] : tuning->layer_kl) fmt::print("{:>5}  {:.6f}\n", layer, kl);
  for (const auto& [count, kl] : tuning->joint_kl) fmt::print("first {:>3} together: {:.6f}\n", count, kl);
  fmt::print("{}: {} of {} layers recommended\n", o.out, r.recommended, r.layers.size());
  return ok_status();
}

TuneTask add_triangle(CLI::App* tune, Commands* commands) {
  auto o = std::make_shared<TriangleOptions>();
  CLI::App* app = tune->add_subcommand("triangle", "Rank layers for --attn triangle by what each costs alone");
  app->fallthrough();
  app->add_option("MODEL", o->model, "A store name or a path")->required();
  app->add_option("--out", o->out, "The ranking file to write (docs/formats/ranking.md)")
      ->type_name("FILE")
      ->required();
  app->add_flag("--force", o->force, "Replace FILE if it exists");
  app->add_option("--file", o->files, "A text to take prompts from, in turn with retrieval prompts; may be repeated")
      ->type_name("FILE")
      ->allow_extra_args(false);
  const auto add = [&](const char* name, int32_t& value, int64_t low, int64_t high, const char* description) {
    app->add_option(name, value, description)->type_name("N")->check(CLI::Range(low, high));
  };
  add("--tokens", o->tune.tokens, 64, kMaxContext, "Tokens of a prompt");
  add("--samples", o->tune.samples, 1, 4096, "Prompts");
  add("--answer", o->tune.answer, 1, 256, "Tokens of the answer whose distributions are compared");
  add("--sink", o->tune.sink, 0, kMaxContext, "Of the selector");
  add("--window", o->tune.window, 1, kMaxContext, "Of the selector");
  add("--last", o->tune.last, 1, kMaxContext, "Of the selector");
  add("--count-max", o->tune.count_max, 0, kMaxLayers, "Layers that are recommended at most; 0: half of the model's");
  app->add_option("--kl-max", o->tune.kl_max, "Nats that the recommended layers may cost together")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1e6));
  app->add_option("--seed", o->tune.seed, "Of the prompts that are drawn")->type_name("N");
  add_threads_option(app, &o->tune.threads);
  add_device_option(app, &o->device);
  app->footer(
      "Every prompt is read densely, once with each layer alone as triangle, and some times more to find how many\n"
      "layers of the ranking stay within --kl-max together.\n\n"
      "  pare tune triangle smollm2-135m-instruct --out smollm2.json --tokens 2048 --samples 4\n"
      "  pare run smollm2-135m-instruct --attn \"triangle(ranking=smollm2.json)\" -f notes.txt \"Summarize this.\"");
  return {app, [o, commands] { return run_triangle(*o, commands->json()); }};
}

}  // namespace

void add_tune_command(Commands* commands) {
  auto tasks = std::make_shared<std::vector<TuneTask>>();
  auto leank = std::make_shared<CommandBody>();
  CLI::App* app = commands->add("tune", "Make the file that a policy needs for a model", [tasks, leank]() -> Status {
    if (*leank) return (*leank)();
    for (const TuneTask& task : *tasks) {
      if (task.app->parsed()) return task.body();
    }
    return invalid_argument("tune: no task");  // the parser asks for one
  });
  app->require_subcommand(1);
  app->footer("  pare tune triangle smollm2-135m-instruct --out smollm2.json --tokens 2048 --samples 4");
  tasks->push_back(add_triangle(app, commands));
  add_tune_leank(app, commands, leank);
}

}  // namespace pare::cli
