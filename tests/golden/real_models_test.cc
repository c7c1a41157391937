// The real models against llama.cpp and against transformers (docs/references.md). A model that is not in the store is
// skipped by name; `pare pull NAME` or PARE_TEST_MODELS=all ./test.sh brings it.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "eval/perplexity.h"
#include "io/store.h"
#include "pare/engine.h"
#include "runtime/embedder.h"
#include "runtime/loaded_model.h"

namespace pare {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(PARE_SOURCE_DIR) / "tests/data";

nlohmann::json read_json(const fs::path& path) {
  nlohmann::json json;
  std::ifstream(path) >> json;
  return json;
}

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(in)), {});
}

class RealDecoder : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto path = resolve_model(GetParam());
    if (!path.ok()) GTEST_SKIP() << GetParam() << " is not in the store";
    ThreadPool pool(usable_cpus());
    auto loaded = load(*path, &pool);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    model_ = *loaded;
    reference_ = read_json(kData / "reference" / (std::string(GetParam()) + ".json"));
    exact_ = read_json(kData / "reference" / (std::string(GetParam()) + ".dequantized.json"));
  }

  std::unique_ptr<Engine> make_engine(int context) {
    EngineOptions options;
    options.max_context = context;
    options.max_sequences = 1;
    options.logit_rows = 128;
    auto engine = Engine::create(model_, options);
    EXPECT_TRUE(engine.ok()) << engine.status().to_string();
    return std::move(*engine);
  }

  // Log-probability of ids[i + 1] given ids[0..i], for every i.
  std::vector<double> score(const std::vector<int32_t>& ids) {
    const auto engine = make_engine(static_cast<int>(ids.size()));
    std::vector<double> scores(ids.size() - 1);
    Request request;
    request.tokens = ids;
    request.max_tokens = 1;
    request.observe_prompt = true;
    request.on_logits = [&](int32_t, int32_t position, std::span<const float> logits) {
      if (position + 1 == static_cast<int32_t>(ids.size())) return;
      const double max = *std::max_element(logits.begin(), logits.end());
      double sum = 0.0;
      for (float x : logits) sum += std::exp(x - max);
      scores[position] = logits[ids[position + 1]] - max - std::log(sum);
    };
    EXPECT_TRUE(engine->submit(std::move(request), {}).ok());
    EXPECT_TRUE(engine->run().ok());
    return scores;
  }

  std::shared_ptr<const LoadedModel> model_;
  nlohmann::json reference_, exact_;
};

TEST_P(RealDecoder, ScoresMatchExactArithmetic) {
  const auto ids = exact_["score"]["ids"].get<std::vector<int32_t>>();
  const auto expected = exact_["score"]["logprobs"].get<std::vector<double>>();
  const std::vector<double> scores = score(ids);
  ASSERT_EQ(scores.size(), expected.size());
  // int8 activations move log-probabilities: llama.cpp, which rounds the same way, lies 0.04 to 0.09 from exact on
  // average and up to 0.34 at one place. The first prediction is left out: it is 4.6 nats off there in one model.
  double sum = 0.0, worst = 0.0;
  for (size_t i = 1; i < scores.size(); ++i) {
    sum += std::fabs(scores[i] - expected[i]);
    worst = std::max(worst, std::fabs(scores[i] - expected[i]));
  }
  EXPECT_LE(sum / static_cast<double>(scores.size() - 1), 0.09);
  EXPECT_LE(worst, 0.6);
}

TEST_P(RealDecoder, PerplexityMatches) {
  if (std::string(GetParam()) == "qwen2.5-coder-1.5b-instruct" && usable_cpus() < 8)
    GTEST_SKIP() << "minutes on few cores";
  const std::string text = read_text(kData / "text/pare_sample.txt");
  EncodeOptions encode;
  encode.parse_special = false;
  const auto ids = model_->tokenizer->encode(text, encode);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, reference_["tokenize"]["sample_text"].get<std::vector<int32_t>>());
  const TokenId bos = ids->front() == model_->tokenizer->bos() ? ids->front() : kNoToken;
  const auto engine = make_engine(512);
  const auto result = perplexity(*engine, *ids, 512, 0, bos, {});
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  const double exact = exact_["perplexity"]["perplexity"];
  EXPECT_NEAR(result->perplexity / exact, 1.0, 0.005);
}

TEST_P(RealDecoder, GreedyFollowsLlamaCpp) {
  // Along llama.cpp's own tokens: where the likeliest differs, its recording must have had a close second.
  int steps = 0, different = 0;
  double widest = 0.0;
  for (const auto& run : reference_["greedy"]) {
    auto ids = run["prompt_ids"].get<std::vector<int32_t>>();
    const size_t prompt = ids.size();
    const auto tokens = run["tokens"].get<std::vector<int32_t>>();
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    const auto engine = make_engine(static_cast<int>(ids.size()));
    Request request;
    request.tokens = ids;
    request.max_tokens = 1;
    request.observe_prompt = true;
    request.on_logits = [&](int32_t, int32_t position, std::span<const float> logits) {
      const size_t step = static_cast<size_t>(position) + 1 - prompt;
      if (static_cast<size_t>(position) + 1 < prompt || step >= tokens.size()) return;
      ++steps;
      const int32_t best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      if (best == tokens[step]) return;
      ++different;
      double gap = 100.0;  // further down than the five that were recorded
      const auto& top = run["top"][step];
      for (const auto& entry : top) {
        if (entry[0] == best) gap = top[0][1].get<double>() - entry[1].get<double>();
      }
      widest = std::max(widest, gap);
    };
    ASSERT_TRUE(engine->submit(std::move(request), {}).ok());
    ASSERT_TRUE(engine->run().ok());
    if (usable_cpus() < 8 && steps > 300) break;  // the first prompts say it; the whole list where there are cores
  }
  RecordProperty("steps", steps);
  RecordProperty("different", different);
  EXPECT_LE(different, steps / 20);
  // Either side's log-probability of a token lies up to 0.34 from exact (docs/references.md, the largest over the four
  // models), and two tokens swap when the four errors add up.
  EXPECT_LE(widest, 4 * 0.34);
}

INSTANTIATE_TEST_SUITE_P(All, RealDecoder,
                         testing::Values("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct",
                                         "qwen2.5-coder-1.5b-instruct"),
                         [](const auto& p) {
                           std::string name = p.param;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

TEST(RealEncoder, MiniLmMatchesItsPublishedImplementation) {
  const auto path = resolve_model("all-minilm-l6-v2");
  if (!path.ok()) GTEST_SKIP() << "all-minilm-l6-v2 is not in the store";
  ThreadPool pool(usable_cpus());
  const auto model = load(*path, &pool);
  ASSERT_TRUE(model.ok()) << model.status().to_string();
  auto embedder = Embedder::create(*model, 0);
  ASSERT_TRUE(embedder.ok()) << embedder.status().to_string();
  const auto reference = read_json(kData / "reference/all-minilm-l6-v2.json");
  for (const auto& sentence : reference["sentences"]) {
    const auto ids = (*model)->tokenizer->encode(sentence["text"].get<std::string>(), {});
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, sentence["ids"].get<std::vector<int32_t>>());
    const auto vector = (*embedder)->embed(std::span(&*ids, 1));
    ASSERT_TRUE(vector.ok());
    const auto expected = sentence["embedding"].get<std::vector<float>>();
    double dot = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) dot += double{(*vector)[0][i]} * expected[i];
    EXPECT_NEAR(dot, 1.0, 1e-5);
  }
}

}  // namespace
}  // namespace pare
