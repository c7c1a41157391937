#include "attention/selector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "selector_conformance.h"

namespace pare::testing {
namespace {

using ::testing::HasSubstr;

struct Dense {
  static constexpr const char* kSpec = "dense";
  static bool sees(int32_t, int32_t, int32_t) { return true; }
  static int32_t budget(int32_t i, int32_t) { return i + 1; }
};
struct AShape {
  static constexpr const char* kSpec = "streaming(sink=4,window=100)";
  static bool sees(int32_t i, int32_t j, int32_t) { return j < 4 || i - j < 100; }
  static int32_t budget(int32_t, int32_t) { return 104; }
};
struct OnlySelf {
  static constexpr const char* kSpec = "streaming(sink=0,window=1)";
  static bool sees(int32_t i, int32_t j, int32_t) { return i == j; }
  static int32_t budget(int32_t, int32_t) { return 1; }
};
struct LongSink {
  static constexpr const char* kSpec = "streaming(sink=77,window=17)";
  static bool sees(int32_t i, int32_t j, int32_t) { return j < 77 || i - j < 17; }
  static int32_t budget(int32_t, int32_t) { return 94; }
};
struct Triangle {
  static constexpr const char* kSpec = "triangle(sink=4,window=33,last=20)";
  static bool sees(int32_t i, int32_t j, int32_t n) { return j < 4 || i - j < 33 || i >= n - 20; }
  static int32_t budget(int32_t i, int32_t n) { return i >= n - 20 ? i + 1 : 37; }
};
struct ThinTriangle {
  static constexpr const char* kSpec = "triangle(sink=0,window=1,last=1)";
  static bool sees(int32_t i, int32_t j, int32_t n) { return i == j || i == n - 1; }
  static int32_t budget(int32_t i, int32_t n) { return i == n - 1 ? n : 1; }
};
struct BlockyTriangle {
  static constexpr const char* kSpec = "triangle(sink=70,window=64,last=128)";
  static bool sees(int32_t i, int32_t j, int32_t n) { return j < 70 || i - j < 64 || i >= n - 128; }
  static int32_t budget(int32_t i, int32_t n) { return i >= n - 128 ? i + 1 : 134; }
};
// Below min_tokens in the suite's prompts but one.
struct GatedTriangle {
  static constexpr const char* kSpec = "triangle(sink=4,window=33,last=20,min_tokens=331)";
  static bool sees(int32_t i, int32_t j, int32_t n) { return n < 331 || Triangle::sees(i, j, n); }
  static int32_t budget(int32_t i, int32_t n) { return Triangle::budget(i, n); }
};
using Selectors =
    ::testing::Types<Dense, AShape, OnlySelf, LongSink, Triangle, ThinTriangle, BlockyTriangle, GatedTriangle>;
INSTANTIATE_TYPED_TEST_SUITE_P(Residents, SelectorConformance, Selectors);

Expected<SelectorSet> bind_set(std::string_view text, const LayerMap& map) {
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec(text, "attn"));
  return SelectorSet::make(spec, map);
}
std::string error(std::string_view text, const LayerMap& map) {
  return std::string(bind_set(text, map).status().message());
}

LayerMap gemma_map() {
  std::vector<LayerInfo> layers(12);
  for (int32_t l = 0; l < 12; ++l) layers[l] = {.window = l % 6 == 5 ? kNoWindow : 512, .kv_layer = l};
  return make_layer_map(layers).value_or(LayerMap{});
}

TEST(SelectorSet, TermsPartitionTheLayers) {
  const LayerMap map = uniform_layer_map(8);
  auto set = bind_set("streaming(window=64,layers=2-3,7)+dense", map);
  ASSERT_TRUE(set.ok()) << set.status().message();
  EXPECT_EQ(set->canonical(), "streaming(sink=4,window=64,layers=2-3,7)+dense");
  set = bind_set("streaming(layers=6)+streaming(window=8,layers=0-1)", map);
  ASSERT_TRUE(set.ok());
  EXPECT_EQ(set->canonical(), "streaming(sink=4,window=8,layers=0-1)+streaming(sink=4,window=1024,layers=6)+dense");
  EXPECT_EQ(bind_set(set->canonical(), map)->canonical(), set->canonical());
  EXPECT_FALSE(set->facts().exact[0]);
  EXPECT_TRUE(set->facts().reach[0].unlimited());
  EXPECT_EQ(set->caps().size(), 3u);
  EXPECT_TRUE(bind_set("streaming", map)->facts().exact[0]);
}

TEST(SelectorSet, MistakesPointAtTheTerm) {
  const LayerMap map = uniform_layer_map(8);
  EXPECT_THAT(error("dense+streaming", map), HasSubstr("column 7: 'dense' and 'streaming' both have no layers="));
  EXPECT_THAT(error("dense(layers=1-3)+streaming(layers=3)", map),
              HasSubstr("column 19: layer 3 is already taken by 'dense'"));
  EXPECT_THAT(error("dense(layers=7-8)", map), HasSubstr("layer 8 is not in the model, which has 8 layers"));
  EXPECT_THAT(error("trapeze", map), HasSubstr("column 1: unknown policy 'trapeze'; known: dense, streaming"));
  EXPECT_THAT(error("streaming(recent=3)", map), HasSubstr("'streaming' takes sink, window, layers"));
  EXPECT_THAT(error("streaming(window=0)", map), HasSubstr("0 is out of range; 1 to 16777216 is possible"));
}

TEST(SelectorSet, OnePlanForEachClassAndTerm) {
  const LayerMap map = gemma_map();
  auto set = bind_set("streaming(sink=4,window=256,layers=0-5)+dense", map);
  ASSERT_TRUE(set.ok());
  PrefillStep step;
  step.add(0, 100, 100);
  Arena arena = make_arena(set->max_bytes(100, 1, 64));
  StepPlans plans;
  ASSERT_TRUE(set->build({.seqs = step.seqs, .n_heads = 4, .tile_rows = 64}, arena, plans).ok());
  EXPECT_EQ(plans.n_blocks, 4);
  EXPECT_EQ(plans.n_layers, 12);
  EXPECT_EQ(plans.layer(0).block, plans.layer(4).block);
  EXPECT_NE(plans.layer(0).block, plans.layer(6).block);
  EXPECT_EQ(plans.layer(5).cls, 1);
  EXPECT_EQ(plans.block(0).lists[0].window, 256);
  EXPECT_EQ(plans.block(0).lists[0].sink, 0);
  EXPECT_EQ(plans.block(5).lists[0].sink, 4);
  EXPECT_EQ(plans.block(6).lists[0].window, 512);
  EXPECT_EQ(plans.block(11).lists[0].window, INT32_MAX);
  EXPECT_EQ(set->facts().reach[0], (Reach{0, 512}));
  EXPECT_FALSE(set->facts().exact[0]);
}

TEST(SelectorSet, EncodersSeeBothWays) {
  PrefillStep step;
  step.add(0, 50, 50);
  step.add(0, 70, 70);
  std::vector<int32_t> limit(120, 50);
  std::fill(limit.begin() + 50, limit.end(), 70);
  Arena arena = make_arena(1 << 16);
  BlockPlan plan;
  const PrefillRows rows = {.seqs = step.seqs, .limit = limit.data(), .n_heads = kTestHeads, .tile_rows = 32};
  ASSERT_TRUE(make_selector("dense")->build(rows, kNoWindow, arena, plan).ok());
  ASSERT_TRUE(check_block_plan(plan, {.seqs = step.seqs, .n_heads = kTestHeads}).ok());
  EXPECT_EQ(block_keys(plan, step.seqs, 3, 0, 50), KeyCounts(50, 1));
  EXPECT_EQ(block_keys(plan, step.seqs, 51, 0, 70), KeyCounts(70, 1));
  EXPECT_EQ(make_selector("streaming")->build(rows, kNoWindow, arena, plan).code(), StatusCode::kUnsupported);
}

// check() must refuse what a broken builder could make.
TEST(BlockPlanCheck, RefusesBrokenPlans) {
  PrefillStep step;
  step.add(100, 60, 160);
  const auto selector = make_selector("streaming(sink=4,window=32)");
  const auto verdict = [&](auto damage) {
    Arena arena = make_arena(1 << 16);
    BlockPlan plan;
    EXPECT_TRUE(selector->build({.seqs = step.seqs, .n_heads = 2, .tile_rows = 16}, kNoWindow, arena, plan).ok());
    damage(const_cast<QTile*>(plan.tiles), const_cast<KeyList*>(plan.lists), const_cast<Range*>(plan.ranges), plan);
    return check_block_plan(plan, {.seqs = step.seqs, .n_heads = 2}).ok();
  };
  EXPECT_TRUE(verdict([](QTile*, KeyList*, Range*, BlockPlan&) {}));
  EXPECT_FALSE(verdict([](QTile* t, KeyList*, Range*, BlockPlan&) { t[0].rows -= 1; }));
  EXPECT_FALSE(verdict([](QTile* t, KeyList*, Range*, BlockPlan&) { t[1] = t[0]; }));
  EXPECT_FALSE(verdict([](QTile* t, KeyList*, Range*, BlockPlan&) { t[0].pos_lo += 1; }));
  EXPECT_FALSE(verdict([](QTile* t, KeyList*, Range*, BlockPlan&) { t[0].n_heads = 1; }));
  EXPECT_FALSE(verdict([](QTile*, KeyList*, Range* r, BlockPlan&) { r[0].hi = 161; }));
  EXPECT_FALSE(verdict([](QTile*, KeyList*, Range* r, BlockPlan&) { r[1].lo = 31; }));
  EXPECT_FALSE(verdict([](QTile*, KeyList* l, Range*, BlockPlan&) { l[0].n_rel = 0; }));
  EXPECT_FALSE(verdict([](QTile*, KeyList*, Range*, BlockPlan& p) { p.tiles_cap = 1; }));
  step.seqs[0].prompt_len = 200;
  Arena arena = make_arena(1 << 16);
  BlockPlan plan;
  ASSERT_TRUE(selector->build({.seqs = step.seqs, .n_heads = 2, .tile_rows = 16}, kNoWindow, arena, plan).ok());
  EXPECT_FALSE(check_block_plan(plan, {.seqs = step.seqs, .n_heads = 2, .chunk_grid = 64}).ok());
}

}  // namespace
}  // namespace pare::testing
