// Heads that keep no key channel and leave means (kv=leank(empty=mean)) while an engine runs: what may change a bit.
#include <gtest/gtest.h>

#include "../../scratch_folder.h"
#include "io/mask_file.h"
#include "moving_rows.h"

namespace pare::test {
namespace {

// A mask file in which every other head is empty and the others keep all channels; goes with its owner.
class MaskFile {
 public:
  explicit MaskFile(const std::string& model = "llama") : path_(folder_ / "mask.json") {
    const ModelConfig& c = tiny_model(model)->model->config();
    ChannelMask mask{.n_layers = c.n_layers, .n_kv_heads = c.n_kv_heads, .head_dim = c.head_dim};
    for (int32_t i = 0; i < c.n_layers * c.n_kv_heads; ++i) {
      mask.heads.emplace_back();
      if ((i / c.n_kv_heads + i % c.n_kv_heads) % 2 != 0) continue;  // gemma3: the layer without a window
      for (int32_t k = 0; k < c.head_dim; ++k) mask.heads.back().push_back({static_cast<uint16_t>(k), 1.0f});
    }
    EXPECT_TRUE(write_channel_mask(path_, mask).ok());
  }
  std::string spec(int32_t sink, const char* empty = "mean") const {
    return "leank(mask=\"" + path_.string() + "\",sink=" + std::to_string(sink) + ",recent=64,flush=64,empty=" + empty +
           ")";
  }

 private:
  ScratchFolder folder_;
  std::filesystem::path path_;
};

// Prompts that end before, at and behind a position where rows move (128, 192).
constexpr int32_t kPrompts[] = {127, 128, 129, 150};

TEST(MeanRows, WhatARowReadsFollowsFromItsPositionAlone) {
  const MaskFile mask;
  for (const int32_t sink : {0, 6, 67}) {
    SCOPED_TRACE("sink " + std::to_string(sink));
    expect_bits_of_position_alone([](uint64_t seed) { return long_answer(seed, kPrompts[seed], 90); },
                                  moving_options(mask.spec(sink)));
  }
}

TEST(MeanRows, ForksAndSharedPrefixesReadTheSameMeans) {
  const MaskFile mask;
  Request request = long_answer(5, 150, 60);
  request.samples = 3;
  request.sampling.temperature = 1.0f;
  const auto engine = make_engine(moving_options(mask.spec(6)));
  const auto first = submit(*engine, request);
  ASSERT_TRUE(engine->run().ok());
  const auto again = submit(*engine, request);  // the prompt's whole rows come from the prefix index
  ASSERT_TRUE(engine->run().ok());
  EXPECT_GT(engine->stats().prefix_hit_rows, 0);
  for (size_t s = 0; s < 3; ++s) {
    EXPECT_EQ((*first)[s].tokens, (*again)[s].tokens);
    // The adopted rows' logits are not computed again; those of the answer are.
    for (const auto& [position, hash] : (*again)[s].rows) EXPECT_EQ(hash, (*first)[s].rows.at(position)) << position;
  }
  request.samples = 1;
  EXPECT_EQ((*first)[0].rows, run_alone(request, moving_options(mask.spec(6)))[0].rows);
  expect_idle(*engine);
}

// Until rows move, both variants are dense; then they differ, and "drop" is the default.
TEST(MeanRows, VariantsDifferOnceRowsHaveMoved) {
  for (const char* model : {"llama", "qwen2", "gemma3"}) {
    SCOPED_TRACE(model);
    const MaskFile mask(model);
    const Request request = long_answer(7, 120, 60);
    const auto run = [&](const std::string& kv) { return run_alone(request, moving_options(kv), tiny_model(model)); };
    const Answers dense = run("dense"), mean = run(mask.spec(4)), drop = run(mask.spec(4, "drop"));
    for (const auto& [position, hash] : dense[0].rows) {
      if (position >= 128) continue;
      EXPECT_EQ(mean[0].rows.at(position), hash);
      EXPECT_EQ(drop[0].rows.at(position), hash);
    }
    EXPECT_NE(mean[0].rows.at(128), dense[0].rows.at(128));
    EXPECT_NE(mean[0].rows.at(128), drop[0].rows.at(128));
    const std::string by_default = mask.spec(4, "drop");
    EXPECT_EQ(run(by_default.substr(0, by_default.rfind(",empty")) + ")")[0].rows, drop[0].rows);
  }
}

}  // namespace
}  // namespace pare::test
