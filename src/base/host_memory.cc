#include "base/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "base/arena.h"

namespace pare {

Expected<std::shared_ptr<std::byte>> allocate_host_memory(size_t bytes) {
  PARE_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::allocate(bytes));
  auto owner = std::make_shared<AlignedBuffer>(std::move(buffer));
  return std::shared_ptr<std::byte>(owner, owner->data());
}

void return_host_memory(std::byte* begin, size_t bytes) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (at + page - 1) / page * page, end = (at + bytes) / page * page;
  // Refusal costs memory only.
  if (first < end) madvise(begin + (first - at), end - first, MADV_DONTNEED);
}

}  // namespace pare
