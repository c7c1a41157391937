#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace pare {

// The only place in the library that writes to stderr and stops: there is nobody left to hand a Status to.
void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "pare: broken invariant at %s:%d: %s\n", file, line, condition);
  std::abort();
}

}  // namespace pare
