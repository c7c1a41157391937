// Device and pinned host memory. Every byte that the engine holds on a card goes through DeviceBuffer, so that the
// allocator's count is the truth: nothing allocates within a step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pare/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

// Bytes held by this process through DeviceBuffer and PinnedBuffer. The CUDA context and loaded modules are not in it.
struct MemoryStats {
  int64_t device_bytes = 0, device_bytes_peak = 0;
  int64_t pinned_bytes = 0;
};
MemoryStats memory_stats();

// Copies pageable memory and returns when the bytes lie on the card. cudaMemcpy alone returns when they are staged, and
// streams that do not wait for the legacy one, as all of ours, may then read what was there before.
Status copy_to_device(void* to, const void* host, size_t bytes);

// A block of memory of the current device, 256-byte aligned, not initialized. Movable; freed by the destructor.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // kResourceExhausted names the bytes asked for and the bytes free.
  static Expected<DeviceBuffer> allocate(size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

  // Synchronous copies, for set-up and tests. `bytes` from `offset` on must lie inside.
  Status upload(const void* host, size_t bytes, size_t offset = 0);
  Status download(void* host, size_t bytes, size_t offset = 0) const;
  Status fill(uint8_t value);

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Page-locked host memory, which the card reads and writes without staging; also mapped into its address space.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  static Expected<PinnedBuffer> allocate(size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pare::cuda
