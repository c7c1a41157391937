// The kernels of sanitizer_controls.h give what they must. Run these under compute-sanitizer to see what it reports on
// correct code (docs/cuda.md, tests).
#include "sanitizer_controls.h"

#include <numeric>

#include "cuda_test.h"

namespace pare::cuda {
namespace {

constexpr int32_t kRounds = 100;  // a ring of four slots turns 25 times

class SanitizerControls : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    if (!has_control_code()) GTEST_SKIP() << "the card or the build is not Hopper's";
  }
};

// What `run` writes to `count` items.
template <typename Run>
std::vector<int32_t> written(size_t count, Run run) {
  const DeviceBuffer out = poisoned<int32_t>(count);
  EXPECT_TRUE(is_ok(run(out.as<int32_t>())));
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << cudaGetErrorString(cudaGetLastError());
  return to_host<int32_t>(out, count);
}

void expect_slots_in_order(bool relayed) {
  const auto out = written(kRounds * 32, [&](int32_t* p) { return control_mbarriers(p, kRounds, relayed, nullptr); });
  for (int32_t r = 0; r < kRounds; ++r) {
    for (int32_t l = 0; l < 32; ++l) {
      ASSERT_EQ(out[r * 32 + l], control_value(r, 31 - l) + r) << "round " << r << " lane " << l;
    }
  }
}
TEST_F(SanitizerControls, RingOverMbarriers) { expect_slots_in_order(false); }
TEST_F(SanitizerControls, RingOverMbarriersThroughAThirdWarp) { expect_slots_in_order(true); }

TEST_F(SanitizerControls, TwoOfFourWarpsAtANamedBarrier) {
  const auto out = written((kRounds + 2) * 32, [](int32_t* p) { return control_named_barrier(p, kRounds, nullptr); });
  for (int32_t l = 0; l < 32; ++l) {
    int32_t sum = 0;
    for (int32_t r = 0; r < kRounds; ++r) {
      ASSERT_EQ(out[r * 32 + l], control_value(r, 31 - (l + 1) % 32) + 1) << "round " << r << " lane " << l;
      sum += control_value(r, l);
    }
    for (const int32_t row : {kRounds, kRounds + 1}) ASSERT_EQ(out[row * 32 + l], sum) << "row " << row;
  }
}

TEST_F(SanitizerControls, MbarrierThenNamedBarrier) {
  const auto out = written(kRounds * 64, [](int32_t* p) { return control_items(p, kRounds, nullptr); });
  for (int32_t r = 0; r < kRounds; ++r) {
    for (int32_t i = 0; i < 64; ++i) ASSERT_EQ(out[r * 64 + i], control_value(r, i % 32)) << "round " << r;
  }
}

template <typename Control>
void expect_copies(Control control) {
  constexpr int32_t kItem = 4;  // int32_t of 16 bytes
  std::vector<int32_t> in(size_t{kRounds} * 32 * kItem);
  std::iota(in.begin(), in.end(), 1);
  const DeviceBuffer source = to_device(in);
  const auto out = written(in.size(), [&](int32_t* p) { return control(p, source.data(), kRounds, nullptr); });
  for (int32_t r = 0; r < kRounds; ++r) {
    for (int32_t l = 0; l < 32; ++l) {
      for (int32_t i = 0; i < kItem; ++i) {
        ASSERT_EQ(out[(r * 32 + l) * kItem + i], in[(r * 32 + 31 - l) * kItem + i]) << "round " << r << " lane " << l;
      }
    }
  }
}
TEST_F(SanitizerControls, RingOfAsyncCopies) { expect_copies(control_async_copies); }
TEST_F(SanitizerControls, RingOfBulkCopies) { expect_copies(control_bulk_copies); }

}  // namespace
}  // namespace pare::cuda
