#include "cli/console.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "text/utf8.h"

namespace pare::cli {
namespace {

constexpr const char* kEraseLine = "\r\033[K";

// Shared with the signal handler, hence global.
std::atomic<bool> g_interrupted{false}, g_armed{false}, g_json{false}, g_printed{false};
// Readable since the press. The handler may run on any thread, so no call of the reading thread need return for it.
int g_interrupt_event = -1;
constexpr std::string_view kInterruptedObject = "{\"error\":{\"code\":\"cancelled\",\"message\":\"interrupted\"}}\n";

// Only calls that are allowed in a signal handler.
void on_interrupt(int) {
  if (g_armed && !g_interrupted) {
    g_interrupted = true;
    const uint64_t one = 1;
    [[maybe_unused]] const auto n = ::write(g_interrupt_event, &one, sizeof(one));
    return;
  }
  if (g_json && !g_printed) {
    [[maybe_unused]] const auto n = ::write(STDOUT_FILENO, kInterruptedObject.data(), kInterruptedObject.size());
  }
  ::_exit(kExitInterrupted);
}

}  // namespace

int exit_code_for(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk: return kExitOk;
    case StatusCode::kCancelled: return kExitInterrupted;
    case StatusCode::kIoError:
    case StatusCode::kResourceExhausted:
    case StatusCode::kInternal: return kExitFailure;
    case StatusCode::kInvalidArgument:
    case StatusCode::kNotFound:
    case StatusCode::kDataLoss:
    case StatusCode::kLimitExceeded:
    case StatusCode::kUnsupported: return kExitBadInput;
  }
  return kExitFailure;
}

int report_error(const Status& status, bool json) {
  const std::string message(status.message());
  fmt::print(stderr, "pare: {}\n", message);
  if (json) {
    nlohmann::ordered_json object;
    object["error"] = {{"code", std::string(status_code_name(status.code()))}, {"message", message}};
    print_json(object);
  }
  return exit_code_for(status);
}

void print_json(const nlohmann::ordered_json& object) {
  if (g_printed.exchange(true)) return;
  const std::string text = object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

Progress::Progress() : started_(std::chrono::steady_clock::now()), enabled_(::isatty(STDERR_FILENO)) {}

Progress::~Progress() { finish(); }

void Progress::update(std::string_view label, int64_t done, int64_t total, std::string_view unit) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - started_ < std::chrono::seconds(1)) return;
  const bool last = total > 0 && done >= total;
  if (shown_ && !last && label == label_ && now - drawn_ < std::chrono::milliseconds(100)) return;
  if (shown_ && label != label_) fmt::print(stderr, kEraseLine);
  label_ = label;
  drawn_ = now;
  shown_ = true;
  const auto amount = [&](int64_t n) { return unit == "B" ? format_bytes(n) : fmt::format("{} {}", n, unit); };
  if (total <= 0) {
    fmt::print(stderr, "\r{:<32} {:>10}", label, amount(done));
  } else {
    constexpr int kWidth = 30;
    const double part = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const std::string bar(static_cast<size_t>(part * kWidth), '#');
    fmt::print(stderr, "\r{:<32} [{:<30}] {:3.0f} % of {:<10}", label, bar, part * 100.0, amount(total));
  }
  std::fflush(stderr);
}

void Progress::finish() {
  if (shown_) fmt::print(stderr, kEraseLine);
  shown_ = false;
}

Waiting::Waiting(std::string text) {
  if (!::isatty(STDERR_FILENO)) return;
  thread_ = std::thread([this, text = std::move(text)] {
    std::unique_lock lock(mutex_);
    if (ended_cv_.wait_for(lock, std::chrono::seconds(1), [this] { return ended_; })) return;
    fmt::print(stderr, "{} ...", text);
    std::fflush(stderr);
    ended_cv_.wait(lock, [this] { return ended_; });
    fmt::print(stderr, kEraseLine);
  });
}

Waiting::~Waiting() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ended_cv_.notify_one();
  thread_.join();
}

std::string format_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024.0 && unit < 4) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

void catch_interrupts(bool json) {
  g_json = json;
  g_interrupt_event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
}

void arm_interrupt() {
  uint64_t presses;
  [[maybe_unused]] const auto n = ::read(g_interrupt_event, &presses, sizeof(presses));
  g_interrupted = false;
  g_armed = true;
}

bool interrupted() { return g_interrupted; }

bool wait_for_input() {
  struct pollfd ready[] = {{STDIN_FILENO, POLLIN, 0}, {g_interrupt_event, POLLIN, 0}};
  while (!interrupted()) {
    if (::poll(ready, std::size(ready), -1) < 0 && errno != EINTR) return true;  // the read will say what is wrong
    if (ready[0].revents != 0 && ready[1].revents == 0) return true;
  }
  return false;
}

Status at_path(const Status& status, const std::string& path) {
  return status.message().starts_with(path) ? status : status.with_context(path);
}

Expected<std::string> read_text_file(const std::string& path, int64_t max) {
  const bool standard_input = path == "-";
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(standard_input ? stdin : std::fopen(path.c_str(), "rb"),
                                                       standard_input ? [](std::FILE*) { return 0; } : std::fclose);
  if (!file) {
    const std::string message = fmt::format("{}: {}", path, std::strerror(errno));
    return errno == ENOENT ? not_found(message) : io_error(message);
  }
  std::string text;
  char block[1 << 16];
  for (;;) {
    const size_t n = std::fread(block, 1, sizeof(block), file.get());
    text.append(block, n);
    if (static_cast<int64_t>(text.size()) > max) {
      return invalid_argument(fmt::format("{}: longer than {} bytes", path, max));
    }
    if (n < sizeof(block)) break;
  }
  if (std::ferror(file.get())) return io_error(fmt::format("{}: {}", path, std::strerror(errno)));
  return text;
}

Status check_utf8(std::string_view name, std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (!step.valid) return invalid_argument(fmt::format("{}: not UTF-8 at byte {}", name, at));
    at += step.size;
  }
  return ok_status();
}

}  // namespace pare::cli
