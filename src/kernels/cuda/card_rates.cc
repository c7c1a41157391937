#include "kernels/cuda/card_rates.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "kernels/cuda/gemm.h"
#include "tensor/cuda/device_memory.h"
#include "tensor/cuda/status.h"
#include "tensor/cuda/stopwatch.h"

namespace pare::cuda {
namespace {

constexpr int kRepeats = 20;
// Some 40 times the largest second-level cache in sight, or what is free down to 5 times.
constexpr size_t kLargest = size_t{2} << 30, kSmallest = size_t{256} << 20;
constexpr int64_t kGemmDim = 8192;

// The largest of kLargest, kLargest / 2, ... that `count` buffers can have each.
Expected<std::vector<DeviceBuffer>> large_buffers(int count) {
  for (size_t bytes = kLargest;; bytes /= 2) {
    std::vector<DeviceBuffer> buffers;
    Status status;
    for (int i = 0; i < count && status.ok(); ++i) {
      auto buffer = DeviceBuffer::allocate(bytes);
      status = buffer.status();
      if (status.ok()) status = buffer->fill(static_cast<uint8_t>(i + 1));
      if (status.ok()) buffers.push_back(std::move(*buffer));
    }
    if (status.ok()) return Expected<std::vector<DeviceBuffer>>(std::move(buffers));
    if (bytes <= kSmallest) return status;
  }
}

}  // namespace

Expected<DeviceBuffer> random_bf16(int64_t items) {
  std::vector<uint16_t> some(static_cast<size_t>(std::min<int64_t>(items, 1'000'003)));  // a prime: rows differ
  Philox random(1);
  for (uint16_t& x : some) x = float_to_bfloat(random.normal());
  const size_t bytes = static_cast<size_t>(items) * sizeof(uint16_t);
  PARE_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::allocate(bytes));
  PARE_RETURN_IF_ERROR(buffer.upload(some.data(), some.size() * sizeof(uint16_t)));
  PARE_RETURN_IF_ERROR(repeat_to_end(buffer, some.size() * sizeof(uint16_t)));
  return buffer;
}

Status repeat_to_end(DeviceBuffer& buffer, size_t have) {
  for (; have < buffer.size(); have *= 2) {
    PARE_CUDA_RETURN_IF_ERROR(cudaMemcpy(buffer.data() + have, buffer.data(), std::min(have, buffer.size() - have),
                                         cudaMemcpyDeviceToDevice));
  }
  return ok_status();
}

Expected<double> measure_read_rate() {
  PARE_ASSIGN_OR_RETURN(const auto data, large_buffers(1));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer sink, DeviceBuffer::allocate(sizeof(uint32_t)));
  PARE_ASSIGN_OR_RETURN(Stopwatch watch, Stopwatch::create());
  PARE_ASSIGN_OR_RETURN(const double seconds, watch.median_seconds(kRepeats, [&] {
    return read_all(data[0].data(), data[0].size(), sink.as<uint32_t>(), watch.stream());
  }));
  return static_cast<double>(data[0].size()) / seconds;
}

Expected<double> measure_copy_rate() {
  PARE_ASSIGN_OR_RETURN(const auto data, large_buffers(2));
  PARE_ASSIGN_OR_RETURN(Stopwatch watch, Stopwatch::create());
  PARE_ASSIGN_OR_RETURN(const double seconds, watch.median_seconds(kRepeats, [&] {
    return to_status(
        cudaMemcpyAsync(data[0].data(), data[1].data(), data[0].size(), cudaMemcpyDeviceToDevice, watch.stream()),
        "cudaMemcpyAsync");
  }));
  return 2.0 * static_cast<double>(data[0].size()) / seconds;
}

Expected<double> measure_gemm_rate() {
  constexpr int64_t kItems = kGemmDim * kGemmDim;
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer x, random_bf16(kItems));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer w, random_bf16(kItems));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer y, DeviceBuffer::allocate(kItems * sizeof(uint16_t)));
  PARE_ASSIGN_OR_RETURN(Gemm gemm, Gemm::create());
  PARE_ASSIGN_OR_RETURN(Stopwatch watch, Stopwatch::create());
  GemmCall call;
  call.t = call.n = call.k = call.ld_x = call.ld_w = call.ld_y = kGemmDim;
  call.x = x.data();
  call.w = w.data();
  call.y = y.data();
  call.y_type = DType::BF16;
  PARE_ASSIGN_OR_RETURN(const double seconds,
                        watch.median_seconds(kRepeats, [&] { return gemm.run(call, watch.stream()); }));
  return 2.0 * static_cast<double>(kItems) * static_cast<double>(kGemmDim) / seconds;
}

Expected<int64_t> measure_clock_step_ns() {
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer smallest, DeviceBuffer::allocate(sizeof(uint64_t)));
  PARE_RETURN_IF_ERROR(read_clock(smallest.as<uint64_t>(), nullptr));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceSynchronize());
  uint64_t ns = 0;
  PARE_RETURN_IF_ERROR(smallest.download(&ns, sizeof(ns)));
  if (ns == 0) return internal_error("CUDA: the card's clock does not move");
  return static_cast<int64_t>(ns);
}

}  // namespace pare::cuda
