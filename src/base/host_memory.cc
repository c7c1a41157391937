#include "base/host_memory.h"

#include <utility>

#include "base/arena.h"

namespace pare {

Expected<std::shared_ptr<std::byte>> allocate_host_memory(size_t bytes) {
  PARE_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::allocate(bytes));
  auto owner = std::make_shared<AlignedBuffer>(std::move(buffer));
  return std::shared_ptr<std::byte>(owner, owner->data());
}

}  // namespace pare
