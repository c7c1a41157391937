#include "tensor/cuda/device_memory.h"

#include "cuda_test.h"

namespace pare::cuda {
namespace {

using DeviceMemoryTest = CudaTest;

TEST_F(DeviceMemoryTest, CountsWhatItHoldsAndRefusesTooMuch) {
  const MemoryStats before = memory_stats();
  {
    auto buffer = DeviceBuffer::allocate(1 << 20);
    ASSERT_TRUE(buffer.ok()) << buffer.status().to_string();
    EXPECT_EQ(memory_stats().device_bytes - before.device_bytes, 1 << 20);
    const std::vector<int> values = {3, 1, 4};
    ASSERT_TRUE(is_ok(buffer->upload(values.data(), 12, 64)));
    EXPECT_EQ(to_host<int>(*buffer, 3, 16), values);
  }
  EXPECT_EQ(memory_stats().device_bytes, before.device_bytes);

  const auto refused = DeviceBuffer::allocate(size_t{1} << 50);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  // The context lives on.
  EXPECT_TRUE(is_ok(DeviceBuffer::allocate(1 << 20)));
  sync();
}

}  // namespace
}  // namespace pare::cuda
