// kv=leank(empty=mean) over a real store, real plans and real moves: decode rows against a softmax in double in which
// every pruned row of an empty head has logit 0.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "attention/selector.h"
#include "attention_history.h"
#include "kv/configure.h"
#include "kv/policy.h"
#include "kv/step_builder.h"
#include "kv/store.h"
#include "ops_rig.h"

namespace pare::test {
namespace {

constexpr int32_t kContext = 500, kLayers = 3;
constexpr bool kEmpty[kLayers][kKvHeads] = {{false, true}, {false, false}, {true, true}};  // layer 1 has a window

class Files final : public PolicyFiles {
 public:
  Expected<ChannelMask> channel_mask(const std::string&) override {
    ChannelMask mask{.n_layers = kLayers, .n_kv_heads = kKvHeads, .head_dim = kHeadDim};
    for (const auto& layer : kEmpty) {
      for (const bool empty : layer) {
        mask.heads.emplace_back();
        for (uint16_t c = 0; !empty && c < kHeadDim; ++c) mask.heads.back().push_back({c, 1.0f});
      }
    }
    return mask;
  }
  Expected<LayerRanking> layer_ranking(const std::string&) override { return unsupported("no rankings"); }
};

struct History : HeadRows {
  int32_t prompt_len = 0;
};

class MeanRig {
 public:
  explicit MeanRig(const std::string& kv, int threads = 2) : rig(threads), rng_(5) {
    const LayerInfo layers[] = {{kNoWindow, 0, true}, {kWindow, 1, true}, {kNoWindow, 2, true}};
    map_ = make_layer_map(layers).value();
    selectors_ = std::make_unique<SelectorSet>(SelectorSet::make(parse_spec("dense", "attn").value(), map_).value());
    Files files;
    policy = std::move(make_kv_policy(parse_spec(kv, "kv").value(), {.files = &files}).value().policy);
    KvStoreConfig config;
    config.layers = &map_;
    config.n_kv_heads = kKvHeads;
    config.head_dim = kHeadDim;
    config.codec = Codec::F32;
    config.max_sequences = 4;
    config.max_context = config.max_step_rows = kContext;
    config.share_prefixes = false;
    apply_policies(selectors_->facts(), *policy, map_, config);
    store = KvStore::create(config).value();
    shape_ = {kHeads, kKvHeads, kHeadDim, threads};
  }

  SeqId start(int32_t prompt) {
    const SeqId seq = store->create_sequence().value();
    history[seq].prompt_len = prompt;
    step({{seq, prompt}}, false);
    return seq;
  }

  struct Work {
    SeqId seq;
    int32_t n_q;
  };
  void step(const std::vector<Work>& work, bool decode) {
    ExecContext& ctx = rig.ctx;
    ctx.arena.reset();
    const std::vector<int32_t> ids(kContext, 1);
    std::vector<StepSeq> seqs;
    HeadRows rows;
    for (const Work& w : work) {
      History& h = history[w.seq];
      ASSERT_TRUE(store->reserve(w.seq, w.n_q, h.prompt_len).ok());
      seqs.push_back(
          {.seq = w.seq, .tokens = std::span(ids).first(w.n_q), .prompt_len = h.prompt_len, .decode = decode});
      h.extend(rng_, w.n_q, &rows);
    }
    StepPlans plans;
    ASSERT_TRUE(build_step(seqs, map_, *policy, shape_, *store, ctx.arena, ctx.arena, plans).ok());
    const std::span<const SeqStep> steps(plans.classes[0].seqs, work.size());
    ASSERT_TRUE(selectors_->build({.seqs = steps, .n_heads = kHeads, .tile_rows = 16}, ctx.arena, plans).ok());
    ops::copy_pages(ctx, plans);
    for (int32_t l = 0; l < kLayers; ++l) {
      ops::LinearInput out = ops::make_linear_input(ctx, plans.n_rows, kHeads * kHeadDim, false);
      Tensor q_rows = floats(rows.q, {plans.n_rows, kHeads, kHeadDim}),
             k_rows = floats(rows.k, {plans.n_rows, kKvHeads, kHeadDim});
      ops::attend_layer(ctx, plans, l, kScale, {}, q_rows, k_rows, floats(rows.v, {plans.n_rows, kKvHeads, kHeadDim}),
                        out);
      compare(work, values_of(out.values), l, decode);
    }
    store->commit_step([&](std::span<const RowMove> group) { ops::move_rows(ctx, plans, group); });
  }

  OpsRig rig;
  std::unique_ptr<KvPolicy> policy;
  std::unique_ptr<KvStore> store;
  std::map<SeqId, History> history;

 private:
  void compare(const std::vector<Work>& work, const std::vector<float>& out, int32_t l, bool decode) {
    size_t at = 0;
    for (const Work& w : work) {
      const History& h = history[w.seq];
      const int32_t pos = store->length(w.seq), moved = decode && l != 1 ? policy->mid()->moved_before(pos) : 0;
      const auto pruned = [&](int32_t g, int32_t j) { return kEmpty[l][g] && j >= policy->mid()->sink && j < moved; };
      for (int32_t row = pos; row < pos + w.n_q; ++row) {
        for (const double expected : oracle_row(h, row, l == 1 ? kWindow : kContext, pruned)) {
          // |v| < 5; logits of 16 terms, weights of at most 500 keys, means of 4.
          ASSERT_NEAR(out[at++], expected, 5 * 540 * 0x1p-23) << "layer " << l << " row " << row << " moved " << moved;
        }
      }
    }
  }
  Philox rng_;
  LayerMap map_;
  std::unique_ptr<SelectorSet> selectors_;
  SegmentShape shape_;
};

std::string spec(int32_t sink, const char* rest = "") {
  return "leank(mask=m,sink=" + std::to_string(sink) + ",recent=32,flush=64,empty=mean)" + rest;
}

// Prompts that end before, at and behind the position where rows move, sinks that cut a group of four or a page.
TEST(MeanRows, PrunedRowsOfEmptyHeadsHaveLogitZero) {
  for (const int32_t sink : {0, 1, 6, 63, 64, 70}) {
    MeanRig rig(spec(sink));
    for (const int32_t prompt : {1, 95, 96, 97, 160, 300}) {
      SCOPED_TRACE("sink " + std::to_string(sink) + ", prompt " + std::to_string(prompt));
      const SeqId seq = rig.start(prompt);
      for (int n = 0; n < 90 && !::testing::Test::HasFatalFailure(); ++n) {
        const auto most = static_cast<int32_t>(std::min<int64_t>(n % 7 == 0 ? 5 : 1, rig.store->rows_until_move(seq)));
        rig.step({{seq, most}}, true);
      }
      ASSERT_TRUE(rig.store->check().ok()) << rig.store->check().message();
      rig.store->free_sequence(seq);
      rig.history.erase(seq);
    }
  }
}

TEST(MeanRows, ForksAndMates) {
  MeanRig rig(spec(6), 3);
  const SeqId a = rig.start(150), b = rig.start(40);
  for (int n = 0; n < 20; ++n) rig.step({{a, 1}, {b, 1}}, true);
  const SeqId c = rig.store->fork(a).value();
  rig.history[c] = rig.history[a];
  for (int n = 0; n < 100 && !::testing::Test::HasFatalFailure(); ++n) rig.step({{c, 1}, {b, 1}, {a, 1}}, true);
  ASSERT_TRUE(rig.store->check().ok()) << rig.store->check().message();
}

// Values of estimated rows stay in the full zone's codec: a quantizing stage behind changes nothing of empty heads.
TEST(MeanRows, QuantLeavesMeansAlone) {
  const MeanRig plain(spec(6)), coded(spec(6, "+quant(k=4,v=4,recent=32,flush=64)"));
  const RowFormat &a = plain.store->view().format(kZoneSum, 2, 1), &b = coded.store->view().format(kZoneSum, 2, 1);
  for (const RowFormat* f : {&a, &b}) {
    EXPECT_EQ(f->v_codec, Codec::F32);
    EXPECT_EQ(f->k_width, 0);
    EXPECT_EQ(f->v_width, kHeadDim);
    EXPECT_EQ(f->lw, f->v + kSumPageRows * kHeadDim * 4);
  }
}

}  // namespace
}  // namespace pare::test
