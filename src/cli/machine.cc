#include "cli/machine.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>

namespace pare::cli {
namespace {

// Files of the kernel, a few KiB each; empty when there is no such file.
std::string text_of(const char* path) {
  std::ifstream in(path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

int64_t integer(std::string_view text) {
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size() ? value : 0;
}

}  // namespace

std::string proc_field(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos && trimmed(line.substr(0, colon)) == name) {
      return std::string(trimmed(line.substr(colon + 1)));
    }
  }
  return {};
}

int64_t proc_kib(std::string_view value) {
  if (!value.ends_with(" kB")) return 0;
  const int64_t kib = integer(value.substr(0, value.size() - 3));
  return kib > INT64_MAX / 1024 || kib < 0 ? 0 : kib * 1024;
}

std::string chosen_of(std::string_view text) {
  const size_t open = text.find('['), close = text.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return {};
  return std::string(text.substr(open + 1, close - open - 1));
}

MachineFacts read_machine_facts() {
  MachineFacts m;
  m.cpu_model = proc_field(text_of("/proc/cpuinfo"), "model name");
  m.cpus = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  const std::string memory = text_of("/proc/meminfo");
  m.memory_bytes = proc_kib(proc_field(memory, "MemTotal"));
  m.memory_available_bytes = proc_kib(proc_field(memory, "MemAvailable"));
  m.memory_limit_bytes = integer(trimmed(text_of("/sys/fs/cgroup/memory.max")));  // "max": none
  m.transparent_huge_pages = chosen_of(text_of("/sys/kernel/mm/transparent_hugepage/enabled"));
  m.huge_pages_free = integer(proc_field(memory, "HugePages_Free"));
  return m;
}

int64_t peak_rss_bytes() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace pare::cli
