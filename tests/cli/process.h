// Runs the built program as a script would, and reads what it left.
#pragma once

#include <sys/resource.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace pare::test {

struct ProcessOptions {
  std::string input;                     // standard input; /dev/null when empty
  std::vector<std::string> environment;  // "NAME=VALUE", over the test's own
  std::optional<rlim_t> file_bytes_max;  // RLIMIT_FSIZE
  bool as_nobody = false;                // drops root's right to write everywhere; needs root
  bool interrupt = false;                // waits on a silent standard input and gets SIGINT once it catches it
};

struct ProcessResult {
  int code = -1;   // exit code; -1 when a signal ended it
  int signal = 0;  // that signal; SIGKILL after two minutes
  std::string out, err;
};

ProcessResult run_pare(const std::vector<std::string>& arguments, const ProcessOptions& options = {});

// The one object that --json promises on standard output. Anything else there fails the test.
nlohmann::json one_object(const ProcessResult& result);

// Runs with --json, expects success, returns the object.
nlohmann::json pare_json(std::vector<std::string> arguments, const ProcessOptions& options = {});

// Runs with --json and expects `code`, an error object with a stable code and a message that holds each of `parts`, and
// the same message on standard error. Returns the message.
std::string expect_error(std::vector<std::string> arguments, int code, const std::vector<std::string>& parts,
                         const ProcessOptions& options = {});

}  // namespace pare::test
