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

// Layer 0 keeps half of each head's channels, of layer 1 one head is empty, of layer 2 all are.
class Files final : public PolicyFiles {
 public:
  Expected<ChannelMask> channel_mask(const std::string&) override {
    ChannelMask mask{.n_layers = 3, .n_kv_heads = 2, .head_dim = 64};
    mask.heads.resize(6);
    for (const size_t kept : {0, 1, 3}) {
      for (uint16_t c = 0; c < 32; ++c) mask.heads[kept].push_back({c, 1.0f});
    }
    return mask;
  }
  Expected<LayerRanking> layer_ranking(const std::string&) override { return unsupported("no rankings"); }
};

TEST(KvBench, EstimatedRowsCount) {
  Files files;
  int64_t used[2] = {}, read[2] = {};
  for (const int mean : {0, 1}) {
    for (const char* quant : {"+quant(k=4,v=8,recent=64,flush=64)", ""}) {
      const char* empty = mean != 0 ? ",empty=mean" : "";
      KvBenchConfig config = small_config(std::string("leank(mask=m,sink=70,recent=64,flush=64") + empty + ")" + quant);
      config.files = &files;
      const auto report = bench_kv(config);
      ASSERT_TRUE(report.ok()) << report.status().to_string();
      for (const KvBenchLine& line : report->lines) {
        EXPECT_EQ(line.policy.bytes_used, line.policy.bytes_by_formula) << config.kv << ", " << line.length << " rows";
        used[mean] = line.policy.bytes_used;
        read[mean] = static_cast<int64_t>(line.policy.bytes_read);
      }
    }
  }
  // 1100 rows, two sequences, three empty heads: 1024 rows have moved, pages of rows [64, 1024), rows [70, 1024).
  EXPECT_EQ(used[1] - used[0], 2 * 3 * (1024 - 64) / 4 * (64 * 2 + 4));
  EXPECT_EQ(read[1] - read[0], 2 * 3 * (1024 / 4 - 70 / 4) * (64 * 2 + 4));
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
