#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cli/version.h"

int main(int argc, char** argv) {
  CLI::App app("pare runs language models while spending compute, memory and data only where they change the answer.");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string(pare::cli::version_text()));
  app.footer("Start with:  pare pull smollm2-135m-instruct\n"
             "             pare run smollm2-135m-instruct -f README.md \"What is this project about?\"\n"
             "Exit codes:  0 done, 1 the machine failed, 2 the input was wrong, 130 interrupted.");
  pare::cli::Commands commands(&app);
  pare::cli::add_run_command(&commands);
  pare::cli::add_embed_command(&commands);
  pare::cli::add_bench_command(&commands);
  pare::cli::add_eval_command(&commands);
  pare::cli::add_tokenize_command(&commands);
  pare::cli::add_render_command(&commands);
  pare::cli::add_pull_command(&commands);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  return commands.run();
}
