#include "cli/peer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

namespace pare::cli {
namespace {

constexpr size_t kMaxOutputBytes = 1 << 20;

// Runs a program without a shell and returns what it printed on standard output; its standard error is dropped.
Expected<std::string> output_of(const std::vector<std::string>& arguments) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return io_error(fmt::format("pipe: {}", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  pid_t child;
  const int error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string text;
  if (error == 0) {
    char block[4096];
    for (ssize_t n; (n = ::read(ends[0], block, sizeof(block))) != 0;) {
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 || text.size() > kMaxOutputBytes) break;
      text.append(block, static_cast<size_t>(n));
    }
  }
  ::close(ends[0]);
  if (error != 0) return not_found(fmt::format("{}: {}", arguments[0], std::strerror(error)));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    return io_error(
        fmt::format("{} ended by signal {} ({})", arguments[0], WTERMSIG(status), strsignal(WTERMSIG(status))));
  }
  if (WEXITSTATUS(status) != 0)
    return io_error(fmt::format("{} ended with code {}", arguments[0], WEXITSTATUS(status)));
  return text;
}

}  // namespace

bool read_llama_bench(std::string_view output, int32_t depth, BenchSample* sample) {
  const auto rows = nlohmann::json::parse(output, nullptr, false);
  if (!rows.is_array()) return false;
  const auto number = [](const nlohmann::json& row, const char* key) {
    const auto found = row.find(key);
    return found != row.end() && found->is_number() ? found->get<double>() : 0.0;
  };
  for (const auto& row : rows) {
    if (!row.is_object()) return false;
    if (number(row, "n_prompt") > 0 && number(row, "n_depth") == 0) sample->prefill_tps = number(row, "avg_ts");
    if (number(row, "n_gen") > 0 && number(row, "n_depth") == depth) sample->decode_tps = number(row, "avg_ts");
  }
  return true;
}

Expected<BenchSample> run_llama_bench(const std::string& program, const std::filesystem::path& model,
                                      const BenchConfig& config, bool on_card) {
  std::vector<std::string> arguments{program,
                                     "-m",
                                     model.string(),
                                     "-t",
                                     fmt::format("{}", config.threads),
                                     "-p",
                                     fmt::format("{}", config.prompt),
                                     "-n",
                                     fmt::format("{}", config.generate),
                                     "-r",
                                     "1",
                                     "-o",
                                     "json"};
  if (on_card) arguments.insert(arguments.end(), {"-ngl", "99", "-fa", "1"});
  PARE_ASSIGN_OR_RETURN(std::string text, output_of(arguments));
  BenchSample sample;
  if (!read_llama_bench(text, config.depth, &sample)) return io_error(fmt::format("{} printed no JSON table", program));
  if (config.depth > 0 && config.generate > 0) {
    arguments.insert(arguments.end(), {"-d", fmt::format("{}", config.depth)});
    arguments[6] = "0";
    PARE_ASSIGN_OR_RETURN(text, output_of(arguments));
    if (!read_llama_bench(text, config.depth, &sample))
      return io_error(fmt::format("{} printed no JSON table", program));
  }
  return sample;
}

}  // namespace pare::cli
