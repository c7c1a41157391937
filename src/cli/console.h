// What every command shares: output, progress, errors and exit codes. The only folder that prints.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <thread>

#include "pare/status.h"

namespace pare::cli {

// 0 done; 1 the machine failed (memory, disk, network, permission); 2 the input was wrong; 130 interrupted.
enum ExitCode : int { kExitOk = 0, kExitFailure = 1, kExitBadInput = 2, kExitInterrupted = 130 };
int exit_code_for(const Status& status);

// "pare: message" on stderr; with `json` one object {"error": {"code", "message"}} on stdout as well, so that a script
// never has to parse stderr. Returns the exit code.
int report_error(const Status& status, bool json);

// One object and a newline on stdout. Invalid UTF-8 in strings becomes U+FFFD. The first object of a process is the
// only one: an interrupted command that has told what it has is not followed by its error.
void print_json(const nlohmann::ordered_json& object);

// A bar on stderr for work over a second; silent unless stderr is a terminal. One instance per piece of work. The bar
// is erased when the work ends: what came of it is the command's output.
class Progress {
 public:
  Progress();
  ~Progress();
  // total 0: unknown, shows what is done alone. unit: "B" is shown in binary multiples.
  void update(std::string_view label, int64_t done, int64_t total, std::string_view unit = "B");
  void finish();

 private:
  std::chrono::steady_clock::time_point started_, drawn_;
  std::string label_;
  bool enabled_, shown_ = false;
};

// The same for a call that tells nothing while it runs: after a second, `text` stands on the terminal until the end.
class Waiting {
 public:
  explicit Waiting(std::string text);
  ~Waiting();

 private:
  std::mutex mutex_;
  std::condition_variable ended_cv_;
  bool ended_ = false;
  std::thread thread_;
};

// "1.4 GiB", "96 KiB".
std::string format_bytes(int64_t bytes);

// Ctrl-C ends the process with kExitInterrupted, after one object on stdout with --json. The first press after
// arm_interrupt() only sets interrupted(): whoever armed it ends in good order.
void catch_interrupts(bool json);
void arm_interrupt();
void disarm_interrupt();
bool interrupted();
// Blocks until standard input can be read or has ended; false when Ctrl-C came first.
bool wait_for_input();

// A failure of something that was read from `path`, which its message then begins with.
Status at_path(const Status& status, const std::string& path);

// A file's text; errors name the file. "-" is standard input. Bounded by `max` bytes.
Expected<std::string> read_text_file(const std::string& path, int64_t max);
// kInvalidArgument with the place unless `text` is UTF-8. Names it as `name`: "--text: not UTF-8 at byte 3".
Status check_utf8(std::string_view name, std::string_view text);

}  // namespace pare::cli
