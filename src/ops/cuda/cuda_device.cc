#include "ops/cuda/cuda_device.h"

#include <fmt/format.h>

#include <array>

#include "base/checked.h"
#include "kernels/cuda/card_rates.h"
#include "kernels/cuda/device_weight.h"
#include "kernels/cuda/small_linear.h"
#include "kernels/linear.h"
#include "ops/cuda/cuda_ops.h"
#include "tensor/cuda/device_memory.h"
#include "tensor/cuda/status.h"

namespace pare::ops {
namespace {

constexpr int32_t kMinMajor = 8;  // bf16 tensor cores and cp.async

Expected<AcceleratorInfo> read_info(int index) {
  cudaDeviceProp prop{};
  PARE_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&prop, index));
  AcceleratorInfo info;
  info.device = {DeviceKind::kCuda, static_cast<int8_t>(index)};
  info.name = prop.name;
  info.major = prop.major;
  info.minor = prop.minor;
  info.multiprocessors = prop.multiProcessorCount;
  info.memory_bytes = static_cast<int64_t>(prop.totalGlobalMem);
  info.l2_bytes = prop.l2CacheSize;
  PARE_CUDA_RETURN_IF_ERROR(cudaDriverGetVersion(&info.driver_version));
  PARE_CUDA_RETURN_IF_ERROR(cudaRuntimeGetVersion(&info.runtime_version));
  return info;
}

Expected<int> count_devices() {
  int n = 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaGetDeviceCount(&n));
  if (n == 0) return not_found("no CUDA device");
  return n;
}

void raise(std::atomic<size_t>& most, size_t value) {
  size_t known = most.load();
  while (value > known && !most.compare_exchange_weak(known, value)) {
  }
}

// The owner that shared memory needs: a buffer of either kind.
template <typename Buffer>
Expected<std::shared_ptr<std::byte>> share(Expected<Buffer> buffer) {
  if (!buffer.ok()) return buffer.status();
  auto owner = std::make_shared<Buffer>(std::move(*buffer));
  return std::shared_ptr<std::byte>(owner, owner->data());
}

}  // namespace

Expected<std::vector<AcceleratorInfo>> list_accelerators() {
  PARE_ASSIGN_OR_RETURN(const int n, count_devices());
  std::vector<AcceleratorInfo> all;
  for (int i = 0; i < n; ++i) {
    PARE_ASSIGN_OR_RETURN(AcceleratorInfo info, read_info(i));
    all.push_back(std::move(info));
  }
  return all;
}

Expected<std::shared_ptr<Accelerator>> open_accelerator(Device device) {
  PARE_ASSIGN_OR_RETURN(const int n, count_devices());
  if (device.index < 0 || device.index >= n) {
    return not_found(fmt::format("CUDA device {}: this machine has {}", device.index, n));
  }
  PARE_ASSIGN_OR_RETURN(AcceleratorInfo info, read_info(device.index));
  if (info.major < kMinMajor) {
    return unsupported(fmt::format("{} has compute capability {}.{}, the kernels need {}.0", info.name, info.major,
                                   info.minor, kMinMajor));
  }
  PARE_CUDA_RETURN_IF_ERROR(cudaSetDevice(device.index));
  size_t free = 0, total = 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaMemGetInfo(&free, &total));  // creates the context
  info.memory_free_bytes = static_cast<int64_t>(free);
  return std::shared_ptr<Accelerator>(std::make_shared<CudaDevice>(std::move(info)));
}

AcceleratorMemory CudaDevice::memory() const {
  const cuda::MemoryStats stats = cuda::memory_stats();
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) free = 0;
  return {stats.device_bytes, stats.device_bytes_peak, static_cast<int64_t>(free), stats.pinned_bytes};
}

size_t CudaDevice::weight_bytes(DType dtype, int64_t n, int64_t k) const {
  const size_t bytes = cuda::device_weight_bytes(dtype, n, k);
  if (bytes == 0) return 0;
  // Every weight passes here when it is placed. A launch takes at most kMaxSmallOutputs of them.
  const cuda::DeviceWeight weight{dtype, n, k, nullptr};
  const std::array<cuda::DeviceWeight, cuda::kMaxSmallOutputs> four = {weight, weight, weight, weight};
  raise(linear_workspace_bytes_, cuda::small_linear_workspace_bytes(four, cuda::kMaxSmallTokens));
  raise(dense_weight_bytes_, static_cast<size_t>(round_up(n, kRowTile) * round_up<int64_t>(k, 8)) * sizeof(uint16_t));
  return bytes;
}

void CudaDevice::pack_weight_tiles(DType dtype, const std::byte* rows, int64_t n, int64_t k, int64_t tile_begin,
                                   int64_t tile_end, std::byte* packed) const {
  cuda::pack_device_weight(dtype, rows, n, k, tile_begin, tile_end, packed);
}

Expected<std::shared_ptr<std::byte>> CudaDevice::allocate(size_t bytes) {
  return share(cuda::DeviceBuffer::allocate(bytes));
}

Expected<std::shared_ptr<std::byte>> CudaDevice::allocate_pinned(size_t bytes) {
  return share(cuda::PinnedBuffer::allocate(bytes));
}

Status CudaDevice::upload(std::byte* to, std::span<const std::byte> from) {
  return cuda::copy_to_device(to, from.data(), from.size());
}

Expected<double> CudaDevice::read_bandwidth() {
  PARE_CUDA_RETURN_IF_ERROR(cudaSetDevice(info_.device.index));
  return cuda::measure_read_rate();
}

Expected<double> CudaDevice::gemm_rate() {
  PARE_CUDA_RETURN_IF_ERROR(cudaSetDevice(info_.device.index));
  return cuda::measure_gemm_rate();
}

Expected<int64_t> CudaDevice::clock_step_ns() {
  PARE_CUDA_RETURN_IF_ERROR(cudaSetDevice(info_.device.index));
  return cuda::measure_clock_step_ns();
}

Expected<std::unique_ptr<DeviceOps>> CudaDevice::create_ops() {
  PARE_CUDA_RETURN_IF_ERROR(cudaSetDevice(info_.device.index));
  return CudaOps::create(shared_from_this());
}

}  // namespace pare::ops
