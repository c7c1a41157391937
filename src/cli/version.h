// What this binary is: printed by --version and in the header of every bench.
#pragma once

#include <string>

namespace pare::cli {

// "pare 0.1.0 (commit 1a2b3c4, GCC 12.2.0, Release)"; the commit is the one that was configured.
std::string version_text();
std::string commit();

}  // namespace pare::cli
