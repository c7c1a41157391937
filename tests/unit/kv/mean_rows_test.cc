// kv=leank(empty=mean): the term, the bytes of estimated rows, and the runs that name them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "policy_conformance.h"

namespace pare::testing {
namespace {

using ::testing::HasSubstr;

// Layers 0 and 2 of two_class_map have a window of their own and keep everything; of layer 1 head 0 keeps nothing.
class Files final : public PolicyFiles {
 public:
  explicit Files(bool empty = true) : empty_(empty) {}
  Expected<ChannelMask> channel_mask(const std::string&) override {
    ChannelMask mask{.n_layers = 3, .n_kv_heads = 2, .head_dim = 16};
    mask.heads.resize(6);
    for (size_t i = 0; i < 6; ++i) {
      if (i == 2 && empty_) continue;
      for (uint16_t c = 0; c < 16; ++c) mask.heads[i].push_back({c, 1.0f});
    }
    return mask;
  }
  Expected<LayerRanking> layer_ranking(const std::string&) override { return unsupported("no rankings"); }

 private:
  bool empty_;
};

Expected<KvPolicyChoice> made(std::string_view text, bool empty = true) {
  Files files(empty);
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec(text, "kv"));
  return make_kv_policy(spec, {.files = &files});
}

TEST(MeanRows, TheDefaultIsToDrop) {
  const std::string start = "leank(mask=m,sink=128,recent=768,flush=128,min_tokens=0";
  EXPECT_EQ(made("leank(mask=m)")->canonical, start + ")");
  EXPECT_EQ(made("leank(mask=m,empty=drop)")->canonical, start + ")");
  EXPECT_EQ(made("leank(empty=mean,mask=m)")->canonical, start + ",empty=mean)");
  EXPECT_THAT(std::string(made("leank(empty=keep)").status().message()),
              HasSubstr("empty is 'keep': drop or mean are possible"));
  EXPECT_THAT(std::string(made("leank(empty=\"\")").status().message()), HasSubstr("empty is ''"));
  EXPECT_FALSE(made("leank(mask=m)")->policy->mid()->has_means());
  EXPECT_TRUE(made("leank(mask=m,empty=mean)")->policy->mid()->has_means());
  EXPECT_TRUE(made("leank(mask=m,empty=mean)+quant")->policy->mid()->has_means());
  // Nothing to estimate: no mask, or one without empty heads.
  EXPECT_FALSE(made("leank(empty=mean)")->policy->mid()->has_means());
  EXPECT_FALSE(made("leank(mask=m,empty=mean)", false)->policy->mid()->has_means());
}

StoreLayout layout_of(std::string_view text) {
  const auto choice = made(text);
  const LayerMap map = two_class_map(100);
  KvStoreConfig config = small_config(map);
  config.codec = Codec::F16;
  config.mid = *choice->policy->mid();
  return plan_store_layout(config).value();
}

// Of an empty head a page holds 16 rows of V where there were 64, and 16 fp32 numbers.
TEST(MeanRows, BytesAreTheFormula) {
  const int64_t head = 2 * 64 * 16 * 2, means = 16 * 16 * 2, weights = 16 * 4;
  EXPECT_EQ(layout_of("leank(mask=m)").classes[1].mid.page_bytes, head);
  const MidLayout mid = layout_of("leank(mask=m,empty=mean)").classes[1].mid;
  EXPECT_EQ(mid.page_bytes, head + means + weights);
  EXPECT_EQ(mid.page_bytes_k, head / 2);
  EXPECT_EQ(mid.page_bytes_v, head / 2 + means);
  EXPECT_EQ(mid.page_bytes_scales, weights);
  EXPECT_EQ(mid.pool_bytes, mid.page_bytes * mid.pages);
  const MidLayout coded = layout_of("leank(mask=m,empty=mean)+quant(k=4,v=4)").classes[1].mid;
  const MidLayout dropped = layout_of("leank(mask=m)+quant(k=4,v=4)").classes[1].mid;
  EXPECT_EQ(coded.page_bytes, dropped.page_bytes + means + weights);
  EXPECT_EQ(coded.page_bytes_scales, dropped.page_bytes_scales + weights);
}

// A head has rows in one of the zones, and no byte is in two planes.
TEST(MeanRows, PlanesAreDisjoint) {
  for (const char* text : {"leank(mask=m,empty=mean)", "leank(mask=m,empty=mean)+quant(k=2,v=8)"}) {
    DecodeRig rig(text, 2, 0, std::make_unique<Files>());
    const KvView& view = rig.store->view();
    const RowFormat &empty = view.format(kZoneSum, 1, 0), &other = view.format(kZoneMid, 1, 1);
    EXPECT_EQ(view.format(kZoneMid, 1, 0).v_width, 0);
    EXPECT_EQ(view.format(kZoneSum, 1, 1).v_width, 0);
    EXPECT_EQ(view.zones[kZoneSum].page_rows, 16u);
    EXPECT_EQ(empty.v_width, 16);
    EXPECT_EQ(empty.k_width, 0);
    EXPECT_EQ(empty.pool, other.pool);
    EXPECT_EQ(empty.page_bytes, other.page_bytes);
    EXPECT_EQ(empty.lw, empty.v + 16 * 16 * codec_bits(empty.v_codec) / 8);
    EXPECT_EQ(other.k, empty.lw + 64);
  }
}

// Estimated rows cover exactly the moved ones: [sink / 4, moved / 4), of which the first may stand for fewer than four.
TEST(MeanRows, RunsFollowTheMovedRows) {
  for (const int32_t sink : {0, 5, 64, 70}) {
    DecodeRig rig("leank(mask=m,sink=" + std::to_string(sink) + ",recent=256,flush=64,empty=mean)", 2, 0,
                  std::make_unique<Files>());
    const SeqId seq = rig.start(250);
    for (int32_t pos = 250; pos < 2500; ++pos) {
      rig.step({{seq, 1}}, true);
      ASSERT_FALSE(::testing::Test::HasFatalFailure());
      const SegmentPlan& plan = rig.plans.classes[1].segment;
      const int32_t moved = rig.policy->mid()->moved_before(pos);
      int32_t row = sink / 4, mid_page0 = -1;
      for (int32_t r = 0; r < *plan.n_runs; ++r) {
        if (plan.runs[r].zone == kZoneMid) mid_page0 = static_cast<int32_t>(plan.runs[r].page0);
        if (plan.runs[r].zone != kZoneSum) continue;
        EXPECT_EQ(plan.runs[r].row0, row);
        EXPECT_EQ(plan.runs[r].pos0, -1);
        EXPECT_EQ(static_cast<int32_t>(plan.runs[r].page0), mid_page0);
        row += plan.runs[r].rows;
      }
      EXPECT_EQ(row, moved == 0 ? sink / 4 : moved / 4) << pos;
      const SegmentPlan& windowed = rig.plans.classes[0].segment;
      for (int32_t r = 0; r < *windowed.n_runs; ++r) EXPECT_EQ(windowed.runs[r].zone, kZoneFull);
    }
    ASSERT_TRUE(rig.store->check().ok()) << rig.store->check().message();
  }
}

TEST(MeanRows, PlansFitTheArena) {
  DecodeRig rig("leank(mask=m,sink=0,recent=1,flush=64,empty=mean)", 64, 0, std::make_unique<Files>());
  std::vector<DecodeRig::Rows> rows;
  for (int i = 0; i < 4; ++i) rows.push_back({rig.start(DecodeRig::kContext - 20 - i), kMaxDecodeRows});
  for (DecodeRig::Rows& r : rows) {
    r.n_q = static_cast<int32_t>(std::min<int64_t>(kMaxDecodeRows, rig.store->rows_until_move(r.seq)));
  }
  rig.step(rows, true);
}

TEST(MeanRows, CheckRefusesBrokenRuns) {
  const auto verdict = [](auto damage) {
    DecodeRig rig("leank(mask=m,sink=5,recent=64,flush=64,empty=mean)", 64, 0, std::make_unique<Files>());
    const SeqId seq = rig.start(900);
    rig.step({{seq, 1}}, true);
    const ClassStep& cls = rig.plans.classes[1];
    auto* runs = const_cast<::pare::Run*>(cls.segment.runs);
    EXPECT_EQ(runs[*cls.segment.n_runs - 1].zone, kZoneSum);
    damage(runs[*cls.segment.n_runs - 1]);
    return check_segment_plan(cls.segment, {.seqs = {cls.seqs, 1}, .n_heads = 6, .kv = &rig.plans.kv}).ok();
  };
  EXPECT_TRUE(verdict([](::pare::Run&) {}));
  EXPECT_FALSE(verdict([](::pare::Run& r) { r.pos0 = 5; }));
  EXPECT_FALSE(verdict([](::pare::Run& r) { r.rows += 33; }));
}

}  // namespace
}  // namespace pare::testing
