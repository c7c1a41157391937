// The table of kernels without a card: ratios and another program's times.
#include "eval/kernel_bench.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

TEST(KernelBench, ReadsAnotherProgramsTimes) {
  KernelReport report;
  report.lines = {{.group = "prefill attention", .name = "dense", .seconds = 2.0, .floor_seconds = 1.0},
                  {.group = "prefill attention", .name = "half", .seconds = 4.0, .floor_seconds = 1.0}};
  EXPECT_DOUBLE_EQ(report.lines[1].ratio(), 0.25);
  ASSERT_TRUE(read_peer_kernels(R"({"card": "any", "lines": [{"name": "half", "seconds": 3},
                                    {"name": "unknown", "seconds": 1.5}]})",
                                &report)
                  .ok());
  EXPECT_EQ(report.lines[0].peer_seconds, 0.0);
  EXPECT_EQ(report.lines[1].peer_seconds, 3.0);
  for (const char* bad : {"", "[]", "{}", R"({"lines": 5})", R"({"lines": [{"name": "half"}]})",
                          R"({"lines": [{"name": 1, "seconds": 2}]})"}) {
    EXPECT_FALSE(read_peer_kernels(bad, &report).ok()) << bad;
  }
}

}  // namespace
}  // namespace pare
