// The interface on the models of the store that are there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "model_files.h"
#include "process.h"

namespace pare::test {
namespace {

TEST(StoreModels, Pull) {
  const std::string path = pulled("smollm2-135m-instruct");
  if (path.empty()) GTEST_SKIP() << "smollm2-135m-instruct is not in the store";
  // A model that is there is checked and not fetched again: no Python is asked.
  const nlohmann::json pull =
      pare_json({"pull", "smollm2-135m-instruct"}, {.environment = {"PARE_PYTHON=/nonexistent"}});
  EXPECT_EQ(pull["path"], path);
}

TEST(StoreModels, SmolLm2Answers) {
  if (pulled("smollm2-135m-instruct").empty()) GTEST_SKIP() << "smollm2-135m-instruct is not in the store";
  const nlohmann::json raw = pare_json({"run", "smollm2-135m-instruct", "--raw", "--max-tokens", "2", "--temperature",
                                        "0", "--logprobs", "3", "The capital of France is"});
  EXPECT_EQ(raw["prompt_ids"], nlohmann::json({504, 3575, 282, 4649, 314}));
  EXPECT_THAT(raw["text"].get<std::string>(), testing::StartsWith(" Paris"));
  const nlohmann::json chat = pare_json({"run", "smollm2-135m-instruct", "--max-tokens", "1", "Hi"});
  EXPECT_GT(chat["prompt_ids"].size(), 10u) << "the template's own words";
  EXPECT_EQ(chat["prompt_ids"][0], 1) << "<|im_start|>, parsed as the special token that it is";
}

// The claim of the issue: weights once, keys and values, and at most a quarter of the file and 64 MiB for the rest.
TEST(StoreModels, PeakMemory) {
  for (const char* name : {"smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct"}) {
    const std::string path = pulled(name);
    if (path.empty()) continue;
    const nlohmann::json bench = pare_json({"bench", name, "--prompt", "512", "--gen", "8", "--repetitions", "1"});
    const double bound = 1.25 * static_cast<double>(std::filesystem::file_size(path)) +
                         bench["kv_bytes_allocated"].get<double>() + 64 * 1024 * 1024;
    EXPECT_LE(bench["peak_rss_bytes"], bound) << name;
  }
}

TEST(StoreModels, MiniLmEmbeds) {
  if (pulled("all-minilm-l6-v2").empty()) GTEST_SKIP() << "all-minilm-l6-v2 is not in the store";
  const nlohmann::json result = pare_json(
      {"embed", "all-minilm-l6-v2", "--text", "a cat", "--text", "a kitten", "--text", "quarterly tax returns"});
  EXPECT_EQ(result["dim"], 384);
  const auto dot = [&](size_t a, size_t b) {
    double sum = 0.0;
    for (size_t i = 0; i < 384; ++i) {
      sum += result["embeddings"][a][i].get<double>() * result["embeddings"][b][i].get<double>();
    }
    return sum;
  };
  EXPECT_NEAR(dot(0, 0), 1.0, 1e-5);
  EXPECT_GT(dot(0, 1), dot(0, 2) + 0.2);
}

}  // namespace
}  // namespace pare::test
