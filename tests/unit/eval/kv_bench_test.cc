#include "eval/kv_bench.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

KvBenchConfig small_config(const std::string& kv) {
  KvBenchConfig config;
  config.n_layers = 3;
  config.n_heads = 6;
  config.n_kv_heads = 2;
  config.head_dim = 64;
  config.kv = kv;
  config.lengths = {300, 1100};
  config.batch = 2;
  config.repetitions = 3;
  return config;
}

TEST(KvBench, BytesAreThoseOfTheFormula) {
  for (const char* kv : {"dense", "leank(sink=4,recent=64,flush=64)", "quant(k=4,v=8)", "leank+quant(k=2,v=2)"}) {
    const auto report = bench_kv(small_config(kv));
    ASSERT_TRUE(report.ok()) << report.status().to_string();
    ASSERT_EQ(report->lines.size(), 2u);
    for (const KvBenchLine& line : report->lines) {
      EXPECT_EQ(line.policy.bytes_used, line.policy.bytes_by_formula) << kv << ", " << line.length << " rows";
      EXPECT_EQ(line.dense.bytes_used, line.dense.bytes_by_formula);
      EXPECT_GE(line.policy.bytes_allocated, line.policy.bytes_used);
      EXPECT_GT(line.policy.seconds, 0.0);
      // Every row's K and V of every layer, read once.
      EXPECT_EQ(line.dense.bytes_read, uint64_t{2} * (line.length + 1) * 2 * 2 * 64 * 2 * 3);
    }
  }
}

TEST(KvBench, PrunedAndQuantizedRowsAreFewerBytes) {
  const auto quant = bench_kv(small_config("quant(k=4,v=4)"));
  ASSERT_TRUE(quant.ok()) << quant.status().to_string();
  const KvBenchLine& line = quant->lines[1];
  EXPECT_LT(line.policy.bytes_read, line.dense.bytes_read / 2);
  EXPECT_LT(line.policy.bytes_used, line.dense.bytes_used / 2);
  // Nothing has moved after 300 rows of which 768 are recent.
  const auto leank = bench_kv(small_config("leank"));
  ASSERT_TRUE(leank.ok());
  EXPECT_EQ(leank->lines[0].policy.bytes_used, leank->lines[0].dense.bytes_used);
}

TEST(KvBench, SpecsAreChecked) {
  EXPECT_EQ(bench_kv(small_config("leank(mask=a.json)")).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(bench_kv(small_config("quant(k=5)")).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace pare
