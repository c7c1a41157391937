// Bump allocator for the temporaries of one step. Sized once at start; a step never calls malloc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "pare/status.h"

namespace pare {

// 64-byte aligned block from the operating system, zeroed; movable; counts nothing by itself.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  static Expected<AlignedBuffer> allocate(size_t bytes);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

class Arena {
 public:
  Arena() = default;
  explicit Arena(AlignedBuffer buffer) : buffer_(std::move(buffer)), base_(buffer_.data()), size_(buffer_.size()) {}
  // Over memory that somebody else owns, on whatever device: the arena computes addresses and touches no byte.
  Arena(std::byte* base, size_t size) : base_(base), size_(size) {}
  Arena(Arena&&) noexcept = default;
  Arena& operator=(Arena&&) noexcept = default;

  // 64-byte aligned, uninitialized; empty span when the arena is full (the planner sized it wrongly: callers
  // turn that into kInternal).
  template <typename T>
  std::span<T> take(size_t count) {
    void* p = take_bytes(count * sizeof(T));
    return p ? std::span<T>(static_cast<T*>(p), count) : std::span<T>();
  }
  void* take_bytes(size_t bytes);

  size_t mark() const { return used_; }
  void release(size_t mark) { used_ = mark; }
  void reset() { used_ = 0; }
  size_t used() const { return used_; }
  size_t peak() const { return peak_; }
  size_t capacity() const { return size_; }

 private:
  AlignedBuffer buffer_;
  std::byte* base_ = nullptr;
  size_t size_ = 0, used_ = 0, peak_ = 0;
};

}  // namespace pare
