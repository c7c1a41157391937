#include "cli/console.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

namespace pare::cli {
namespace {

std::atomic<bool> g_interrupted{false};  // written by the signal handler, hence global

void on_interrupt(int) {
  g_interrupted = true;
  ::signal(SIGINT, SIG_DFL);
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
  static bool printed = false;
  if (std::exchange(printed, true)) return;
  const std::string text = object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

Progress::Progress(bool enabled)
    : started_(std::chrono::steady_clock::now()), enabled_(enabled && ::isatty(STDERR_FILENO)) {}

Progress::~Progress() { finish(); }

void Progress::update(std::string_view label, int64_t done, int64_t total, std::string_view unit) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - started_ < std::chrono::seconds(1)) return;
  const bool last = total > 0 && done >= total;
  if (shown_ && !last && label == label_ && now - drawn_ < std::chrono::milliseconds(100)) return;
  if (shown_ && label != label_) fmt::print(stderr, "\n");
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
  if (shown_) fmt::print(stderr, "\n");
  shown_ = false;
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

void arm_interrupt() {
  g_interrupted = false;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return g_interrupted; }

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

}  // namespace pare::cli
