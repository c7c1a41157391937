// What every CUDA test needs: a device or a skip, buffers filled from host vectors, and poisoned outputs.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <vector>

#include "base/half.h"
#include "pare/status.h"
#include "tensor/cuda/device_memory.h"
#include "tensor/cuda/status.h"

namespace pare::cuda {

// EXPECT_TRUE(is_ok(call)) prints the error and not only that there was one.
inline ::testing::AssertionResult is_ok(const Status& status) {
  if (status.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << status.to_string();
}
template <typename T>
::testing::AssertionResult is_ok(const Expected<T>& result) {
  return is_ok(result.status());
}
// The value; without one the test fails with the error and throws.
template <typename T>
T value_of(Expected<T> result) {
  EXPECT_TRUE(is_ok(result));
  return std::move(result).value();
}

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) GTEST_SKIP() << "no CUDA device";
  }
  // Waits for the device; the first error of any launch fails the test.
  static void sync() { ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError()); }
};

template <typename T>
DeviceBuffer to_device(std::span<const T> host) {
  auto buffer = DeviceBuffer::allocate(std::max<size_t>(1, host.size_bytes()));
  EXPECT_TRUE(buffer.ok()) << buffer.status().to_string();
  EXPECT_TRUE(is_ok(buffer->upload(host.data(), host.size_bytes())));
  return std::move(*buffer);
}
template <typename T>
DeviceBuffer to_device(const std::vector<T>& host) {
  return to_device(std::span<const T>(host));
}

// `count` items of T, every byte 0xff: NaN as a float of any width, so that what was not written shows.
template <typename T>
DeviceBuffer poisoned(size_t count) {
  auto buffer = DeviceBuffer::allocate(std::max<size_t>(1, count * sizeof(T)));
  EXPECT_TRUE(buffer.ok()) << buffer.status().to_string();
  EXPECT_TRUE(is_ok(buffer->fill(0xff)));
  return std::move(*buffer);
}

template <typename T>
std::vector<T> to_host(const DeviceBuffer& buffer, size_t count, size_t first = 0) {
  std::vector<T> host(count);
  EXPECT_TRUE(is_ok(buffer.download(host.data(), count * sizeof(T), first * sizeof(T))));
  return host;
}

// fp32 rounded to bf16 and back: what a kernel that reads bf16 really sees.
inline std::vector<uint16_t> to_bf16(std::span<const float> x) {
  std::vector<uint16_t> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = float_to_bfloat(x[i]);
  return out;
}
inline std::vector<float> from_bf16(std::span<const uint16_t> x) {
  std::vector<float> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = bfloat_to_float(x[i]);
  return out;
}

}  // namespace pare::cuda
