// Ranking of layers, pictures of attention and the bench of a selector, on tiny models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../../tiny_models.h"
#include "attention/selector.h"
#include "base/rng.h"
#include "eval/attention_bench.h"
#include "eval/attention_map.h"
#include "eval/tune_triangle.h"
#include "pare/engine.h"

namespace pare {
namespace {

using ::testing::HasSubstr;

using test::tiny_model;

std::vector<TokenId> some_ids(int32_t n, uint64_t seed) {
  Philox rng(seed);
  std::vector<TokenId> ids(n);
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(250));
  return ids;
}

TuneOptions small_options() {
  TuneOptions o;
  o.sink = 1;
  o.window = 8;
  o.last = 6;
  o.tokens = 80;
  o.answer = 3;
  o.threads = 1;
  return o;
}

// Rows of log-probabilities, by an engine of this test's own.
std::vector<std::vector<double>> log_probs(const std::shared_ptr<const LoadedModel>& model, const TuneSample& sample,
                                           const std::string& attn) {
  EngineOptions o;
  o.threads = 1;
  o.max_sequences = 1;
  o.attn = attn;
  auto engine = Engine::create(model, o);
  EXPECT_TRUE(engine.ok()) << engine.status().to_string();
  Request r;
  r.tokens = sample.tokens;
  r.max_tokens = 1;
  r.observe_prompt = r.observe_sparse = true;
  const int32_t first = static_cast<int32_t>(sample.tokens.size()) - sample.answer;
  std::vector<std::vector<double>> rows;
  r.on_logits = [&](int32_t, int32_t row, std::span<const float> logits) {
    if (row < first) return;
    double sum = 0.0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    rows.emplace_back();
    for (const float x : logits) rows.back().push_back(x - std::log(sum));
  };
  EXPECT_TRUE((*engine)->submit(r, {}).ok());
  EXPECT_TRUE((*engine)->run().ok());
  return rows;
}

TEST(TuneTriangle, RanksByTheDivergenceOfTheAnswer) {
  const auto model = tiny_model("llama");
  const TuneOptions o = small_options();
  std::vector<TuneSample> samples;
  for (uint64_t s = 0; s < 3; ++s) samples.push_back({some_ids(82, s + 1), 3, "text"});
  int64_t last_done = 0, total = 0;
  const auto tuning = tune_triangle(model, samples, o, [&](int64_t done, int64_t all) {
    EXPECT_GE(done, last_done);
    last_done = done;
    total = all;
    return true;
  });
  ASSERT_TRUE(tuning.ok()) << tuning.status().to_string();
  EXPECT_LE(last_done, total);
  const int32_t n = model->model->config().n_layers;
  ASSERT_EQ(tuning->ranking.layers.size(), static_cast<size_t>(n));
  ASSERT_EQ(tuning->layer_kl.size(), static_cast<size_t>(n));
  for (size_t i = 0; i < tuning->layer_kl.size(); ++i) {
    const auto [layer, kl] = tuning->layer_kl[i];
    EXPECT_EQ(layer, tuning->ranking.layers[i]);
    if (i > 0) {
      EXPECT_GE(kl, tuning->layer_kl[i - 1].second);
    }
    // last + answer - 1 = 8 rows of the whole are dense.
    double sum = 0.0;
    for (const TuneSample& s : samples) {
      const auto p = log_probs(model, s, "dense");
      const auto q = log_probs(model, s, "triangle(sink=1,window=8,last=8,layers=" + std::to_string(layer) + ")+dense");
      ASSERT_EQ(p.size(), 3u);
      for (size_t r = 0; r < p.size(); ++r) {
        for (size_t v = 0; v < p[r].size(); ++v) sum += std::exp(p[r][v]) * (p[r][v] - q[r][v]);
      }
    }
    EXPECT_NEAR(kl, sum / 9.0, 1e-6 + 1e-3 * kl) << "layer " << layer;
    // Of the last layer only the last rows are ever looked at, and those are dense.
    EXPECT_EQ(kl == 0.0, layer == n - 1) << layer;
  }
  // What is recommended passed, and the next count that was tried did not.
  for (const auto& [count, kl] : tuning->joint_kl) EXPECT_EQ(kl <= o.kl_max, count <= tuning->ranking.recommended);
  EXPECT_EQ(tuning->ranking.model_hash, model->content_hash);
  EXPECT_THAT(tuning->ranking.provenance, HasSubstr("\"prompt_tokens\":80"));

  const auto again = tune_triangle(model, samples, o, {});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->layer_kl, tuning->layer_kl);
  TuneOptions generous = o, strict = o;
  generous.kl_max = 1e9;
  generous.count_max = n;
  strict.kl_max = 0.0;
  EXPECT_EQ(tune_triangle(model, samples, generous, {})->ranking.recommended, n);
  EXPECT_LE(tuning->ranking.recommended, std::max(1, n / 2)) << "unless told otherwise";
  EXPECT_EQ(tune_triangle(model, samples, strict, {})->ranking.recommended, 1) << "the last layer costs nothing";
  EXPECT_EQ(tune_triangle(model, samples, o, [](int64_t, int64_t) { return false; }).status().code(),
            StatusCode::kCancelled);
  EXPECT_FALSE(tune_triangle(model, {}, o, {}).ok());
}

TEST(TuneTriangle, WindowedLayersComeLast) {
  const auto model = tiny_model("gemma3");
  const ModelConfig& c = model->model->config();
  const std::vector<TuneSample> samples = {{some_ids(82, 1), 1, "text"}};
  const auto tuning = tune_triangle(model, samples, small_options(), {});
  ASSERT_TRUE(tuning.ok()) << tuning.status().to_string();
  bool windowed = false;
  for (const int32_t l : tuning->ranking.layers) {
    if (windowed) {
      EXPECT_TRUE(c.is_sliding(l));
    }
    windowed |= c.is_sliding(l);
  }
  EXPECT_TRUE(windowed);
  EXPECT_LE(tuning->ranking.recommended, static_cast<int32_t>(tuning->layer_kl.size()));
}

TEST(TuneTriangle, SamplesAreDrawnByTheSeed) {
  const auto model = tiny_model("llama");
  TuneOptions o = small_options();
  o.tokens = 245;
  o.samples = 4;
  std::string text;
  for (int i = 0; i < 300; ++i) text += "The quick brown fox number " + std::to_string(i) + " jumps. ";
  const auto a = triangle_samples(*model, std::vector<std::string>{text}, o);
  ASSERT_TRUE(a.ok()) << a.status().to_string();
  ASSERT_EQ(a->size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ((*a)[i].kind, i % 2 == 1 ? "text" : "retrieval");
    EXPECT_EQ((*a)[i].tokens.size(), static_cast<size_t>(o.tokens + (*a)[i].answer - 1));
  }
  EXPECT_NE((*a)[0].tokens, (*a)[2].tokens);
  EXPECT_EQ(triangle_samples(*model, std::vector<std::string>{text}, o)->at(2).tokens, (*a)[2].tokens);
  o.seed = 2;
  EXPECT_NE(triangle_samples(*model, std::vector<std::string>{text}, o)->at(2).tokens, (*a)[2].tokens);
  o.window = 500;
  EXPECT_THAT(std::string(triangle_samples(*model, {}, o).status().message()), HasSubstr("leave nothing out"));
  o = small_options();
  o.tokens = 1 << 20;
  EXPECT_THAT(std::string(triangle_samples(*model, {}, o).status().message()), HasSubstr("the context holds"));
}

TEST(AttentionMap, CountsWhatTheSelectorKeeps) {
  const auto model = tiny_model("llama");
  AttentionMapOptions o;
  o.threads = 1;
  o.layer = model->model->config().n_layers - 1;
  o.head = 1;
  const auto dense = attention_map(model, some_ids(150, 4), o);
  ASSERT_TRUE(dense.ok()) << dense.status().to_string();
  EXPECT_EQ(dense->pairs_causal, 150 * 151 / 2);
  EXPECT_EQ(dense->pairs_kept, dense->pairs_causal);
  EXPECT_NEAR(dense->captured_mean, 1.0, 1e-5);
  EXPECT_EQ(dense->cell_tokens, 16);
  EXPECT_EQ(dense->cells, 10);
  for (int32_t a = 0; a < dense->cells; ++a) {
    const auto row = dense->mass.begin() + a * dense->cells;
    EXPECT_NEAR(std::accumulate(row, row + dense->cells, 0.0), 1.0, 1e-4);
    for (int32_t b = 0; b < dense->cells; ++b) EXPECT_EQ(dense->kept[a * dense->cells + b], b <= a ? 1.0f : 0.0f);
  }
  o.attn = "triangle(sink=2,window=20,last=10)";
  const auto sparse = attention_map(model, some_ids(150, 4), o);
  ASSERT_TRUE(sparse.ok());
  int64_t pairs = 0;
  for (int64_t i = 0; i < 150; ++i) pairs += i >= 140 ? i + 1 : std::min<int64_t>(i + 1, 22);
  EXPECT_EQ(sparse->pairs_kept, pairs);
  EXPECT_LT(sparse->captured_mean, 0.99);
  EXPECT_LT(sparse->captured_min, sparse->captured_mean);
  EXPECT_NEAR(sparse->captured.back(), 1.0, 1e-4);
  EXPECT_EQ(sparse->kept[7 * 10 + 3], 0.0f);
  EXPECT_EQ(sparse->kept[8 * 10 + 3], 0.25f) << "4 of the 16 rows are among the last";
  const std::string text = attention_map_text(*sparse), svg = attention_map_svg(*sparse);
  EXPECT_THAT(text, HasSubstr("triangle(sink=2,window=20,last=10,min_tokens=0)"));
  EXPECT_THAT(svg, HasSubstr("<svg xmlns"));
  EXPECT_THAT(svg, HasSubstr("</svg>\n"));
  o.layer = 99;
  EXPECT_FALSE(attention_map(model, some_ids(10, 4), o).ok());
  o.layer = 0;
  o.head = 99;
  EXPECT_FALSE(attention_map(model, some_ids(10, 4), o).ok());
}

TEST(AttentionBench, PairsAreThoseOfThePlan) {
  AttentionBenchOptions o;
  o.attn = "triangle(sink=3,window=40,last=50)";
  o.shape = {4, 2, 32};
  o.lengths = {100, 300, 5000};
  o.dense_max = 300;
  o.repetitions = 1;
  o.threads = 1;
  const auto bench = bench_attention(o);
  ASSERT_TRUE(bench.ok()) << bench.status().to_string();
  ASSERT_EQ(bench->lines.size(), 3u);
  for (const AttentionBenchLine& l : bench->lines) {
    double pairs = 0;
    for (int32_t i = 0; i < l.tokens; ++i) pairs += 4.0 * (i >= l.tokens - 50 ? i + 1 : std::min(i + 1, 43));
    EXPECT_EQ(l.pairs, pairs) << l.tokens;
    EXPECT_GT(l.seconds, 0.0);
    EXPECT_EQ(l.dense_seconds > 0.0, l.tokens <= 300);
    // The same by the plan alone, as a card's lines have it.
    const auto spec = parse_spec(o.attn, "attn");
    const auto set = SelectorSet::make(*spec, uniform_layer_map(1));
    for (const uint16_t tile_rows : {16, 128}) {
      auto buffer = AlignedBuffer::allocate(set->max_bytes(l.tokens, 1, tile_rows) + 64);
      Arena arena(std::move(buffer).value());
      SeqStep seq{.n_q = l.tokens, .prompt_len = l.tokens, .heads = 4};
      StepPlans plans;
      ASSERT_TRUE(set->build({.seqs = {&seq, 1}, .n_heads = 4, .tile_rows = tile_rows}, arena, plans).ok());
      EXPECT_EQ(attended_pairs(plans.block(0), {&seq, 1}), pairs);
    }
  }
  EXPECT_EQ(bench->slopes.size(), 2u);
}

TEST(AttentionBench, SlopesAndShapes) {
  AttentionBench b;
  for (const int32_t n : {1024, 2048, 4096}) b.lines.push_back({.tokens = n, .seconds = 1e-9 * n * n});
  fit_slopes(&b);
  EXPECT_NEAR(b.slope, 2.0, 1e-9);
  EXPECT_NEAR(b.slopes[1], 2.0, 1e-9);
  EXPECT_EQ(parse_attention_shape("32/8/128")->kv_heads, 8);
  for (const char* bad : {"", "32", "32/8", "32/8/", "32/7/64", "0/0/64", "32/8/100", "32/8/64x", "a/b/c", "8/16/64",
                          "9999999999/1/64"}) {
    EXPECT_FALSE(parse_attention_shape(bad).ok()) << bad;
  }
  AttentionBenchOptions o;
  o.lengths = {};
  EXPECT_FALSE(bench_attention(o).ok());
  o.lengths = {100, 100};
  EXPECT_FALSE(bench_attention(o).ok());
  o.lengths = {0};
  EXPECT_FALSE(bench_attention(o).ok());
}

}  // namespace
}  // namespace pare
