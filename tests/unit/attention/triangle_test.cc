// attn=triangle: which layers it takes, when it steps aside, and its plans at every length.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "selector_conformance.h"

namespace pare::testing {
namespace {

using ::testing::HasSubstr;

class OneRanking final : public PolicyFiles {
 public:
  explicit OneRanking(LayerRanking ranking) : ranking_(std::move(ranking)) {}
  Expected<ChannelMask> channel_mask(const std::string&) override { return unsupported("no masks"); }
  Expected<LayerRanking> layer_ranking(const std::string& path) override {
    if (path != "r.json") return not_found(path);
    return ranking_;
  }

 private:
  LayerRanking ranking_;
};

LayerRanking eight_layers() {
  LayerRanking r;
  r.layers = {7, 6, 2, 5, 0, 1, 3, 4};
  r.recommended = 4;
  r.min_tokens = {{"cpu-avx2", 900}, {"cuda-sm90", 5000}};
  r.model_hash = 0x1234;
  return r;
}

struct Made {
  Status status;
  std::string canonical;
};
Made make(std::string_view text, LayerRanking ranking = eight_layers(), std::string_view device = "cpu-avx2",
          int32_t n_layers = 8, uint64_t hash = 0x1234, bool files = true) {
  OneRanking reader(std::move(ranking));
  PolicyContext context;
  context.n_layers = n_layers;
  context.model_hash = hash;
  context.device_class = device;
  context.files = files ? &reader : nullptr;
  const auto spec = parse_spec(text, "attn");
  if (!spec.ok()) return {spec.status(), ""};
  const auto set = SelectorSet::make(*spec, uniform_layer_map(n_layers), context);
  return {set.status(), set.ok() ? set->canonical() : ""};
}
std::string error(std::string_view text) { return std::string(make(text).status.message()); }

TEST(Triangle, TheCanonicalFormNeedsNoFile) {
  EXPECT_EQ(make("triangle(ranking=r.json)").canonical,
            "triangle(sink=8,window=512,last=128,min_tokens=900,layers=2,5-7)+dense");
  EXPECT_EQ(make("triangle(ranking=r.json,count=2)+streaming(window=9)").canonical,
            "triangle(sink=8,window=512,last=128,min_tokens=900,layers=6-7)+streaming(sink=4,window=9)");
  EXPECT_EQ(make("triangle(ranking=r.json,count=8,min_tokens=7)", eight_layers(), "cuda-sm90").canonical,
            "triangle(sink=8,window=512,last=128,min_tokens=7,layers=0-7)");
  EXPECT_EQ(make("triangle(ranking=r.json)", eight_layers(), "cuda-sm90").canonical,
            "triangle(sink=8,window=512,last=128,min_tokens=5000,layers=2,5-7)+dense");
  EXPECT_EQ(make("triangle(ranking=r.json)", eight_layers(), "cpu-amx").canonical,
            "triangle(sink=8,window=512,last=128,min_tokens=0,layers=2,5-7)+dense");
  EXPECT_EQ(make("triangle").canonical, "triangle(sink=8,window=512,last=128,min_tokens=0)");
  EXPECT_EQ(make("triangle(layers=4-7)+streaming").canonical,
            "triangle(sink=8,window=512,last=128,min_tokens=0,layers=4-7)+streaming(sink=4,window=1024)");
  for (const char* text : {"triangle(ranking=r.json)", "triangle(sink=0,last=1,ranking=r.json,count=3)+streaming"}) {
    const Made first = make(text);
    EXPECT_EQ(make(first.canonical, {}, "cpu-avx2", 8, 0, false).canonical, first.canonical);
  }
}

TEST(Triangle, MistakesNameTheField) {
  EXPECT_THAT(error("triangle(window=0)"), HasSubstr("window: 0 is out of range; 1 to 16777216 is possible"));
  EXPECT_THAT(error("triangle(window=16777217)"), HasSubstr("window: 16777217 is out of range"));
  EXPECT_THAT(error("triangle(sink=-1)"), HasSubstr("sink: -1 is out of range"));
  EXPECT_THAT(error("triangle(last=0)"), HasSubstr("last: 0 is out of range"));
  EXPECT_THAT(error("triangle(min_tokens=16777217)"), HasSubstr("min_tokens: 16777217 is out of range"));
  EXPECT_THAT(error("triangle(layers=3,3)"), HasSubstr("layer"));
  EXPECT_THAT(error("triangle(layers=7-8)"), HasSubstr("layer 8 is not in the model, which has 8 layers"));
  EXPECT_THAT(error("triangle(layers=1-2)+streaming(layers=2)"), HasSubstr("layer 2 is already taken by 'triangle'"));
  EXPECT_THAT(error("triangle(ranking=r.json)+streaming(layers=7)"), HasSubstr("already taken by 'triangle'"));
  EXPECT_THAT(error("triangle(ranking=r.json,layers=1)"), HasSubstr("ranking and layers: one of the two"));
  EXPECT_THAT(error("triangle(count=3)"), HasSubstr("count: needs ranking="));
  EXPECT_THAT(error("triangle(count=0,ranking=r.json)"), HasSubstr("count: 0 is out of range; 1 to 1024"));
  EXPECT_THAT(error("triangle(count=9,ranking=r.json)"), HasSubstr("count: 9 of a model with 8 layers"));
  EXPECT_THAT(error("triangle(ranking=q.json)"), HasSubstr("q.json"));
  EXPECT_THAT(std::string(make("triangle(ranking=r.json)", {}, "cpu-avx2", 8, 1, false).status.message()),
              HasSubstr("ranking: no files are read here"));
  EXPECT_THAT(std::string(make("triangle(ranking=r.json)", eight_layers(), "cpu-avx2", 9).status.message()),
              HasSubstr("ranking: is for a model with 8 layers, this one has 9"));
  EXPECT_THAT(std::string(make("triangle(ranking=r.json)", eight_layers(), "cpu-avx2", 8, 0xabc).status.message()),
              HasSubstr("ranking: is for weights 0000000000001234, these are 0000000000000abc"));
  LayerRanking bad = eight_layers();
  bad.recommended = 0;
  EXPECT_THAT(std::string(make("triangle(ranking=r.json)", bad).status.message()), HasSubstr("recommends no layer"));
  bad = eight_layers();
  bad.layers[3] = 7;
  EXPECT_THAT(std::string(make("triangle(ranking=r.json)", bad).status.message()), HasSubstr("ranking: does not name"));
}

// Prompts that are short, or whose log-probabilities are wanted.
TEST(Triangle, StepsAsideForWholePrompts) {
  const auto selector = make_selector("triangle(sink=1,window=5,last=3,min_tokens=200)");
  const auto streaming = make_selector("streaming(sink=1,window=5)");
  PrefillStep step;
  step.add(100, 40, 199);             // short
  step.add(100, 40, 200);             // not
  step.add(100, 40, 900, kSeqDense);  // observed
  Arena arena = make_arena(1 << 16);
  BlockPlan plan, other;
  const PrefillRows rows = {.seqs = step.seqs, .n_heads = kTestHeads, .tile_rows = 32};
  ASSERT_TRUE(selector->build(rows, kNoWindow, arena, plan).ok());
  ASSERT_TRUE(check_block_plan(plan, {.seqs = step.seqs, .n_heads = kTestHeads}).ok());
  const auto count = [&](const BlockPlan& p, int32_t t) {
    const KeyCounts keys = block_keys(p, step.seqs, t, 0, 140);
    return std::count(keys.begin(), keys.end(), 1);
  };
  EXPECT_EQ(count(plan, 39), 140);
  EXPECT_EQ(count(plan, 79), 6);
  EXPECT_EQ(count(plan, 119), 140);
  // Streaming has given the pages of what it leaves out back: it reads no prompt densely.
  ASSERT_TRUE(streaming->build(rows, kNoWindow, arena, other).ok());
  for (const int32_t t : {39, 79, 119}) EXPECT_EQ(count(other, t), 6);
  EXPECT_FALSE(streaming->reads_densely(100, kSeqDense));
  EXPECT_TRUE(selector->reads_densely(199, 0));
  EXPECT_FALSE(selector->reads_densely(200, 0));
  EXPECT_TRUE(selector->reads_densely(200, kSeqDense));
  EXPECT_FALSE(make_selector("triangle(window=16777216,min_tokens=9)")->reads_densely(3, kSeqDense))
      << "nothing is left out, so there is one class of prompts";

  auto spec =
      parse_spec("streaming(layers=0)+triangle(layers=1,min_tokens=50)+triangle(layers=2-3,min_tokens=80)", "attn");
  const auto set = SelectorSet::make(*spec, uniform_layer_map(4));
  ASSERT_TRUE(set.ok());
  EXPECT_EQ(set->dense_terms(80, 0), 0u);
  EXPECT_EQ(set->dense_terms(79, 0), 4u);
  EXPECT_EQ(set->dense_terms(49, 0), 6u);
  EXPECT_EQ(set->dense_terms(500, kSeqDense), 6u);
}

// The plan of every length, in one step and ending in a chunk: tiles partition the rows, and lists say what they must.
TEST(Triangle, EveryLength) {
  constexpr int32_t kSink = 8, kWindow = 512, kLast = 128, kTile = 64;
  const auto selector = make_selector("triangle");
  Arena arena = make_arena(selector->max_bytes(4096, 1, kTile));
  int64_t plans = 0, both = 0;
  for (int32_t n = 1; n <= 4096; ++n) {
    for (const int32_t pos : {0, n - 1 - (n * 7) % std::min(n, 200)}) {
      arena.reset();
      PrefillStep step;
      step.add(pos, n - pos, n);
      BlockPlan plan;
      ASSERT_TRUE(selector->build({.seqs = step.seqs, .n_heads = 1, .tile_rows = kTile}, kNoWindow, arena, plan).ok());
      const Status checked = check_block_plan(plan, {.seqs = step.seqs, .n_heads = 1});
      ASSERT_TRUE(checked.ok()) << n << ": " << checked.message();
      const int32_t dense_from = std::max(0, n - kLast);
      bool sparse = false, dense = false;
      for (int32_t t = 0; t < *plan.n_tiles; ++t) {
        const QTile& tile = plan.tiles[t];
        const KeyList& list = plan.lists[tile.list0];
        const int32_t end = pos + tile.row0 + tile.rows;
        ASSERT_EQ(list.n_abs, 1);
        if (end > dense_from) {
          dense = true;
          ASSERT_EQ(plan.ranges[list.abs0].hi, n);
          ASSERT_EQ(list.n_rel, 0);
          ASSERT_EQ(list.dense_from, dense_from);
        } else {
          sparse = true;
          ASSERT_EQ(plan.ranges[list.abs0].hi, std::min(kSink, n));
          ASSERT_EQ(list.n_rel, 1);
          ASSERT_EQ(plan.ranges[list.rel0].hi, kWindow);
          ASSERT_EQ(list.dense_from, INT32_MAX);
        }
        ASSERT_EQ(list.sink, kSink);
        ASSERT_EQ(list.window, kWindow);
      }
      ASSERT_TRUE(dense) << "the last row is there";
      both += sparse && dense;
      ++plans;
    }
  }
  EXPECT_EQ(plans, 2 * 4096);
  EXPECT_GT(both, 4000);
}

}  // namespace
}  // namespace pare::testing
