// attend_layer and copy_pages over a real store and real plans, against softmax in double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "attention/selector.h"
#include "attention_history.h"
#include "kernels/prefill_pieces.h"
#include "kv/policy.h"
#include "kv/step_builder.h"
#include "kv/store.h"
#include "ops_rig.h"

namespace pare::test {
namespace {

constexpr int32_t kContext = 160;

LayerMap two_layers() {
  const LayerInfo layers[] = {{kNoWindow, 0, true}, {kWindow, 1, true}};
  return make_layer_map(layers).value();
}

// One store under both layers; each layer attends with the same q, k, v.
class AttentionRig {
 public:
  static constexpr uint16_t kTileRows = 16;

  explicit AttentionRig(int threads) : rig(threads), rng_(21), map_(two_layers()) {
    selectors_ = std::make_unique<SelectorSet>(SelectorSet::make(parse_spec("dense", "attn").value(), map_).value());
    policy_ = std::move(make_kv_policy(parse_spec("dense", "kv").value()).value().policy);
    KvStoreConfig config;
    config.layers = &map_;
    config.n_kv_heads = kKvHeads;
    config.head_dim = kHeadDim;
    config.codec = Codec::F32;
    config.max_sequences = 4;
    config.max_context = kContext;
    config.max_step_rows = kContext;
    store = KvStore::create(config).value();
    shape_ = {kHeads, kKvHeads, kHeadDim, threads};
  }

  struct Work {
    SeqId seq;
    int32_t n_q;
    bool decode;
  };

  // Appends random rows, attends, compares every row with the oracle; the outputs of both layers.
  std::vector<float> step(const std::vector<Work>& work) {
    ExecContext& ctx = rig.ctx;
    ctx.arena.reset();
    const std::vector<int32_t> ids(kContext, 1);
    std::vector<StepSeq> seqs;
    HeadRows step;
    for (const Work& w : work) {
      EXPECT_TRUE(store->reserve(w.seq, w.n_q).ok());
      seqs.push_back({.seq = w.seq, .tokens = std::span(ids).first(w.n_q), .prompt_len = 70, .decode = w.decode});
      history[w.seq].extend(rng_, w.n_q, &step);
    }
    StepPlans plans;
    EXPECT_TRUE(build_step(seqs, map_, *policy_, shape_, *store, ctx.arena, ctx.arena, plans).ok());
    EXPECT_TRUE(selectors_
                    ->build({.seqs = {plans.classes[0].seqs, work.size()}, .n_heads = kHeads, .tile_rows = kTileRows},
                            ctx.arena, plans)
                    .ok());
    const int64_t rows = plans.n_rows;
    ops::copy_pages(ctx, plans);
    std::vector<float> outputs;
    for (int32_t l = 0; l < 2; ++l) {
      ops::LinearInput out = ops::make_linear_input(ctx, rows, kHeads * kHeadDim, false);
      const size_t used = ctx.arena.used();
      Tensor q_rows = floats(step.q, {rows, kHeads, kHeadDim}), k_rows = floats(step.k, {rows, kKvHeads, kHeadDim});
      ops::attend_layer(ctx, plans, l, kScale, {}, q_rows, k_rows, floats(step.v, {rows, kKvHeads, kHeadDim}), out);
      EXPECT_EQ(ctx.arena.used(), used);
      attend_bytes = ctx.arena.peak() - used;
      const std::vector<float> values = values_of(out.values);
      compare(work, values, l == 0 ? kContext : kWindow);
      outputs.insert(outputs.end(), values.begin(), values.end());
    }
    store->commit_step();
    return outputs;
  }

  OpsRig rig;
  std::unique_ptr<KvStore> store;
  std::map<SeqId, HeadRows> history;
  size_t attend_bytes = 0;  // arena that the last attend_layer took, if no call before reached as far

 private:
  void compare(const std::vector<Work>& work, const std::vector<float>& out, int32_t window) {
    size_t at = 0;
    for (const Work& w : work) {
      for (int32_t i = 0; i < w.n_q; ++i) {
        for (const double expected :
             oracle_row(history[w.seq], store->length(w.seq) + i, window, [](int32_t, int32_t) { return false; })) {
          // |v| < 5; logits of 16 terms, weights of at most 160 keys.
          ASSERT_NEAR(out[at++], expected, 5 * 200 * 0x1p-23) << "sequence " << w.seq << " row " << i;
        }
      }
    }
  }

  Philox rng_;
  LayerMap map_;
  std::unique_ptr<SelectorSet> selectors_;
  std::unique_ptr<KvPolicy> policy_;
  SegmentShape shape_;
};

TEST(AttentionOps, PrefillDecodeAndForksOnAnyNumberOfThreads) {
  std::vector<std::vector<float>> alone;
  for (const int threads : {1, 2, 3}) {
    AttentionRig rig(threads);
    const SeqId a = rig.store->create_sequence().value(), b = rig.store->create_sequence().value();
    std::vector<std::vector<float>> outputs;
    outputs.push_back(rig.step({{a, 1, false}}));
    outputs.push_back(rig.step({{a, 69, false}}));
    outputs.push_back(rig.step({{b, 20, false}, {a, 3, true}}));  // a chunk beside drafts
    const SeqId c = rig.store->fork(a).value();
    rig.history[c] = rig.history[a];
    const uint64_t visited = rig.rig.ctx.counters.keys_visited;
    outputs.push_back(rig.step({{a, 1, true}, {c, 1, true}, {b, 1, true}}));  // both forks write the shared page
    EXPECT_EQ(rig.rig.ctx.counters.keys_visited - visited, uint64_t{kHeads} * (74 + 74 + 21 + 40 + 40 + 21));
    outputs.push_back(rig.step({{c, 16, true}, {b, 50, false}, {a, 1, true}}));
    if (::testing::Test::HasFatalFailure()) return;
    EXPECT_GT(rig.store->stats().copies, 0);
    if (threads == 1) alone = outputs;
    EXPECT_EQ(outputs, alone) << threads << " threads";
  }
}

// Model::workspace_bytes counts on it.
TEST(AttentionOps, AMixedStepNeedsTheLargerWorkspaceNotBoth) {
  AttentionRig rig(3);
  const SeqId a = rig.store->create_sequence().value(), b = rig.store->create_sequence().value();
  rig.step({{a, 1, false}});
  rig.step({{a, 16, true}, {b, 1, false}});
  const AttentionKernels& kernels = rig.rig.ctx.attention;
  const size_t larger = std::max(kernels.prefill_workspace_bytes(AttentionRig::kTileRows, kHeads / kKvHeads, kHeadDim),
                                 kernels.decode_workspace_bytes(kMaxDecodeRows * kHeads / kKvHeads, kHeadDim));
  const size_t pieces = static_cast<size_t>(tile_pieces_max(1, 3)) * sizeof(TilePiece) + 64;
  EXPECT_LE(rig.attend_bytes, 3 * (larger + 64) + sizeof(AttentionCounters) * 3 + 64 + pieces);
}

// A copied page holds every plane of every layer and head of its class, and nothing of other classes changes.
TEST(AttentionOps, CopiedPagesAreWhole) {
  AttentionRig rig(2);
  const SeqId a = rig.store->create_sequence().value();
  rig.step({{a, 30, false}});
  const SeqId b = rig.store->fork(a).value();
  ASSERT_TRUE(rig.store->reserve(b, 1).ok());
  const std::span<const PageCopy> copies = rig.store->copies();
  ASSERT_EQ(copies.size(), 2u);  // one a class
  const LayerPlan layers[] = {{.block = 0, .cls = 0, .kv_layer = 0}, {.block = 0, .cls = 1, .kv_layer = 1}};
  StepPlans plans;
  plans.kv = rig.store->view();
  plans.pools = rig.store->pools();
  plans.layers = layers;
  plans.n_layers = 2;
  plans.copies = copies.data();
  plans.n_copies = static_cast<int32_t>(copies.size());
  ops::copy_pages(rig.rig.ctx, plans);
  for (const PageCopy& copy : copies) {
    for (int32_t g = 0; g < kKvHeads; ++g) {
      const RowFormat& format = plans.kv.format(kZoneFull, copy.cls, g);
      const std::byte* pool = plans.pools[format.pool];
      for (const uint64_t plane : {format.k, format.v}) {
        const std::byte* page = pool + plane;
        EXPECT_EQ(std::memcmp(page + size_t{format.page_bytes} * copy.src, page + size_t{format.page_bytes} * copy.dst,
                              size_t{kPageRows} * kHeadDim * sizeof(float)),
                  0);
      }
    }
  }
}

}  // namespace
}  // namespace pare::test
