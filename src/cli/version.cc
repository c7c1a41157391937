#include "cli/version.h"

#include <fmt/format.h>

namespace pare::cli {

std::string commit() { return PARE_COMMIT; }

std::string version_text() {
#if defined(__clang__)
  const std::string compiler = fmt::format("Clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  const std::string compiler = fmt::format("GCC {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
  return fmt::format("pare {} (commit {}, {}, {})", PARE_VERSION, PARE_COMMIT, compiler, PARE_BUILD_TYPE);
}

}  // namespace pare::cli
