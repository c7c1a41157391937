// Limits and independence of sentence vectors; their values are compared in tests/golden.
#include "runtime/embedder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine_rig.h"

namespace pare::test {
namespace {

TEST(Embedder, ATextDoesNotDependOnTheOthers) {
  const auto model = tiny_model("bert");
  auto embedder = Embedder::create(model, 2);
  ASSERT_TRUE(embedder.ok()) << embedder.status().to_string();
  Philox rng(51);
  // More than one batch, of every length, the longest included.
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < 37; ++i) {
    const int32_t n = i == 20 ? (*embedder)->tokens_max() : 1 + static_cast<int32_t>(rng.below(40));
    texts.push_back(random_tokens(rng, n, model->model->config().vocab));
  }
  const auto all = (*embedder)->embed(texts);
  ASSERT_TRUE(all.ok()) << all.status().to_string();
  ASSERT_EQ(all->size(), texts.size());
  auto other = Embedder::create(model, 1);
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ((*all)[i].size(), static_cast<size_t>((*embedder)->dim()));
    double norm = 0;
    for (const float x : (*all)[i]) norm += double{x} * x;
    EXPECT_NEAR(norm, 1.0, 1e-5);
    EXPECT_EQ((*other)->embed(std::span(&texts[i], 1)).value()[0], (*all)[i]) << "text " << i;
  }
  EXPECT_TRUE((*embedder)->embed({}).value().empty());
}

TEST(Embedder, RefusesWhatItCannotTake) {
  EXPECT_EQ(Embedder::create(tiny_model("llama"), 1).status().code(), StatusCode::kUnsupported);
  for (const int32_t threads : {-1, 1 << 20}) {
    EXPECT_EQ(Embedder::create(tiny_model("bert"), threads).status().code(), StatusCode::kInvalidArgument);
  }
  auto embedder = std::move(Embedder::create(tiny_model("bert"), 1)).value();
  const int32_t vocab = tiny_model("bert")->model->config().vocab;
  const std::vector<std::vector<int32_t>> bad[] = {
      {{1, 2}, {}},
      {{1, 2}, std::vector<int32_t>(static_cast<size_t>(embedder->tokens_max()) + 1, 1)},
      {{1, -1}},
      {{vocab}}};
  for (const auto& texts : bad) {
    const auto refused = embedder->embed(texts);
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.status().message()), ::testing::HasSubstr("text "));
  }
  EXPECT_TRUE(embedder->embed(std::vector<std::vector<int32_t>>{{1, 2}}).ok()) << "a refusal leaves nothing behind";
}

}  // namespace
}  // namespace pare::test
