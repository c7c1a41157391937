// attn=triangle through the engine: bits do not depend on chunks or on what was read before; prompts that are read
// densely are counted and share nothing with those that are not; rankings are read from files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "../../scratch_folder.h"
#include "engine_rig.h"
#include "io/ranking_file.h"

namespace pare::test {
namespace {

using ::testing::HasSubstr;

constexpr const char* kTriangle = "triangle(sink=2,window=16,last=20)";

EngineOptions engine_with(const std::string& attn) {
  EngineOptions o;
  o.threads = 1;
  o.kv_rows = 1024;
  o.attn = attn;
  return o;
}

Request prompt_of(int32_t n, uint64_t seed = 1) {
  Philox rng(seed);
  Request r;
  r.tokens = random_tokens(rng, n);
  r.max_tokens = 6;
  r.ignore_eos = true;
  return r;
}
Request observed(Request r, bool sparse) {
  r.observe_prompt = true;
  r.observe_sparse = sparse;
  return r;
}

void expect_same(const Answers& a, const Answers& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].tokens, b[i].tokens);
    EXPECT_EQ(a[i].rows, b[i].rows);
  }
}

// --- bits ---

TEST(TriangleEngine, ChunksChangeNoBit) {
  for (const char* model : {"llama", "gemma3"}) {
    for (const int32_t n : {1, 7, 19, 20, 21, 63, 64, 65, 150, 231}) {
      const Request r = observed(prompt_of(n), true);
      EngineOptions o = engine_with(kTriangle);
      const Answers whole = run_alone(r, o, tiny_model(model));
      for (const int32_t rows : {1, 3, 17, 64, 100}) {
        if (rows == 1 && n > 70) continue;
        o.step_rows = rows;
        SCOPED_TRACE(::testing::Message() << model << ", " << n << " tokens in chunks of " << rows);
        expect_same(run_alone(r, o, tiny_model(model)), whole);
      }
    }
  }
}

TEST(TriangleEngine, NeutralSettingsAreDense) {
  const Request r = observed(prompt_of(231), true);
  const Answers dense = run_alone(r, engine_with("dense"));
  for (const char* attn :
       {"triangle(sink=0,window=16777216)", "triangle(window=231,sink=0,last=1)", "triangle(sink=231,window=1,last=1)",
        "triangle(sink=0,window=1,last=231)", "triangle(sink=0,window=1,last=1,min_tokens=232)"}) {
    SCOPED_TRACE(attn);
    expect_same(run_alone(r, engine_with(attn)), dense);
  }
  const Answers sparse = run_alone(r, engine_with(kTriangle));
  EXPECT_NE(sparse[0].rows, dense[0].rows);
}

// A row is touched by what the method leaves out as soon as it leaves something out, and not before.
TEST(TriangleEngine, TheFirstRowThatDiffersIsTheFirstThatMissesAKey) {
  const Request r = observed(prompt_of(100), true);
  const Answers dense = run_alone(r, engine_with("dense"));
  for (const auto& [attn, first] : std::initializer_list<std::pair<const char*, int32_t>>{
           {"triangle(sink=2,window=16,last=20)", 18},  // row 18 sees 0, 1 and 3 to 18
           {"triangle(sink=0,window=30,last=5)", 30},
           {"triangle(sink=5,window=70,last=20)", 75},
           {"triangle(sink=5,window=74,last=21)", 100},  // the first to miss one is the first of the last rows
           {"triangle(sink=5,window=74,last=20)", 79}}) {
    SCOPED_TRACE(attn);
    const Answers sparse = run_alone(r, engine_with(attn));
    for (int32_t row = 0; row < std::min(first, 100); ++row) ASSERT_EQ(sparse[0].rows.at(row), dense[0].rows.at(row));
    if (first < 100) {
      EXPECT_NE(sparse[0].rows.at(first), dense[0].rows.at(first));
    }
  }
}

TEST(TriangleEngine, ALongPromptLeavesNothingBehind) {
  EngineOptions o = engine_with(kTriangle);
  o.max_sequences = 1;
  o.kv_rows = 256;
  const auto engine = make_engine(o);
  for (const int32_t n : {240, 40, 1, 240, 129}) {
    const Request r = prompt_of(n, static_cast<uint64_t>(n));
    const auto answers = submit(*engine, r);
    ASSERT_TRUE(engine->run().ok());
    expect_same(*answers, run_alone(r, o));
  }
  expect_idle(*engine);
}

// --- prompts that are read densely ---

TEST(TriangleEngine, ShortAndObservedPromptsAreCounted) {
  const auto engine = make_engine(engine_with("triangle(sink=2,window=16,last=20,min_tokens=100)"));
  std::vector<RequestId> ids(4);
  const auto a = submit(*engine, prompt_of(99), &ids[0]);
  const auto b = submit(*engine, prompt_of(100), &ids[1]);
  const auto c = submit(*engine, observed(prompt_of(150), false), &ids[2]);
  const auto d = submit(*engine, observed(prompt_of(150), true), &ids[3]);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->stats().prompts, 4u);
  EXPECT_EQ(engine->stats().prompts_dense_short, 1u);
  EXPECT_EQ(engine->stats().prompts_dense_observed, 1u);
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(engine->request_stats(ids[i])->dense_short, i == 0) << i;
    EXPECT_EQ(engine->request_stats(ids[i])->dense_observed, i == 2) << i;
  }
  expect_same(*a, run_alone(prompt_of(99), engine_with("dense")));
  expect_same(*b, run_alone(prompt_of(100), engine_with(kTriangle)));
  expect_same(*c, run_alone(observed(prompt_of(150), false), engine_with("dense")));
  expect_same(*d, run_alone(observed(prompt_of(150), true), engine_with(kTriangle)));
  EXPECT_NE((*c)[0].rows, (*d)[0].rows);

  // Streaming has given back the pages that a dense reading would need: it shows its own rows, as it always has.
  const auto streaming = make_engine(engine_with("streaming(sink=2,window=16)"));
  const auto e = submit(*streaming, observed(prompt_of(150), false), &ids[0]);
  ASSERT_TRUE(streaming->run().ok());
  EXPECT_EQ(streaming->stats().prompts_dense_observed, 0u);
  EXPECT_FALSE(streaming->request_stats(ids[0])->dense_observed);
  EXPECT_NE((*e)[0].rows, (*c)[0].rows);
  expect_same(*e, run_alone(observed(prompt_of(150), true), engine_with("streaming(sink=2,window=16)")));
}

TEST(TriangleEngine, PairsAreCounted) {
  const auto model = tiny_model();
  const uint64_t heads = static_cast<uint64_t>(model->model->config().n_heads),
                 layers = static_cast<uint64_t>(model->model->config().n_layers);
  const auto engine = make_engine(engine_with("triangle(sink=2,window=16,last=20,layers=0)+dense"), model);
  Request r = prompt_of(100);
  r.max_tokens = 1;
  submit(*engine, r);
  ASSERT_TRUE(engine->run().ok());
  uint64_t causal = 0, kept = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    causal += i + 1;
    kept += i >= 80 ? i + 1 : std::min<uint64_t>(i + 1, 18);
  }
  EXPECT_EQ(engine->stats().keys_causal, causal * heads * layers);
  EXPECT_EQ(engine->stats().keys_visited, (kept + causal * (layers - 1)) * heads);
}

// Cached rows of the same tokens, read another way, are other rows.
TEST(TriangleEngine, DenseAndSparsePromptsShareNothing) {
  const EngineOptions o = engine_with("triangle(sink=2,window=16,last=20,min_tokens=150)");
  const Request long_prompt = prompt_of(230);
  Request short_prompt = long_prompt, longer = long_prompt, shorter = long_prompt;
  short_prompt.tokens.resize(149);  // dense
  shorter.tokens.resize(200);       // its last rows lie in pages that are full of the long prompt's inner rows
  longer.tokens.insert(longer.tokens.end(), 15, 7);
  struct Turn {
    Request request;
    int32_t cached;
  };
  const std::vector<std::vector<Turn>> orders = {
      {{short_prompt, 0}, {long_prompt, 0}, {longer, 192}, {short_prompt, 128}},
      {{long_prompt, 0}, {short_prompt, 0}, {shorter, 128}, {long_prompt, 192}},
      {{long_prompt, 0}, {observed(long_prompt, false), 0}, {short_prompt, 128}, {longer, 192}}};
  for (const auto& turns : orders) {
    const auto engine = make_engine(o);
    for (const Turn& turn : turns) {
      SCOPED_TRACE(::testing::Message() << turn.request.tokens.size() << " tokens");
      RequestId id;
      const auto answers = submit(*engine, turn.request, &id);
      ASSERT_TRUE(engine->run().ok());
      EXPECT_EQ(engine->request_stats(id)->cached_tokens, turn.cached);
      EngineOptions unshared = o;
      unshared.share_prefixes = false;
      expect_same(*answers, run_alone(turn.request, unshared));
    }
    expect_idle(*engine);
  }
}

TEST(TriangleEngine, ObservationMayBeginLate) {
  Request all = observed(prompt_of(120), true), late = all;
  late.observe_from = 113;
  EngineOptions o = engine_with(kTriangle);
  o.logit_rows = 4;
  o.step_rows = 50;
  const Answers whole = run_alone(all, o), end = run_alone(late, o);
  EXPECT_EQ(end[0].tokens, whole[0].tokens);
  EXPECT_EQ(end[0].rows.begin()->first, 113);
  for (const auto& [row, hash] : end[0].rows) EXPECT_EQ(hash, whole[0].rows.at(row));
  const auto engine = make_engine(o);
  late.observe_from = 120;
  EXPECT_EQ(submit(*engine, late), nullptr);
  late.observe_from = -1;
  EXPECT_EQ(submit(*engine, late), nullptr);
}

// --- files ---

TEST(TriangleEngine, ARankingIsReadAndCheckedAgainstTheModel) {
  const auto model = tiny_model();
  const int32_t layers = model->model->config().n_layers;
  LayerRanking ranking;
  for (int32_t l = layers - 1; l >= 0; --l) ranking.layers.push_back(l);
  ranking.recommended = 1;
  ranking.model_hash = model->content_hash;
  for (const char* device : {"cpu-scalar", "cpu-avx2", "cpu-avx512", "cpu-amx"}) {
    ranking.min_tokens.emplace_back(device, 77);
  }
  const ScratchFolder folder;
  const auto path = folder / "ranking.json";
  ASSERT_TRUE(write_ranking_file(path, ranking).ok());
  const std::string spec = "triangle(ranking=\"" + path.string() + "\")";
  const auto engine = make_engine(engine_with(spec));
  EXPECT_EQ(engine->attn_spec(),
            "triangle(sink=8,window=512,last=128,min_tokens=77,layers=" + std::to_string(layers - 1) + ")+dense");
  ++ranking.model_hash;
  ASSERT_TRUE(write_ranking_file(path, ranking).ok());
  EXPECT_THAT(std::string(Engine::create(model, engine_with(spec)).status().message()),
              HasSubstr("ranking: is for weights"));
  std::filesystem::remove(path);
  EXPECT_THAT(std::string(Engine::create(model, engine_with(spec)).status().message()), HasSubstr(path.string()));
}

TEST(TriangleEngine, AnObserverSeesEveryLayerOfEveryChunk) {
  EngineOptions o = engine_with(kTriangle);
  o.step_rows = 30;
  std::vector<int32_t> rows(static_cast<size_t>(tiny_model()->model->config().n_layers), 0);
  o.on_attention = [&](int32_t layer, const StepPlans& plans, const Tensor&, const Tensor&) {
    rows[static_cast<size_t>(layer)] += plans.n_prefill_rows;
  };
  run_alone(prompt_of(100), o);
  for (const int32_t n : rows) EXPECT_EQ(n, 100);
}

}  // namespace
}  // namespace pare::test
