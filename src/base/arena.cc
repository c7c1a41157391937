#include "base/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "base/checked.h"

namespace pare {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kAlignment = 64;

}  // namespace

Expected<AlignedBuffer> AlignedBuffer::allocate(size_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  // Large blocks start on a huge page: weights are streamed, and a 4 KiB page is 150 ns of the memory's time.
  const bool huge = bytes >= kHugePageBytes;
  const std::optional<size_t> mapped = checked_round_up(bytes, kPageBytes);
  const std::optional<size_t> asked = mapped ? checked_add(*mapped, huge ? kHugePageBytes : 0) : std::nullopt;
  void* p = asked ? mmap(nullptr, *asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                  : MAP_FAILED;
  if (p == MAP_FAILED) return resource_exhausted(fmt::format("no memory for a buffer of {} bytes", bytes));
  auto* begin = static_cast<std::byte*>(p);
  if (huge) {
    const size_t head = (kHugePageBytes - reinterpret_cast<uintptr_t>(begin) % kHugePageBytes) % kHugePageBytes;
    if (head > 0) munmap(begin, head);
    if (head < kHugePageBytes) munmap(begin + head + *mapped, kHugePageBytes - head);
    begin += head;
    madvise(begin, *mapped, MADV_HUGEPAGE);  // a hint: refusal costs speed only
  }
  buffer.data_ = begin;
  buffer.size_ = bytes;
  return buffer;
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) munmap(data_, round_up(size_, kPageBytes));
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void* Arena::take_bytes(size_t bytes) {
  const size_t left = size_ - used_;
  if (bytes > left) return nullptr;
  void* p = base_ + used_;
  used_ += std::min(left, round_up(bytes, kAlignment));  // the last block may end where the buffer does
  peak_ = std::max(peak_, used_);
  return p;
}

}  // namespace pare
