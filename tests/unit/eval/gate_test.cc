#include "eval/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "../../scratch_folder.h"
#include "base/limits.h"
#include "io/mask_file.h"
#include "io/ranking_file.h"

namespace pare {
namespace {

using ::testing::HasSubstr;

TEST(Crossover, IsTheLengthFromWhichOnNothingIsSlower) {
  const auto crossover = [](std::vector<GatePoint> points) { return find_crossover(points, 0.02); };
  EXPECT_EQ(crossover({{1024, 1.5}, {2048, 1.03}, {4096, 1.02}, {8192, 0.7}}), 4096);
  EXPECT_EQ(crossover({{8192, 0.7}, {1024, 1.5}, {4096, 1.02}, {2048, 1.03}}), 4096) << "in any order";
  EXPECT_EQ(crossover({{1024, 0.9}, {2048, 1.021}, {4096, 1.0}}), 4096)
      << "a length that pays before one that does not";
  EXPECT_EQ(crossover({{1024, 0.9}, {2048, 0.8}}), 1024);
  EXPECT_EQ(crossover({{1024, 0.9}, {2048, 1.3}}), std::nullopt) << "the longest does not pay";
  EXPECT_EQ(crossover({{1024, 0.9}, {2048, 0.9}, {2048, 1.3}}), std::nullopt) << "measured twice";
  EXPECT_EQ(crossover({}), std::nullopt);
  EXPECT_EQ(crossover({{1024, std::nan("")}}), std::nullopt);
  EXPECT_EQ(gate_verdict(1.0, 0.02), "pays");
  EXPECT_EQ(gate_verdict(1.02, 0.02), "even");
  EXPECT_EQ(gate_verdict(1.021, 0.02), "slower");
}

class GateFiles : public ::testing::Test {
 protected:
  test::ScratchFolder folder_;
  const std::filesystem::path path_ = folder_ / "gate.json";
};

TEST_F(GateFiles, WithoutACrossoverThePolicyIsOff) {
  const std::vector<GatePoint> slower = {{1024, 1.5}, {2048, 1.125}};
  const MeasuredGate gate = make_gate("cpu-avx2", slower, kCpuAllowance, "a bench");
  EXPECT_EQ(gate.min_tokens, kMaxContext);
  EXPECT_EQ(gate.provenance, "a bench; allowance 5 %; time over dense, 1024: 1.500, 2048: 1.125");
}

TEST_F(GateFiles, MasksKeepEverythingElse) {
  ChannelMask mask{.n_layers = 1, .n_kv_heads = 2, .head_dim = 16, .heads = {{}, {}}};
  for (uint16_t c = 0; c < 16; ++c) mask.heads[1].push_back({c, 0.5f});
  mask.model_hash = 77;
  mask.provenance = "first\nsecond";
  ASSERT_TRUE(write_channel_mask(path_, mask).ok());
  ASSERT_TRUE(write_mask_gate(path_, {"cuda-sm90", 8192, "one"}).ok());
  ASSERT_TRUE(write_mask_gate(path_, {"cpu-avx2", 2048, "two"}).ok());
  ASSERT_TRUE(write_mask_gate(path_, {"cuda-sm90", 4096, "three"}).ok());
  const auto read = read_channel_mask(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->min_tokens, (LengthGates{{"cuda-sm90", 4096}, {"cpu-avx2", 2048}}));
  EXPECT_EQ(read->provenance, "first\nsecond\nmin_tokens of cpu-avx2: two\nmin_tokens of cuda-sm90: three");
  EXPECT_EQ(read->model_hash, 77u);
  EXPECT_EQ(read->heads[1][3].alpha, 0.5f);
  EXPECT_EQ(write_mask_gate(path_, {"H100", 1, ""}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(read_channel_mask(path_)->min_tokens, read->min_tokens) << "refused: the file stays";
}

TEST_F(GateFiles, RankingsKeepEverythingElse) {
  LayerRanking ranking{.layers = {1, 0}, .recommended = 1, .min_tokens = {{"cpu-avx2", 648}}};
  ranking.model_hash = 77;
  ranking.provenance = R"({"seed":3})";
  ASSERT_TRUE(write_ranking_file(path_, ranking).ok());
  ASSERT_TRUE(write_ranking_gate(path_, {"cpu-avx2", 2048, "one"}).ok());
  ASSERT_TRUE(write_ranking_gate(path_, {"cuda-sm90", 1024, "two"}).ok());
  const auto read = read_ranking_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->min_tokens, (LengthGates{{"cpu-avx2", 2048}, {"cuda-sm90", 1024}}));
  EXPECT_EQ(read->provenance, R"({"seed":3,"min_tokens_measured":{"cpu-avx2":"one","cuda-sm90":"two"}})");
  EXPECT_EQ(read->layers, ranking.layers);
  EXPECT_EQ(read->recommended, 1);
  EXPECT_EQ(read->model_hash, 77u);
}

TEST_F(GateFiles, WhatIsNoSuchFileIsRefusedByName) {
  for (const char* text : {"", "{}", "PK no mask"}) {
    std::ofstream(path_) << text;
    for (const Status& status : {write_mask_gate(path_, {"cpu", 1, ""}), write_ranking_gate(path_, {"cpu", 1, ""})}) {
      EXPECT_FALSE(status.ok()) << text;
      EXPECT_THAT(std::string(status.message()), HasSubstr(path_.string()));
    }
  }
  EXPECT_THAT(std::string(write_mask_gate(path_, {"cpu", 1, ""}).message()), HasSubstr(".pth mask"));
  std::filesystem::remove(path_);
  EXPECT_FALSE(write_mask_gate(path_, {"cpu", 1, ""}).ok());
  EXPECT_FALSE(std::filesystem::exists(path_)) << "none is made";
}

}  // namespace
}  // namespace pare
