// docs/composition.md: what may be combined with what, written from the capability records (plan/caps.h) of every
// registered selector and KV stage. `pare inspect policies --markdown` prints it; a test compares the file in the tree.
#pragma once

#include <string>

namespace pare::cli {

// The whole page, ending with a newline. The same on every machine.
std::string composition_page();

}  // namespace pare::cli
