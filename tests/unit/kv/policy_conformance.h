// What every KV policy must keep. A policy's suite names a traits type:
//   struct Traits {
//     static constexpr const char* kSpec = "streaming(sink=4,recent=100)";
//     static bool sees(int32_t i, int32_t j);    // which keys j <= i a decode row attends
//     static int64_t pages_kept(int32_t len);    // most pages a sequence of len rows, prompt over, may hold
//   };
// and instantiates: INSTANTIATE_TYPED_TEST_SUITE_P(Streaming, PolicyConformance,
// ::testing::Types<Traits...>);
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "../plan/visibility.h"
#include "base/rng.h"
#include "kv/configure.h"
#include "kv/policy.h"
#include "kv/step_builder.h"
#include "kv/store.h"
#include "plan/check.h"
#include "store_model.h"

namespace pare::testing {

inline std::unique_ptr<KvPolicy> make_policy_of(std::string_view text, PolicyFiles* files = nullptr) {
  auto spec = parse_spec(text, "kv");
  EXPECT_TRUE(spec.ok()) << spec.status().message();
  auto made = make_kv_policy(*spec, {.files = files});
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(made->policy);
}

// A policy with a store of two layer classes (window 100, and none), prompts read densely.
class DecodeRig {
 public:
  static constexpr int32_t kContext = 4000;
  explicit DecodeRig(std::string_view spec, int32_t threads = 2, int64_t total_rows = 0,
                     std::unique_ptr<PolicyFiles> files = nullptr)
      : policy(make_policy_of(spec, files.get())), map(two_class_map(100)) {
    KvStoreConfig config = small_config(map);
    config.max_context = kContext;
    config.max_step_rows = kContext;
    config.max_sequences = 4;
    config.total_rows = total_rows;
    config.share_prefixes = false;
    PrefillFacts dense;
    for (size_t c = 0; c < map.classes.size(); ++c) dense.reach[c] = within_layer_window({}, map.classes[c].window);
    apply_policies(dense, *policy, map, config);
    auto made = KvStore::create(config);
    EXPECT_TRUE(made.ok()) << made.status().message();
    store = std::move(made).value();
    shape = {.n_heads = 6, .n_kv_heads = 2, .head_dim = 16, .threads = threads};
    const size_t bytes = step_max_bytes(4 * kMaxDecodeRows, 4, kContext, map, *policy, shape).total();
    auto buffer = AlignedBuffer::allocate(bytes + kContext * 64);
    EXPECT_TRUE(buffer.ok());
    arena = Arena(std::move(buffer).value());
  }

  SeqId start(int32_t prompt) {
    auto seq = store->create_sequence();
    EXPECT_TRUE(seq.ok());
    prompts[*seq] = prompt;
    step({{*seq, prompt}}, false);
    return *seq;
  }

  struct Rows {
    SeqId seq;
    int32_t n_q;
  };
  // Plans, checks and commits one step.
  void step(std::vector<Rows> rows, bool decode) {
    arena.reset();
    std::vector<std::vector<int32_t>> tokens;
    std::vector<StepSeq> seqs;
    for (const Rows& r : rows) {
      const Status reserved = store->reserve(r.seq, r.n_q);
      ASSERT_TRUE(reserved.ok()) << reserved.message();
      tokens.push_back(tokens_of(r.n_q));
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      seqs.push_back({.seq = rows[i].seq, .tokens = tokens[i], .prompt_len = prompts[rows[i].seq], .decode = decode});
    }
    const Status built = build_step(seqs, map, *policy, shape, *store, arena, arena, plans);
    ASSERT_TRUE(built.ok()) << built.message();
    for (int32_t c = 0; c < plans.n_classes; ++c) {
      const ClassStep& cls = plans.classes[c];
      const Status checked = check_segment_plan(cls.segment, {.seqs = {cls.seqs, rows.size()},
                                                              .n_heads = shape.n_heads,
                                                              .kv = &plans.kv,
                                                              .kv_layer = map.classes[c].kv_layers[0]});
      ASSERT_TRUE(checked.ok()) << checked.message();
    }
    n_moves = 0;
    store->commit_step([&](std::span<const RowMove> group) { n_moves += static_cast<int32_t>(group.size()); });
  }

  KeyCounts keys(int32_t cls, int32_t index, int32_t q, int32_t n_keys) const {
    const ClassStep& step = plans.classes[cls];
    return segment_keys(step.segment, {step.seqs, static_cast<size_t>(plans.n_seqs)}, index, q, n_keys);
  }

  std::unique_ptr<KvPolicy> policy;
  LayerMap map;
  std::unique_ptr<KvStore> store;
  SegmentShape shape;
  Arena arena;
  StepPlans plans;
  int32_t n_moves = 0;  // of the last step
  int32_t prompts[8] = {};
};

template <typename Traits>
class PolicyConformance : public ::testing::Test {};
TYPED_TEST_SUITE_P(PolicyConformance);

// No key missed, doubled or in the future; for one row and for drafts, any length, batch and thread count.
TYPED_TEST_P(PolicyConformance, DecodeRowsAttendExactlyTheirKeys) {
  for (const int32_t threads : {1, 2, 64}) {
    DecodeRig rig(TypeParam::kSpec, threads);
    std::vector<SeqId> seqs;
    for (const int32_t prompt : {1, 255, 700, 2500}) seqs.push_back(rig.start(prompt));
    Philox rng(5);
    for (int n = 0; n < 40; ++n) {
      std::vector<DecodeRig::Rows> rows;
      std::vector<int32_t> pos;
      for (const SeqId seq : seqs) {
        rows.push_back({seq, n % 3 == 0 ? 1 + static_cast<int32_t>(rng.below(kMaxDecodeRows)) : 1});
        pos.push_back(rig.store->length(seq));
      }
      rig.step(rows, true);
      if (::testing::Test::HasFatalFailure()) return;
      for (size_t s = 0; s < rows.size(); ++s) {
        for (const int32_t q : {0, rows[s].n_q - 1}) {
          const int32_t i = pos[s] + q, end = pos[s] + rows[s].n_q;
          const KeyCounts all = rig.keys(1, static_cast<int32_t>(s), q, end);
          const KeyCounts windowed = rig.keys(0, static_cast<int32_t>(s), q, end);
          const Reach own = within_layer_window(rig.policy->decode_reach(), 100);
          ASSERT_EQ(all.size(), static_cast<size_t>(end));
          for (int32_t j = 0; j < end; ++j) {
            ASSERT_EQ(all[j], j <= i && TypeParam::sees(i, j) ? 1 : 0) << "row " << i << " key " << j;
            ASSERT_EQ(windowed[j], own.sees(i, j) ? 1 : 0) << "row " << i << " key " << j << ", windowed layer";
          }
        }
      }
    }
  }
}

TYPED_TEST_P(PolicyConformance, NeutralSettingIsDense) {
  auto spec = parse_spec(TypeParam::kSpec, "kv");
  ASSERT_TRUE(spec.ok());
  for (const KvPolicyEntry& entry : kv_policy_registry()) {
    if (entry.schema.name != spec->terms[0].name || spec->terms.size() > 1) continue;
    DecodeRig rig(entry.schema.neutral);
    const SeqId seq = rig.start(900);
    rig.step({{seq, 3}}, true);
    for (int32_t q = 0; q < 3; ++q) {
      const KeyCounts keys = rig.keys(1, 0, q, 903);
      for (int32_t j = 0; j < 903; ++j) ASSERT_EQ(keys[j], j <= 900 + q ? 1 : 0);
    }
    EXPECT_EQ(rig.store->stats().classes[1].freed_dead, 0);
  }
}

// Savings are allocator bytes: pages that no row sees are free again, and another sequence gets them.
TYPED_TEST_P(PolicyConformance, FreedPagesAreCountedAndReusable) {
  DecodeRig rig(TypeParam::kSpec, 2, 3000);
  const SeqId seq = rig.start(2500);
  rig.step({{seq, 1}}, true);
  const KvStats stats = rig.store->stats();
  const KvClassStats& cls = stats.classes[1];
  EXPECT_LE(cls.pages_used, TypeParam::pages_kept(2501));
  EXPECT_EQ(cls.pages_used + cls.pages_free, cls.pages);
  EXPECT_EQ(cls.pages_used + cls.freed_dead, (2501 + kPageRows - 1) / kPageRows);
  EXPECT_EQ(stats.bytes_used, cls.pages_used * cls.page_bytes + cls.mid_pages_used * cls.mid_page_bytes +
                                  stats.classes[0].pages_used * stats.classes[0].page_bytes);
  auto other = rig.store->create_sequence();
  ASSERT_TRUE(other.ok());
  // Free pages of the full zone share a limit with the rows that have moved.
  const int64_t available = rig.store->available_pages(1);
  EXPECT_TRUE(cls.mid_pages > 0 || available == cls.pages_free);
  EXPECT_EQ(available, std::min(cls.pages_free, (cls.bytes_limit - cls.bytes_held) / cls.page_bytes));
  const int64_t rows = available * kPageRows;
  const auto most = static_cast<int32_t>(std::min<int64_t>(rows, DecodeRig::kContext));
  EXPECT_TRUE(rig.store->reserve(*other, most, DecodeRig::kContext + 1).ok());
  EXPECT_TRUE(rig.store->check().ok());
}

TYPED_TEST_P(PolicyConformance, DraftsCanBeTakenBack) {
  DecodeRig rig(TypeParam::kSpec);
  const SeqId seq = rig.start(1000);
  for (int n = 0; n < 60; ++n) {
    rig.step({{seq, kMaxDecodeRows}}, true);
    if (::testing::Test::HasFatalFailure()) return;
    const int32_t taken_back = std::max(0, std::min(kMaxDecodeRows, rig.policy->caps().rollback_rows) - n % 7);
    const Status status = rig.store->truncate(seq, rig.store->length(seq) - taken_back);
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

REGISTER_TYPED_TEST_SUITE_P(PolicyConformance, DecodeRowsAttendExactlyTheirKeys, NeutralSettingIsDense,
                            FreedPagesAreCountedAndReusable, DraftsCanBeTakenBack);

}  // namespace pare::testing
