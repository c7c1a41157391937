// What every command shares: output, progress, errors and exit codes. The only folder that prints.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "pare/status.h"

namespace pare::cli {

// 0 done; 1 the machine or a file failed; 2 the input was wrong; 130 interrupted.
enum ExitCode : int { kExitOk = 0, kExitFailure = 1, kExitBadInput = 2, kExitInterrupted = 130 };
int exit_code_for(const Status& status);

// "pare: message" on stderr; with `json` one object {"error": {"code", "message"}} on stdout as well, so that a script
// never has to parse stderr. Returns the exit code.
int report_error(const Status& status, bool json);

// One object and a newline on stdout. Invalid UTF-8 in strings becomes U+FFFD. The first object of a process is the
// only one: an interrupted command that has told what it has is not followed by its error.
void print_json(const nlohmann::ordered_json& object);

// A bar on stderr for work over a second; silent unless stderr is a terminal. One instance per piece of work.
class Progress {
 public:
  explicit Progress(bool enabled);
  ~Progress();
  // total 0: unknown, shows what is done alone. unit: "B" is shown in binary multiples.
  void update(std::string_view label, int64_t done, int64_t total, std::string_view unit = "B");
  void finish();

 private:
  std::chrono::steady_clock::time_point started_, drawn_;
  std::string label_;
  bool enabled_, shown_ = false;
};

// "1.4 GiB", "96 KiB".
std::string format_bytes(int64_t bytes);

// True once Ctrl-C was pressed since arm_interrupt(); the second press ends the process as usual.
void arm_interrupt();
bool interrupted();

// A file's text; errors name the file. "-" is standard input. Bounded by `max` bytes.
Expected<std::string> read_text_file(const std::string& path, int64_t max);

}  // namespace pare::cli
