#include "kv/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "policy_conformance.h"

namespace pare::testing {
namespace {

using ::testing::HasSubstr;

using PlanRun = ::pare::Run;  // not ::testing::Test::Run

struct Dense {
  static constexpr const char* kSpec = "dense";
  static bool sees(int32_t, int32_t) { return true; }
  static int64_t pages_kept(int32_t len) { return (len + kPageRows - 1) / kPageRows; }
};
struct Streaming {
  static constexpr const char* kSpec = "streaming(sink=4,recent=256)";
  static bool sees(int32_t i, int32_t j) { return j < 4 || i - j < 256; }
  // One page of sinks, 256 rows that may begin and end within pages, a tile cell and the rows that may be
  // taken back.
  static int64_t pages_kept(int32_t) { return 1 + 4 + 1 + 1 + 1; }
};
struct LongSink {
  static constexpr const char* kSpec = "streaming(sink=2300,recent=1)";
  static bool sees(int32_t i, int32_t j) { return j < 2300 || i == j; }
  static int64_t pages_kept(int32_t) { return 36 + 4; }
};
struct NoSink {
  static constexpr const char* kSpec = "streaming(sink=0,recent=77)";
  static bool sees(int32_t i, int32_t j) { return i - j < 77; }
  static int64_t pages_kept(int32_t) { return 5; }
};
// Every key is read, in one form or the other; of the full zone only the sinks and the recent rows are held.
struct Leank {
  static constexpr const char* kSpec = "leank(sink=4,recent=256,flush=64)";
  static bool sees(int32_t, int32_t) { return true; }
  static int64_t pages_kept(int32_t) { return 1 + 5 + 1; }
};
struct LeankLongSink {
  static constexpr const char* kSpec = "leank(sink=300,recent=1,flush=192)";
  static bool sees(int32_t, int32_t) { return true; }
  static int64_t pages_kept(int32_t) { return 5 + 3 + 1; }
};
struct Quant {
  static constexpr const char* kSpec = "quant(k=2,v=4,sink=0,recent=100,flush=128)";
  static bool sees(int32_t, int32_t) { return true; }
  static int64_t pages_kept(int32_t) { return 4 + 1; }
};
struct Both {
  static constexpr const char* kSpec = "leank(sink=64,recent=128)+quant(recent=32)";
  static bool sees(int32_t, int32_t) { return true; }
  static int64_t pages_kept(int32_t) { return 1 + 4 + 1; }
};
// Some sequences of each test stay below the gate, some begin beyond it, some grow past it.
struct Gated {
  static constexpr const char* kSpec = "leank(sink=4,recent=256,flush=64,min_tokens=1301)";
  static bool sees(int32_t, int32_t) { return true; }
  static int64_t pages_kept(int32_t) { return 1 + 5 + 1; }
};
using Policies = ::testing::Types<Dense, Streaming, LongSink, NoSink, Leank, LeankLongSink, Quant, Both, Gated>;
INSTANTIATE_TYPED_TEST_SUITE_P(Residents, PolicyConformance, Policies);

std::string error(std::string_view text) {
  auto spec = parse_spec(text, "kv");
  return spec.ok() ? std::string(make_kv_policy(*spec).status().message()) : std::string(spec.status().message());
}

TEST(KvPolicy, MistakesPointAtTheTerm) {
  EXPECT_THAT(error("lean"), HasSubstr("column 1: unknown policy 'lean'; known: dense, streaming, leank, quant"));
  EXPECT_THAT(error("streaming(window=3)"), HasSubstr("unknown parameter 'window'; 'streaming' takes sink, recent"));
  EXPECT_THAT(error("streaming(sink=65536)"), HasSubstr("out of range; 0 to 65535"));
  EXPECT_THAT(error("streaming+streaming"),
              HasSubstr("column 11: 'streaming' cannot follow 'streaming': both own Predicate"));
  EXPECT_THAT(error("dense+streaming"), HasSubstr("both own Predicate"));
  EXPECT_THAT(error("quant+leank"), HasSubstr("column 7: 'leank' cannot follow 'quant': it needs Plain"));
  EXPECT_THAT(error("leank+streaming"), HasSubstr("it needs FullWidth, which 'leank' breaks once the prompt"));
  EXPECT_THAT(error("streaming+leank"), HasSubstr("it needs AllRows, which 'streaming' breaks once the prompt"));
  EXPECT_THAT(error("streaming+quant"), HasSubstr("it needs AllRows"));
  EXPECT_THAT(error("dense+leank"), HasSubstr("both own MidRows"));
  EXPECT_THAT(error("leank+leank"), HasSubstr("'leank' cannot follow 'leank'"));
  EXPECT_THAT(error("leank(flush=100)"), HasSubstr("flush is 100: rows move by whole pages of 64"));
  EXPECT_THAT(error("leank(flush=16777152)+quant(flush=16777088)"), HasSubstr("meet only every"));
  EXPECT_THAT(error("leank(mask=nowhere.json)"), HasSubstr("mask 'nowhere.json': no file can be read here"));
  EXPECT_THAT(error("quant(k=3)"), HasSubstr("k is 3: 2, 4, 8 or 16 bits are possible"));
  auto spec = parse_spec("streaming", "kv");
  EXPECT_EQ(make_kv_policy(*spec)->canonical, "streaming(sink=4,recent=1024)");
}

// Where rows move is a matter of positions: a row sees at least `recent` rows before it whole, and less than `flush`
// more.
TEST(MidZoneRuns, RowsMoveAtTheirPositions) {
  DecodeRig rig("leank(sink=4,recent=256,flush=64)");
  const SeqId seq = rig.start(700);
  int moves = 0, moved_before = 0;
  for (int32_t pos = 700; pos < 1000; ++pos) {
    EXPECT_EQ(rig.store->rows_until_move(seq), (pos - 256) / 64 * 64 + 64 + 256 - pos);
    rig.step({{seq, 1}}, true);
    ASSERT_FALSE(::testing::Test::HasFatalFailure());
    const SegmentPlan& plan = rig.plans.classes[1].segment;
    ASSERT_EQ(*plan.n_runs, 3);
    const int32_t moved = (pos - 256) / 64 * 64;
    EXPECT_EQ(plan.runs[0].row0 + plan.runs[0].rows, 4);
    EXPECT_EQ(plan.runs[1].row0, moved) << "position " << pos;
    EXPECT_EQ(plan.runs[2].zone, kZoneMid);
    EXPECT_EQ(plan.runs[2].row0, 4);
    EXPECT_EQ(plan.runs[2].rows, moved - 4);
    moves += moved != moved_before;
    moved_before = moved;
    ASSERT_TRUE(rig.store->check().ok()) << rig.store->check().message();
  }
  EXPECT_EQ(moves, 6);
}

// Nothing moves before a row below the gate; behind it everything is as without one.
TEST(MidZoneGate, IsAFunctionOfThePosition) {
  for (const int32_t sink : {0, 4, 64, 300}) {
    MidZone plain{.sink = sink, .recent = 100, .flush = 64};
    for (const int32_t gate : {0, 1, 99, 100, 163, 164, 165, 229, 500, 777, 1000}) {
      MidZone zone = plain;
      zone.min_tokens = gate;
      for (int32_t pos = 0; pos < 1200; ++pos) {
        const int32_t moved = pos < gate ? 0 : plain.moved_before(pos);
        ASSERT_EQ(zone.moved_before(pos), moved) << "gate " << gate << ", position " << pos;
        ASSERT_EQ(zone.held_back(pos), moved != plain.moved_before(pos));
        int32_t next = pos + 1;
        while ((next < gate ? 0 : plain.moved_before(next)) == moved) ++next;
        ASSERT_EQ(zone.next_move(pos), next) << "gate " << gate << ", position " << pos;
      }
    }
  }
  MidZone never{.sink = 4, .recent = 100, .flush = 64, .min_tokens = kMaxContext};
  EXPECT_EQ(never.moved_before(kMaxContext - 1), 0);
  EXPECT_GT(never.moved_before(kMaxContext), 0);
  EXPECT_EQ(never.next_move(0), kMaxContext);
  EXPECT_EQ(never.next_move(kMaxContext - 1), kMaxContext);
}

// What would have moved page by page moves at the end of the step that reaches the gate.
TEST(MidZoneGate, ManyPagesMoveAtOnce) {
  DecodeRig rig("leank(sink=70,recent=100,flush=64,min_tokens=901)", 2, 2000);
  const SeqId seq = rig.start(890);
  EXPECT_EQ(rig.store->rows_until_move(seq), 11);
  EXPECT_EQ(rig.store->stats().classes[1].pages_used, 14);
  for (int32_t pos = 890; pos < 901; ++pos) {
    rig.step({{seq, 1}}, true);
    ASSERT_FALSE(::testing::Test::HasFatalFailure());
    ASSERT_EQ(*rig.plans.classes[1].segment.n_runs, 1) << "position " << pos;
    ASSERT_EQ(rig.n_moves, pos == 900 ? 11 : 0) << "position " << pos;
  }
  const KvClassStats after = rig.store->stats().classes[1];
  EXPECT_EQ(after.moved, 11) << "pages 1 to 11: rows 70 to 767";
  EXPECT_EQ(after.pages_used, 2 + 3) << "pages 0 and 1, which hold the sinks, and 12 to 14";
  EXPECT_TRUE(rig.store->check().ok()) << rig.store->check().message();
  EXPECT_EQ(rig.store->min_length(seq), 901);
  EXPECT_EQ(rig.store->rows_until_move(seq), 832 + 100 - 901);
  rig.step({{seq, 1}}, true);
  ASSERT_EQ(*rig.plans.classes[1].segment.n_runs, 3);
  EXPECT_EQ(rig.plans.classes[1].segment.runs[2].rows, 768 - 70);
}

// Pools hold what sequences below the gate hold, and no second zone where none can reach it.
TEST(MidZoneGate, PoolsAreMeasuredForIt) {
  const auto stats = [](const std::string& kv) { return DecodeRig(kv, 1, 16'000).store->stats(); };
  const KvStats dense = stats("dense"), plain = stats("leank(sink=4,recent=64,flush=64)");
  const KvStats gated = stats("leank(sink=4,recent=64,flush=64,min_tokens=2000)");
  EXPECT_LT(plain.classes[1].pages, gated.classes[1].pages);
  // One prompt of full length, and of each sequence 2,000 rows.
  EXPECT_GE(gated.classes[1].pages, std::min<int64_t>(dense.classes[1].pages, 63 + 4 * 32));
  EXPECT_GT(gated.bytes_mid_k, 0);
  for (const char* never : {"leank(min_tokens=4001)", "quant(min_tokens=16777216)"}) {
    const KvStats none = stats(never);
    EXPECT_EQ(none.bytes_mid_k, 0) << never;
    EXPECT_EQ(none.classes[1].pages, dense.classes[1].pages) << never;
  }
  EXPECT_GT(stats("leank(min_tokens=4000)").bytes_mid_k, 0);
}

class OneMask final : public PolicyFiles {
 public:
  Expected<ChannelMask> channel_mask(const std::string&) override {
    ChannelMask mask{.n_layers = 1, .n_kv_heads = 1, .head_dim = 16, .heads = {{}}};
    mask.min_tokens = {{"cpu-avx2", 900}, {"cuda-sm90", 8192}};
    return mask;
  }
  Expected<LayerRanking> layer_ranking(const std::string&) override { return not_found("none"); }
};

// The canonical form holds the number: the spec's, else the mask's for the device, else 0; of two stages the larger
// counts.
TEST(MidZoneGate, ComesFromTheSpecOrTheMask) {
  OneMask files;
  const auto made = [&](const char* text, std::string_view device) {
    return make_kv_policy(*parse_spec(text, "kv"), {.device_class = device, .files = &files}).value();
  };
  const auto card = made("leank(mask=m)", "cuda-sm90");
  EXPECT_EQ(card.canonical, "leank(mask=m,sink=128,recent=768,flush=128,min_tokens=8192)");
  EXPECT_EQ(card.policy->mid()->min_tokens, 8192);
  EXPECT_EQ(made("leank(mask=m)", "cpu-avx2").policy->mid()->min_tokens, 900);
  EXPECT_EQ(made("leank(mask=m)", "cpu-amx").policy->mid()->min_tokens, 0);
  EXPECT_EQ(made("leank(mask=m,min_tokens=7)", "cuda-sm90").canonical,
            "leank(mask=m,sink=128,recent=768,flush=128,min_tokens=7)");
  EXPECT_EQ(made("leank", "cuda-sm90").canonical, "leank(sink=128,recent=768,flush=128,min_tokens=0)");
  EXPECT_EQ(made("quant", "cuda-sm90").canonical, "quant(k=4,v=4,sink=0,recent=128,flush=128,min_tokens=0)");
  EXPECT_EQ(made("leank(mask=m)+quant(min_tokens=9000)", "cuda-sm90").policy->mid()->min_tokens, 9000);
  EXPECT_EQ(made("leank(mask=m)+quant(min_tokens=90)", "cuda-sm90").policy->mid()->min_tokens, 8192);
  EXPECT_THAT(error("leank(min_tokens=16777217)"), HasSubstr("min_tokens: 16777217 is out of range"));
  EXPECT_THAT(error("quant(min_tokens=-1)"), HasSubstr("min_tokens"));
}

TEST(SegmentPlanner, ItemsFollowTheThreads) {
  int32_t items[3];
  int n = 0;
  for (const int32_t threads : {1, 2, 16}) {
    DecodeRig rig("dense", threads);
    const SeqId seq = rig.start(3900);
    rig.step({{seq, 1}}, true);
    items[n++] = rig.plans.classes[1].segment.items_cap;
    EXPECT_EQ(rig.plans.classes[1].segment.runs[0].item_spans == 1, threads > 1);
  }
  EXPECT_LE(items[0], items[1]);
  EXPECT_EQ(items[2], 16) << "one item a span of 256 rows";
}

// A window that begins in the middle of an item: its last rows are in an item of their own.
TEST(SegmentPlanner, ItemsBeginAtMultiplesOfTheirSize) {
  const auto spec = parse_spec("streaming(sink=4,recent=6000)", "kv");
  ASSERT_TRUE(spec.ok()) << spec.status().to_string();
  const auto kv = make_kv_policy(*spec);
  ASSERT_TRUE(kv.ok()) << kv.status().to_string();
  const SegmentShape shape = {.n_heads = 8, .n_kv_heads = 2, .head_dim = 64, .threads = 1};
  for (const int32_t pos : {9000, 11999, 14335, 16384, 20479}) {
    Arena arena(
        std::move(AlignedBuffer::allocate(segment_plan_max_bytes(*kv->policy, shape, 1, 1, pos + 1).total())).value());
    SeqStep seq{.q_row = 0, .n_q = 1, .pos = pos, .flags = kSeqDecode};
    SegmentPlan plan;
    const Status status = build_segment_plan(*kv->policy, kNoWindow, shape, {&seq, 1}, {}, arena, arena, plan);
    ASSERT_TRUE(status.ok()) << status.to_string();
    for (int32_t r = 0; r < *plan.n_runs; ++r) {
      const PlanRun& run = plan.runs[r];
      const int32_t item_rows = run.item_spans * kSpanRows;
      int32_t items = 0;
      for (int32_t at = run.row0 / item_rows * item_rows; at < run.row0 + run.rows; at += item_rows) ++items;
      EXPECT_EQ(plan.item_prefix[r + 1] - plan.item_prefix[r], items) << "run " << r << " of position " << pos;
    }
  }
}

// 132 multiprocessors: items as large as leave no round half empty, less than an octet while there are fewer octets
// than multiprocessors; never more than the arena was measured for.
TEST(SegmentPlanner, ItemsOfACardAreDealtInRounds) {
  const auto spec = parse_spec("dense", "kv");
  const auto kv = make_kv_policy(*spec);
  const SegmentShape shape = {.n_heads = 32, .n_kv_heads = 8, .head_dim = 128, .threads = 132, .item_overhead = 256};
  const auto item_spans = [&](int sequences, int32_t context) {
    const size_t bytes = segment_plan_max_bytes(*kv->policy, shape, sequences, sequences, context).total();
    Arena arena(std::move(AlignedBuffer::allocate(bytes)).value());
    std::vector<SeqStep> seqs(sequences);
    for (int i = 0; i < sequences; ++i) seqs[i] = {.q_row = i, .n_q = 1, .pos = context - 1, .flags = kSeqDecode};
    SegmentPlan plan;
    const Status status = build_segment_plan(*kv->policy, kNoWindow, shape, seqs, {}, arena, arena, plan);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return status.ok() ? int{plan.runs[0].item_spans} : 0;
  };
  EXPECT_EQ(item_spans(1, 512), 1);
  EXPECT_EQ(item_spans(1, 4096), 1);
  EXPECT_EQ(item_spans(1, 8192), 2);
  EXPECT_EQ(item_spans(1, 16384), 4);
  EXPECT_EQ(item_spans(1, 32768), 8);
  EXPECT_EQ(item_spans(8, 32768), 64);
  EXPECT_EQ(item_spans(8, 131072), 256);
  for (int sequences : {1, 3, 16, 100}) {
    for (int32_t context : {1, 255, 300, 2049, 5000, 16384, 40000}) EXPECT_GT(item_spans(sequences, context), 0);
  }
}

TEST(SegmentPlanCheck, RefusesBrokenPlans) {
  const auto verdict = [](auto damage) {
    DecodeRig rig("streaming(sink=4,recent=300)", 64);
    const SeqId a = rig.start(2000), b = rig.start(900);
    rig.step({{a, 1}, {b, 4}}, true);
    ClassStep& cls = rig.plans.classes[1];
    damage(const_cast<PlanRun*>(cls.segment.runs), const_cast<Fold*>(cls.segment.folds),
           const_cast<int32_t*>(cls.segment.item_prefix), const_cast<SeqStep*>(cls.seqs));
    return check_segment_plan(cls.segment, {.seqs = {cls.seqs, 2}, .n_heads = 6, .kv = &rig.plans.kv}).ok();
  };
  EXPECT_TRUE(verdict([](PlanRun*, Fold*, int32_t*, SeqStep*) {}));
  EXPECT_FALSE(verdict([](PlanRun* r, Fold*, int32_t*, SeqStep*) { r[1].rows += 1; }));
  EXPECT_FALSE(verdict([](PlanRun* r, Fold*, int32_t*, SeqStep*) { r[1].rows -= 1; }));
  EXPECT_FALSE(verdict([](PlanRun* r, Fold*, int32_t*, SeqStep*) { r[1].row0 = r[1].pos0 -= 600; }));
  EXPECT_FALSE(verdict([](PlanRun* r, Fold*, int32_t*, SeqStep*) { r[3].flags = 0; }));
  EXPECT_FALSE(verdict([](PlanRun* r, Fold*, int32_t*, SeqStep*) { r[0].item_spans = 7; }));
  EXPECT_FALSE(verdict([](PlanRun*, Fold* f, int32_t*, SeqStep*) { f[1].part0 = 0; }));
  EXPECT_FALSE(verdict([](PlanRun*, Fold*, int32_t* p, SeqStep*) { p[1] += 1; }));
  EXPECT_FALSE(verdict([](PlanRun*, Fold*, int32_t*, SeqStep* s) { s[0].n_folds = 1; }));
}

}  // namespace
}  // namespace pare::testing
