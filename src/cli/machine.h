// What the machine says of itself, as far as the operating system tells. Fields it does not tell are empty or 0.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pare::cli {

struct MachineFacts {
  std::string cpu_model;
  int cpus = 0;              // online
  int64_t memory_bytes = 0;  // of the machine
  int64_t memory_available_bytes = 0;
  int64_t memory_limit_bytes = 0;      // the control group's; 0: none
  std::string transparent_huge_pages;  // "always", "madvise", "never"
  int64_t huge_pages_free = 0;         // reserved ones
};
MachineFacts read_machine_facts();

// Of this process, so far.
int64_t peak_rss_bytes();

// Value of "name : value" in /proc/cpuinfo or /proc/meminfo, first occurrence, without surrounding blanks; "" when
// there is none.
std::string proc_field(std::string_view text, std::string_view name);
// "16303428 kB" in bytes; 0 when it is something else.
int64_t proc_kib(std::string_view value);
// The chosen one of "always [madvise] never"; "" when none is.
std::string chosen_of(std::string_view text);

}  // namespace pare::cli
