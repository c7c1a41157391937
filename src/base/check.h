// PARE_CHECK: invariants of the engine itself. Never reachable from bytes that come from outside (those get a
// Status); a failed check means that going on would corrupt memory, so the process stops with the place.
#pragma once

namespace pare {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}

#define PARE_CHECK(cond)                               \
  do {                                                 \
    if (!(cond)) [[unlikely]]                          \
      ::pare::check_failed(#cond, __FILE__, __LINE__); \
  } while (false)
