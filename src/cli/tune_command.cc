// tune: makes the files that policies read.
#include "cli/command.h"
#include "cli/tune_leank.h"

namespace pare::cli {

void add_tune_command(Commands* commands) {
  auto chosen = std::make_shared<CommandBody>();
  CLI::App* app =
      commands->add("tune", "Make the file that a policy needs for a model", [chosen] { return (*chosen)(); });
  app->require_subcommand(1);
  app->footer("  pare tune leank smollm2-135m-instruct --keep 0.5 -o smollm2.mask.json");
  add_tune_leank(app, commands, chosen);
}

}  // namespace pare::cli
