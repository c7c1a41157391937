// Host memory with shared owners, for blocks that could as well lie on another device.
#pragma once

#include <cstddef>
#include <memory>

#include "pare/status.h"

namespace pare {

// An AlignedBuffer of `bytes` (arena.h), freed with its last owner.
Expected<std::shared_ptr<std::byte>> allocate_host_memory(size_t bytes);

// The machine's pages that lie wholly in [begin, begin + bytes) of such a block go back to the system until they are
// written again; they read as zeros.
void return_host_memory(std::byte* begin, size_t bytes);

}  // namespace pare
