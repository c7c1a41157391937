// Perplexity, divergence and floors against sums written out by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "../../tiny_models.h"
#include "eval/model_bench.h"
#include "eval/perplexity.h"

namespace pare {
namespace {

using test::tiny_model;

std::unique_ptr<Engine> engine_of(const std::shared_ptr<const LoadedModel>& model, const std::string& attn) {
  EngineOptions o;
  o.threads = 1;
  o.max_context = 64;
  o.max_sequences = 1;
  o.share_prefixes = false;
  o.logit_rows = 64;
  o.attn = attn;
  auto engine = Engine::create(model, o);
  EXPECT_TRUE(engine.ok()) << engine.status().to_string();
  return std::move(*engine);
}

std::vector<TokenId> some_ids(int32_t n) {
  std::vector<TokenId> ids(n);
  for (int32_t i = 0; i < n; ++i) ids[i] = (i * 37 + i * i * 11 + 5) % 250;
  return ids;
}

// Log-probabilities of the next token for every row of one prompt.
std::map<int32_t, std::vector<double>> log_probs(Engine& engine, const std::vector<TokenId>& ids) {
  std::map<int32_t, std::vector<double>> rows;
  Request request;
  request.tokens = ids;
  request.max_tokens = 1;
  request.observe_prompt = true;
  request.on_logits = [&](int32_t, int32_t row, std::span<const float> logits) {
    double sum = 0.0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    for (const float x : logits) rows[row].push_back(x - std::log(sum));
  };
  EXPECT_TRUE(engine.submit(request, {}).ok());
  EXPECT_TRUE(engine.run().ok());
  return rows;
}

TEST(Perplexity, IsTheDefinition) {
  const auto model = tiny_model("llama");
  const auto engine = engine_of(model, "dense");
  constexpr int32_t kContext = 16;
  constexpr TokenId kBos = 260;
  const std::vector<TokenId> ids = some_ids(3 * kContext + 5);  // the tail fills no context
  std::vector<double> nll;
  for (int32_t c = 0; c < 3; ++c) {
    std::vector<TokenId> chunk(ids.begin() + c * kContext, ids.begin() + (c + 1) * kContext);
    chunk[0] = kBos;
    const auto rows = log_probs(*engine, chunk);
    for (int32_t row = kContext / 2; row + 1 < kContext; ++row) nll.push_back(-rows.at(row)[chunk[row + 1]]);
  }
  const double mean = std::accumulate(nll.begin(), nll.end(), 0.0) / static_cast<double>(nll.size());
  double squares = 0.0;
  for (const double x : nll) squares += (x - mean) * (x - mean);
  const double n = static_cast<double>(nll.size());

  const auto result = perplexity(*engine, ids, kContext, 0, kBos, {});
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_EQ(result->chunks, 3);
  EXPECT_EQ(result->tokens, 3 * (kContext / 2 - 1));
  EXPECT_NEAR(result->nll_mean, mean, 1e-9);
  EXPECT_NEAR(result->perplexity, std::exp(mean), 1e-6);
  EXPECT_NEAR(result->nll_stderr, std::sqrt(squares / (n - 1) / n), 1e-9);
  // Without BOS the first token is the text's own.
  EXPECT_NE(perplexity(*engine, ids, kContext, 0, kNoToken, {})->nll_mean, result->nll_mean);
  EXPECT_EQ(perplexity(*engine, ids, kContext, 2, kBos, {})->chunks, 2);
}

TEST(Perplexity, SaysWhatIsWrongAndStopsWhenTold) {
  const auto engine = engine_of(tiny_model("llama"), "dense");
  const std::vector<TokenId> ids = some_ids(40);
  EXPECT_EQ(perplexity(*engine, ids, 3, 0, kNoToken, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(perplexity(*engine, ids, 41, 0, kNoToken, {}).status().code(), StatusCode::kInvalidArgument);
  std::vector<int64_t> done;
  const auto stopped = perplexity(*engine, ids, 8, 0, kNoToken, [&](int64_t n, int64_t total) {
    EXPECT_EQ(total, 5 * 3);
    done.push_back(n);
    return done.size() < 2;
  });
  EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled);
  EXPECT_EQ(done, (std::vector<int64_t>{3, 6}));
}

TEST(Divergence, OfAConfigurationFromItselfIsZero) {
  const auto model = tiny_model("llama");
  const auto a = engine_of(model, "dense"), b = engine_of(model, "dense");
  const auto result = divergence(*a, *b, some_ids(64), 264, 16, 0, kNoToken, {});
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_EQ(result->kl_mean, 0.0);
  EXPECT_EQ(result->kl_max, 0.0);
  EXPECT_EQ(result->top1_agreement, 1.0);
  EXPECT_EQ(result->reference_perplexity, result->candidate_perplexity);
  EXPECT_EQ(result->candidate_perplexity, perplexity(*b, some_ids(64), 16, 0, kNoToken, {})->perplexity);
}

TEST(Divergence, IsTheDefinition) {
  const auto model = tiny_model("llama");
  const auto reference = engine_of(model, "dense"), candidate = engine_of(model, "streaming(sink=1,window=3)");
  constexpr int32_t kContext = 16;
  const std::vector<TokenId> ids = some_ids(kContext);
  const auto p = log_probs(*reference, ids), q = log_probs(*candidate, ids);
  double sum = 0.0, largest = 0.0;
  for (int32_t row = kContext / 2; row + 1 < kContext; ++row) {
    double kl = 0.0;
    for (size_t v = 0; v < p.at(row).size(); ++v) kl += std::exp(p.at(row)[v]) * (p.at(row)[v] - q.at(row)[v]);
    sum += kl;
    largest = std::max(largest, kl);
  }
  const auto result = divergence(*reference, *candidate, ids, 264, kContext, 0, kNoToken, {});
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_GT(result->kl_mean, 0.0);
  EXPECT_NEAR(result->kl_mean, sum / (kContext / 2 - 1), 1e-9);
  EXPECT_NEAR(result->kl_max, largest, 1e-9);
}

TEST(Bench, Median) {
  EXPECT_EQ(median({}), 0.0);
  EXPECT_EQ(median({3.0}), 3.0);
  EXPECT_EQ(median({9.0, 1.0, 3.0}), 3.0);
  EXPECT_EQ(median({9.0, 1.0, 3.0, 5.0}), 4.0);
}

TEST(Bench, FloorCountsWhatAStepMustRead) {
  ModelConfig c;
  c.n_layers = 3;
  c.n_kv_heads = 2;
  c.head_dim = 16;
  c.window = 10;
  c.sliding = {1, 0, 1};
  BenchConfig config;
  config.depth = 7;
  config.generate = 4;
  config.parallel = 3;
  // Steps attend 8, 9, 10 and 11 positions; the windowed layers 8, 9, 10 and 10. A position is a key and a value of
  // 2 heads of 16 fp16 numbers.
  const double rows = ((8 + 9 + 10 + 11) + 2 * (8 + 9 + 10 + 10)) / 4.0;
  EXPECT_DOUBLE_EQ(decode_floor_bytes(c, 1000, config), 1000 + 3 * rows * 2 * 2 * 16 * 2);
  // Depth 0 still has the token that starts the sequence.
  config = {.prompt = 0, .generate = 1, .depth = 0, .parallel = 1};
  EXPECT_DOUBLE_EQ(decode_floor_bytes(c, 0, config), 3 * 2 * 128.0);
}

// The floor is what the engine itself counts, so that a ratio of 1 means what it says.
TEST(Bench, FloorIsWhatTheEngineCounts) {
  for (const char* name : {"llama", "gemma3"}) {
    const auto model = tiny_model(name);
    BenchConfig config{.prompt = 0, .generate = 12, .depth = 20, .parallel = 1, .threads = 1};
    auto bench = ModelBench::create(model, config);
    ASSERT_TRUE(bench.ok()) << bench.status().to_string();
    ASSERT_TRUE((*bench)->run().ok());
    const EngineStats stats = (*bench)->engine().stats();
    const auto steps = static_cast<double>(stats.decode_steps);
    const auto weights = static_cast<double>(model->model->decode_weight_bytes());
    EXPECT_DOUBLE_EQ((*bench)->floor().decode_bytes_per_step - weights,
                     static_cast<double>(stats.decode_kv_bytes) / steps)
        << name;
    // The engine counts matrices; the floor has the norms too.
    const double counted = static_cast<double>(stats.decode_weight_bytes) / steps;
    EXPECT_LE(counted, weights) << name;
    EXPECT_GE(counted, 0.98 * weights) << name;
  }
}

TEST(Bench, AttentionOperationsAreCounted) {
  ModelConfig c;
  c.n_layers = 2;
  c.n_heads = 3;
  c.head_dim = 16;
  c.window = 4;
  c.sliding = {1, 0};
  // Rows attend 1, 2, 3, 4, 4, 4 keys with the window and 1 to 6 without: 39 pairs, each two products of 16.
  EXPECT_DOUBLE_EQ(causal_attention_flop(c, 6), (18 + 21) * 2.0 * 2 * 16 * 3);
  c.window = 10;
  EXPECT_DOUBLE_EQ(causal_attention_flop(c, 6), (21 + 21) * 2.0 * 2 * 16 * 3);
}

// Results that come a step late change when tokens are seen, not how many.
TEST(Bench, SequencesDecodeTogetherWhilePromptsAreRead) {
  const auto model = tiny_model("llama");
  for (const int32_t depth : {1, 100}) {
    // Prompts of 800 tokens take two steps, in the second of which the first sequences decode.
    BenchConfig config{.prompt = 0, .generate = 10, .depth = depth, .parallel = 8, .threads = 1};
    auto bench = ModelBench::create(model, config);
    ASSERT_TRUE(bench.ok()) << bench.status().to_string();
    const auto sample = (*bench)->run();
    ASSERT_TRUE(sample.ok()) << sample.status().to_string();
    EXPECT_GT(sample->decode_tps, 0.0);
    // Ten steps with all eight, and what came while the clock stood.
    EXPECT_GE((*bench)->engine().stats().decode_rows, 80u);
    EXPECT_LE((*bench)->engine().stats().decode_rows, 8u * (10 + 5));
  }
}

TEST(Bench, PolicyThatDropsRowsLowersTheFloor) {
  const auto floor_with = [&](const std::string& kv) {
    BenchConfig config{
        .prompt = 0, .generate = 8, .depth = 200, .parallel = 1, .threads = 1, .attn = "dense", .kv = kv};
    auto bench = ModelBench::create(tiny_model("llama"), config);
    EXPECT_TRUE(bench.ok() && (*bench)->run().ok());
    return (*bench)->floor().decode_bytes_per_step;
  };
  EXPECT_LT(floor_with("streaming(sink=4,recent=64)"), floor_with("dense"));
}

}  // namespace
}  // namespace pare
