// Heads that keep no key channel and leave means (kv=leank(empty=mean)) while an engine runs: what may change a bit.
#include <gtest/gtest.h>

#include "engine_rig.h"
#include "io/mask_file.h"

namespace pare::test {
namespace {

// A mask file in which every other head is empty and the others keep all channels; removed with its owner.
class MaskFile {
 public:
  explicit MaskFile(const std::string& model = "llama")
      : path_(std::filesystem::path(::testing::TempDir()) / ("pare_mean_rows_" + model + ".json")) {
    const ModelConfig& c = tiny_model(model)->model->config();
    ChannelMask mask{.n_layers = c.n_layers, .n_kv_heads = c.n_kv_heads, .head_dim = c.head_dim};
    for (int32_t i = 0; i < c.n_layers * c.n_kv_heads; ++i) {
      mask.heads.emplace_back();
      if ((i / c.n_kv_heads + i % c.n_kv_heads) % 2 != 0) continue;  // gemma3: the layer without a window
      for (int32_t k = 0; k < c.head_dim; ++k) mask.heads.back().push_back({static_cast<uint16_t>(k), 1.0f});
    }
    EXPECT_TRUE(write_channel_mask(path_, mask).ok());
  }
  ~MaskFile() { std::filesystem::remove(path_); }
  std::string spec(int32_t sink, const char* empty = "mean") const {
    return "leank(mask=\"" + path_.string() + "\",sink=" + std::to_string(sink) + ",recent=64,flush=64,empty=" + empty +
           ")";
  }

 private:
  std::filesystem::path path_;
};

EngineOptions options_of(const std::string& kv, int32_t max_sequences = 4) {
  EngineOptions options;
  options.threads = 2;
  options.max_context = 256;
  options.max_sequences = max_sequences;
  options.kv = kv;
  return options;
}

Request long_answer(uint64_t seed, int32_t prompt, int32_t answer) {
  Philox rng(seed);
  Request request;
  request.tokens = random_tokens(rng, prompt);
  request.max_tokens = answer;
  request.ignore_eos = true;
  return request;
}

// Prompts that end before, at and behind a position where rows move (128, 192).
constexpr int32_t kPrompts[] = {127, 128, 129, 150};

// Alone, beside others, in chunks of any size, pre-empted and replayed, on any number of threads: the same bits.
TEST(MeanRows, WhatARowReadsFollowsFromItsPositionAlone) {
  const MaskFile mask;
  for (const int32_t sink : {0, 6, 67}) {
    const auto request = [](uint64_t seed) { return long_answer(seed, kPrompts[seed], 90); };
    std::vector<Answers> expected;
    for (uint64_t seed = 0; seed < 4; ++seed)
      expected.push_back(run_alone(request(seed), options_of(mask.spec(sink), 1)));
    for (const int32_t step_rows : {7, 64, 512}) {
      for (const bool scarce : {false, true}) {
        EngineOptions together = options_of(mask.spec(sink));
        together.step_rows = step_rows;
        together.kv_rows = 1024;
        together.threads = step_rows == 7 ? 1 : 2;
        const auto engine = make_engine(together);
        std::vector<std::shared_ptr<Answers>> answers;
        for (uint64_t seed = 0; seed < 4; ++seed) answers.push_back(submit(*engine, request(seed)));
        for (int64_t step = 0;; ++step) {
          KvStore& store = EngineTestPeer::store(*engine);
          if (scarce && step % 19 == 0 && store.stats().sequences == 4) store.deny_reserve_after(2 + step % 2);
          const auto more = engine->step();
          ASSERT_TRUE(more.ok());
          if (!*more) break;
          ASSERT_TRUE(store.check().ok()) << store.check().message();
        }
        for (uint64_t seed = 0; seed < 4; ++seed) {
          EXPECT_EQ((*answers[seed])[0].rows, expected[seed][0].rows) << "sink " << sink << ", step " << step_rows;
          EXPECT_EQ((*answers[seed])[0].tokens, expected[seed][0].tokens);
        }
        EXPECT_EQ(engine->stats().preemptions > 0, scarce);
        EXPECT_GT(engine->stats().kv_pages_moved, 0);
        expect_idle(*engine);
      }
    }
  }
}

TEST(MeanRows, ForksAndSharedPrefixesReadTheSameMeans) {
  const MaskFile mask;
  Request request = long_answer(5, 150, 60);
  request.samples = 3;
  request.sampling.temperature = 1.0f;
  const auto engine = make_engine(options_of(mask.spec(6)));
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
  EXPECT_EQ((*first)[0].rows, run_alone(request, options_of(mask.spec(6)))[0].rows);
  expect_idle(*engine);
}

// Until rows move, both variants are dense; then they differ, and "drop" is the default.
TEST(MeanRows, VariantsDifferOnceRowsHaveMoved) {
  for (const char* model : {"llama", "qwen2", "gemma3"}) {
    SCOPED_TRACE(model);
    const MaskFile mask(model);
    const Request request = long_answer(7, 120, 60);
    const auto run = [&](const std::string& kv) { return run_alone(request, options_of(kv), tiny_model(model)); };
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
