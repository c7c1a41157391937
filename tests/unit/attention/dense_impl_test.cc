// attn=dense(impl=...): how it is written, where it is refused, and what it asks of a plan.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/causal_plan.h"
#include "selector_conformance.h"

namespace pare::testing {
namespace {

using ::testing::HasSubstr;

Expected<SelectorSet> bind(std::string_view text, std::string_view device, const LayerMap& map = uniform_layer_map(8)) {
  PolicyContext context;
  context.device_class = device;
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec(text, "attn"));
  return SelectorSet::make(spec, map, context);
}
std::string canonical(std::string_view text, std::string_view device = "cuda-sm90") {
  const auto set = bind(text, device);
  return set.ok() ? set->canonical() : std::string(set.status().message());
}

// Layers 1 and 3 attend the last 96 keys only.
LayerMap windowed_map() {
  std::vector<LayerInfo> layers(4);
  for (int32_t l = 0; l < 4; ++l) layers[l] = {.window = l % 2 == 1 ? 96 : kNoWindow, .kv_layer = l};
  return make_layer_map(layers).value_or(LayerMap{});
}

TEST(DenseImpl, TheDefaultIsNotPrinted) {
  EXPECT_EQ(canonical("dense", "cpu-avx2"), "dense");
  EXPECT_EQ(canonical("dense(impl=own)", "cpu-avx2"), "dense");
  EXPECT_EQ(canonical("dense(layers=2-3,impl=own)+streaming"), "dense(layers=2-3)+streaming(sink=4,window=1024)");
  EXPECT_EQ(canonical("dense(impl=cudnn)"), "dense(impl=cudnn)");
  EXPECT_EQ(canonical("dense(layers=0-3,impl=cudnn)"), "dense(impl=cudnn,layers=0-3)+dense");
  EXPECT_EQ(canonical(canonical("dense(layers=0-3,impl=cudnn)")), "dense(impl=cudnn,layers=0-3)+dense");
}

TEST(DenseImpl, RefusedByNameAndReason) {
  EXPECT_THAT(canonical("dense(impl=cudnn)", "cpu-avx512"),
              HasSubstr("impl=cudnn needs a CUDA device (--device cuda); this one is cpu-avx512"));
  EXPECT_THAT(canonical("dense(impl=flash)"), HasSubstr("impl is 'flash': own or cudnn are possible"));
  EXPECT_THAT(canonical("dense(impl=1)"), HasSubstr("impl: expected a word"));
  EXPECT_THAT(canonical("streaming(impl=cudnn)"), HasSubstr("unknown parameter 'impl'"));
  const LayerMap map = windowed_map();
  const auto everywhere = bind("dense(impl=cudnn)", "cuda-sm90", map);
  EXPECT_THAT(std::string(everywhere.status().message()),
              HasSubstr("layer 1: impl=cudnn: its model attends the last 96 keys only"));
  EXPECT_TRUE(bind("dense(impl=own)", "cuda-sm90", map).ok());
  EXPECT_TRUE(bind("dense(impl=cudnn,layers=0,2)", "cuda-sm90", map).ok());
}

TEST(DenseImpl, OnlyItsPlansAreFlagged) {
  const auto set = bind("dense(impl=cudnn,layers=0,2)", "cuda-sm90", windowed_map());
  ASSERT_TRUE(set.ok()) << set.status().message();
  EXPECT_EQ(set->plan_flags(), kPlanCudnn);
  EXPECT_EQ(bind("dense", "cuda-sm90")->plan_flags(), 0);
  PrefillStep step;
  step.add(40, 100, 140);
  Arena arena = make_arena(set->max_bytes(100, 1, 64));
  StepPlans plans;
  ASSERT_TRUE(set->build({.seqs = step.seqs, .n_heads = kTestHeads, .tile_rows = 64}, arena, plans).ok());
  EXPECT_EQ(plans.block(0).flags, kPlanCudnn);
  EXPECT_EQ(plans.block(1).flags, 0);
  EXPECT_EQ(plans.block(2).flags, kPlanCudnn);
  // Bits may depend on the rows beside, which strict mode cannot have.
  EXPECT_FALSE(set->caps()[0]->batch_invariant);
  EXPECT_TRUE(set->caps()[1]->batch_invariant);
}

TEST(DenseImpl, NoRowsThatAttendLaterOnes) {
  PolicyContext context;
  context.device_class = "cuda-sm90";
  const Spec spec = parse_spec("dense(impl=cudnn)", "attn").value();
  const auto made = make_policy(selector_registry(), spec, 0, context);
  ASSERT_TRUE(made.ok());
  PrefillStep step;
  step.add(0, 50, 50);
  const std::vector<int32_t> limit(50, 50);
  Arena arena = make_arena(1 << 16);
  BlockPlan plan;
  const PrefillRows rows = {.seqs = step.seqs, .limit = limit.data(), .n_heads = kTestHeads, .tile_rows = 32};
  EXPECT_THAT(std::string(made->policy->build(rows, kNoWindow, arena, plan).message()), HasSubstr("encoders"));
  EXPECT_THAT(
      std::string(made->policy->build({.seqs = step.seqs, .n_heads = 1, .tile_rows = 32}, 9, arena, plan).message()),
      HasSubstr("the last 9 keys"));
}

// What a kernel that knows causal masks alone would do wrong must not pass as causal.
TEST(CausalPlan, OnlyOneOpenRangeForEveryRow) {
  PrefillStep step;
  step.add(0, 37, 37);
  step.add(500, 1, 400, kSeqDecode);
  step.add(100, 300, 700);
  const auto verdict = [&](std::string_view attn, int32_t window, auto damage, int32_t heads = kTestHeads) {
    Arena arena = make_arena(1 << 16);
    BlockPlan plan;
    const PrefillRows rows = {.seqs = step.seqs, .n_heads = kTestHeads, .tile_rows = 64};
    EXPECT_TRUE(make_selector(attn)->build(rows, window, arena, plan).ok());
    damage(const_cast<QTile*>(plan.tiles), const_cast<KeyList*>(plan.lists), const_cast<Range*>(plan.ranges), plan);
    return std::string(require_causal_plan(plan, step.seqs, heads).message());
  };
  const auto as_built = [](QTile*, KeyList*, Range*, BlockPlan&) {};
  EXPECT_EQ(verdict("dense", kNoWindow, as_built), "");
  EXPECT_EQ(verdict("triangle(min_tokens=1000)", kNoWindow, as_built), "") << "no prompt here is as long";
  EXPECT_THAT(verdict("dense", 100, as_built), HasSubstr("0 key ranges and 1 distance ranges"));
  EXPECT_THAT(verdict("streaming", kNoWindow, as_built), HasSubstr("1 key ranges and 1 distance ranges"));
  EXPECT_THAT(verdict("triangle(window=64)", kNoWindow, as_built), HasSubstr("distance ranges"));
  EXPECT_THAT(verdict("dense", kNoWindow, as_built, kTestHeads + 1), HasSubstr("heads 0 to 3 of 4"));
  const auto damaged = [&](auto damage) { return verdict("dense", kNoWindow, damage); };
  EXPECT_THAT(damaged([](QTile*, KeyList*, Range* r, BlockPlan&) { r[0].lo = 1; }), HasSubstr("keys [1, 37)"));
  EXPECT_THAT(damaged([](QTile*, KeyList*, Range* r, BlockPlan&) { r[1].hi = 399; }), HasSubstr("keys [0, 399)"));
  EXPECT_THAT(damaged([](QTile*, KeyList* l, Range*, BlockPlan&) { l[1].window = 64; }), HasSubstr("a window of 64"));
  EXPECT_THAT(damaged([](QTile*, KeyList* l, Range*, BlockPlan&) { l[1].n_col = 1; }), HasSubstr("single keys"));
  EXPECT_THAT(damaged([](QTile*, KeyList* l, Range*, BlockPlan&) { l[0].bit_keys = 64; }), HasSubstr("bitmap"));
  EXPECT_THAT(damaged([](QTile* t, KeyList*, Range*, BlockPlan&) { t[0].list_heads = 1; }), HasSubstr("by head"));
  EXPECT_THAT(damaged([](QTile* t, KeyList*, Range*, BlockPlan&) { t[0].rows -= 1; }), HasSubstr("336 of 337 rows"));
  EXPECT_THAT(damaged([](QTile* t, KeyList*, Range*, BlockPlan&) { t[0].flags = kTileGathered; }),
              HasSubstr("gathered"));
  const int32_t limit[1] = {};
  EXPECT_THAT(damaged([&](QTile*, KeyList*, Range*, BlockPlan& p) { p.limit = limit; }), HasSubstr("bounds"));
}

}  // namespace
}  // namespace pare::testing
