#include "tensor/cuda/device_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/check.h"
#include "tensor/cuda/status.h"

namespace pare::cuda {
namespace {

std::atomic<int64_t> device_bytes{0}, device_bytes_peak{0}, pinned_bytes{0};

void count_device(int64_t bytes) {
  const int64_t now = device_bytes.fetch_add(bytes) + bytes;
  int64_t peak = device_bytes_peak.load();
  while (now > peak && !device_bytes_peak.compare_exchange_weak(peak, now)) {
  }
}

}  // namespace

MemoryStats memory_stats() { return {device_bytes.load(), device_bytes_peak.load(), pinned_bytes.load()}; }

Expected<DeviceBuffer> DeviceBuffer::allocate(size_t bytes) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, bytes); error != cudaSuccess) {
    size_t free = 0, total = 0;
    if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&free, &total) == cudaSuccess) {
      cudaGetLastError();
      return resource_exhausted(fmt::format("CUDA: {} bytes asked for, {} of {} free", bytes, free, total));
    }
    return to_status(error, "cudaMalloc");
  }
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.size_ = bytes;
  count_device(static_cast<int64_t>(bytes));
  return buffer;
}

DeviceBuffer::~DeviceBuffer() {
  if (!data_) return;
  cudaFree(data_);
  count_device(-static_cast<int64_t>(size_));
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Status copy_to_device(void* to, const void* host, size_t bytes) {
  if (bytes == 0) return ok_status();
  PARE_CUDA_RETURN_IF_ERROR(cudaMemcpy(to, host, bytes, cudaMemcpyHostToDevice));
  return to_status(cudaStreamSynchronize(cudaStreamLegacy), "a copy to the device");
}

Status DeviceBuffer::upload(const void* host, size_t bytes, size_t offset) {
  PARE_CHECK(offset <= size_ && bytes <= size_ - offset);
  return copy_to_device(data_ + offset, host, bytes);
}

Status DeviceBuffer::download(void* host, size_t bytes, size_t offset) const {
  PARE_CHECK(offset <= size_ && bytes <= size_ - offset);
  if (bytes == 0) return ok_status();
  return to_status(cudaMemcpy(host, data_ + offset, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy from the device");
}

Status DeviceBuffer::fill(uint8_t value) {
  if (size_ == 0) return ok_status();
  PARE_CUDA_RETURN_IF_ERROR(cudaMemset(data_, value, size_));
  return to_status(cudaStreamSynchronize(cudaStreamLegacy), "a fill of device memory");
}

Expected<PinnedBuffer> PinnedBuffer::allocate(size_t bytes) {
  PinnedBuffer buffer;
  if (bytes == 0) return buffer;
  void* data = nullptr;
  if (const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocMapped); error != cudaSuccess) {
    return to_status(error, "cudaHostAlloc");
  }
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.size_ = bytes;
  pinned_bytes += static_cast<int64_t>(bytes);
  return buffer;
}

PinnedBuffer::~PinnedBuffer() {
  if (!data_) return;
  cudaFreeHost(data_);
  pinned_bytes -= static_cast<int64_t>(size_);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace pare::cuda
