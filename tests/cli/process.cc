#include "process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <set>
#include <thread>

extern char** environ;

namespace pare::test {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kHang = std::chrono::minutes(2);

std::string contents_of(int fd) {
  std::string text(static_cast<size_t>(::lseek(fd, 0, SEEK_END)), '\0');
  if (::pread(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) text = "unreadable";
  return text;
}

// Whether the process has a handler for the signal: it may be sent without ending a program that is still starting.
bool catches(pid_t pid, int signal) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("SigCgt:")) return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

[[noreturn]] void become_pare(const std::vector<std::string>& arguments, const ProcessOptions& options, int in, int out,
                              int err) {
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  if (options.file_bytes_max) {
    const struct rlimit limit { *options.file_bytes_max, *options.file_bytes_max };
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  constexpr uid_t kNobody = 65534;
  if (options.as_nobody && ::setuid(kNobody) != 0) ::_exit(126);
  for (const std::string& setting : options.environment) ::putenv(const_cast<char*>(setting.c_str()));
  std::vector<char*> argv{const_cast<char*>("pare")};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::execv(PARE_BINARY, argv.data());
  ::_exit(127);
}

}  // namespace

ProcessResult run_pare(const std::vector<std::string>& arguments, const ProcessOptions& options) {
  int in = ::memfd_create("in", MFD_CLOEXEC), silent[2] = {-1, -1};
  const int out = ::memfd_create("out", MFD_CLOEXEC), err = ::memfd_create("err", MFD_CLOEXEC);
  EXPECT_EQ(::write(in, options.input.data(), options.input.size()), static_cast<ssize_t>(options.input.size()));
  ::lseek(in, 0, SEEK_SET);
  if (options.interrupt && ::pipe2(silent, O_CLOEXEC) == 0) std::swap(in, silent[0]);

  const pid_t pid = ::fork();
  if (pid == 0) become_pare(arguments, options, in, out, err);
  const auto deadline = Clock::now() + kHang;
  ProcessResult result;
  bool interrupted = false;
  for (int status = 0;;) {
    if (::waitpid(pid, &status, WNOHANG) == pid) {
      if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
      if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
      break;
    }
    if (options.interrupt && !interrupted && catches(pid, SIGINT)) interrupted = ::kill(pid, SIGINT) == 0;
    if (Clock::now() > deadline) ::kill(pid, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  result.out = contents_of(out);
  result.err = contents_of(err);
  for (const int fd : {in, out, err, silent[0], silent[1]}) {
    if (fd >= 0) ::close(fd);
  }
  return result;
}

nlohmann::json one_object(const ProcessResult& result) {
  EXPECT_EQ(result.signal, 0) << result.err;
  EXPECT_TRUE(result.out.ends_with('\n')) << result.out;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1) << result.out;
  auto object = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_TRUE(object.is_object()) << result.out << result.err;
  return object.is_object() ? object : nlohmann::json::object();
}

nlohmann::json pare_json(std::vector<std::string> arguments, const ProcessOptions& options) {
  arguments.push_back("--json");
  const ProcessResult result = run_pare(arguments, options);
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_EQ(result.err, "");
  return one_object(result);
}

std::string expect_error(std::vector<std::string> arguments, int code, const std::vector<std::string>& parts,
                         const ProcessOptions& options) {
  std::string command;
  for (const std::string& a : arguments) command += a.substr(0, 200) + " ";
  const testing::ScopedTrace trace(__FILE__, __LINE__, command);
  arguments.push_back("--json");
  const ProcessResult result = run_pare(arguments, options);
  EXPECT_EQ(result.code, code) << result.out << result.err;
  const nlohmann::json object = one_object(result);
  if (object.size() != 1 || !object.contains("error")) {
    ADD_FAILURE() << result.out;
    return "";
  }
  static const std::set<std::string> kCodes = {"invalid_argument",   "not_found",      "data_loss", "unsupported",
                                               "resource_exhausted", "limit_exceeded", "io_error",  "cancelled"};
  EXPECT_TRUE(kCodes.contains(object["error"].value("code", ""))) << result.out;
  const std::string message = object["error"].value("message", "");
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
  EXPECT_EQ(result.err, "pare: " + message + "\n");
  return message;
}

}  // namespace pare::test
