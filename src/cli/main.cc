#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>
#include <string_view>
#include <system_error>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/help.h"
#include "cli/version.h"

namespace pare::cli {
namespace {

// Parsing may have failed before the flag was reached.
bool wants_json(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--json") return true;
  }
  return false;
}

// The parser's own word for an unknown command is that one is missing.
Status check_command(const CLI::App& app, int argc, char** argv) {
  std::string known;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (argc > 1 && argv[1] == command->get_name()) return ok_status();
    known += (known.empty() ? "" : ", ") + command->get_name();
  }
  if (argc > 1 && argv[1][0] == '-' && std::string_view(argv[1]) != "--json") return ok_status();
  if (argc < 2 || argv[1][0] == '-') return invalid_argument(fmt::format("no command; there are {}", known));
  return invalid_argument(fmt::format("unknown command '{}'; there are {}", argv[1], known));
}

int run_commands(CLI::App& app, Commands& commands, int argc, char** argv) {
  if (Status status = check_command(app, argc, argv); !status.ok()) {
    return report_error(status, wants_json(argc, argv));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    const auto chosen = app.get_subcommands();
    const std::string help = chosen.empty() ? "pare --help" : fmt::format("pare {} --help", chosen.front()->get_name());
    return report_error(invalid_argument(fmt::format("{} (see `{}`)", error.what(), help)), wants_json(argc, argv));
  }
  return commands.run();
}

int run_program(int argc, char** argv) {
  // Writing beyond a limit on file sizes is then an error like a full disk, and what was begun is removed.
  ::signal(SIGXFSZ, SIG_IGN);
  catch_interrupts(wants_json(argc, argv));
  CLI::App app("pare runs language models while spending compute, memory and data only where they change the answer.",
               "pare");
  app.formatter(std::make_shared<HelpFormatter>());
  app.option_defaults()->always_capture_default();
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text());
  app.footer(
      "pare COMMAND --help explains a command and ends with examples. MODEL is a store name (`pare pull` lists them)\n"
      "or a path. Numbers are tokens unless said otherwise.\n\n"
      "Start with:  pare pull smollm2-135m-instruct\n"
      "             pare run smollm2-135m-instruct -f README.md \"What is this project about?\"\n"
      "Exit codes:  0 done, 1 the machine failed, 2 the input was wrong, 130 interrupted.\n"
      "Every command takes --json; docs/cli.md has what each prints.");
  Commands commands(&app);
  add_run_command(&commands);
  add_chat_command(&commands);
  add_embed_command(&commands);
  add_bench_command(&commands);
  add_eval_command(&commands);
  add_tune_command(&commands);
  add_tokenize_command(&commands);
  add_render_command(&commands);
  add_inspect_command(&commands);
  add_convert_command(&commands);
  add_quantize_command(&commands);
  add_pull_command(&commands);
  add_doctor_command(&commands);
  // The two failures that the standard library and fmt report by throwing, wherever they happen.
  int code = kExitFailure;
  try {
    code = run_commands(app, commands, argc, argv);
  } catch (const std::bad_alloc&) {
    code = report_error(resource_exhausted("out of memory"), wants_json(argc, argv));
  } catch (const std::system_error& error) {
    code = report_error(resource_exhausted(error.what()), wants_json(argc, argv));
  }
  // An answer that did not reach its reader (a full disk behind a redirection) is a failure.
  const bool lost = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (lost && code == kExitOk) {
    std::perror("pare: standard output");
    code = kExitFailure;
  }
  return code;
}

}  // namespace
}  // namespace pare::cli

int main(int argc, char** argv) { return pare::cli::run_program(argc, argv); }
