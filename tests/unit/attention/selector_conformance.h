// What every attention selector must keep. A selector's suite names a traits type:
//   struct Traits {
//     static constexpr const char* kSpec = "streaming(sink=4,window=100)";
//     // Which keys j <= i row i of a prompt of n tokens attends, by the method's definition; and how many at most.
//     static bool sees(int32_t i, int32_t j, int32_t n);
//     static int32_t budget(int32_t i, int32_t n);
//   };
// and instantiates: INSTANTIATE_TYPED_TEST_SUITE_P(Streaming, SelectorConformance,
// ::testing::Types<Traits...>);
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "../plan/visibility.h"
#include "attention/selector.h"
#include "base/rng.h"
#include "plan/check.h"

namespace pare::testing {

inline std::unique_ptr<AttentionSelector> make_selector(std::string_view text) {
  auto spec = parse_spec(text, "attn");
  EXPECT_TRUE(spec.ok()) << spec.status().message();
  auto made = make_policy(selector_registry(), *spec, 0);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return std::move(made->policy);
}

inline Arena make_arena(size_t bytes) {
  auto buffer = AlignedBuffer::allocate(std::max<size_t>(bytes, 64));
  EXPECT_TRUE(buffer.ok());
  return Arena(std::move(buffer).value());
}

// A step of several prefill chunks, with a decoding sequence among them.
struct PrefillStep {
  std::vector<SeqStep> seqs;
  int32_t rows = 0;
  void add(int32_t pos, int32_t n_q, int32_t prompt_len, uint32_t flags = 0) {
    SeqStep s;
    s.q_row = rows;
    s.n_q = n_q;
    s.pos = pos;
    s.prompt_len = prompt_len;
    s.flags = flags;
    seqs.push_back(s);
    rows += n_q;
  }
};

constexpr int32_t kTestHeads = 3;

// Keys that the last `n_q` of `len` rows attend, planned in one step beside others.
inline std::vector<KeyCounts> plan_rows(const AttentionSelector& selector, int32_t pos, int32_t n_q, int32_t prompt_len,
                                        int32_t window, uint16_t tile_rows) {
  PrefillStep step;
  step.add(0, 37, 37);
  step.add(500, 1, 400, kSeqDecode);
  step.add(pos, n_q, prompt_len);
  step.add(129, 70, 300);
  Arena arena = make_arena(selector.max_bytes(step.rows, 4, tile_rows));
  BlockPlan plan;
  const Status built =
      selector.build({.seqs = step.seqs, .n_heads = kTestHeads, .tile_rows = tile_rows}, window, arena, plan);
  EXPECT_TRUE(built.ok()) << built.message();
  const Status checked = check_block_plan(plan, {.seqs = step.seqs, .n_heads = kTestHeads, .chunk_grid = 1});
  EXPECT_TRUE(checked.ok()) << checked.message();
  std::vector<KeyCounts> out;
  for (int32_t i = 0; i < n_q; ++i) {
    const int32_t t = step.seqs[2].q_row + i;
    out.push_back(block_keys(plan, step.seqs, t, 0, pos + n_q));
    EXPECT_EQ(out.back(), block_keys(plan, step.seqs, t, kTestHeads - 1, pos + n_q));
  }
  return out;
}

template <typename Traits>
class SelectorConformance : public ::testing::Test {
 protected:
  std::unique_ptr<AttentionSelector> selector = make_selector(Traits::kSpec);
  Philox rng{7};
  // Edges between chunks of a prompt of `len` rows.
  std::vector<int32_t> random_edges(int32_t len) {
    std::vector<int32_t> edges = {0};
    while (edges.back() < len) {
      edges.push_back(std::min<int32_t>(len, edges.back() + 1 + static_cast<int32_t>(rng.below(150))));
    }
    return edges;
  }
};
TYPED_TEST_SUITE_P(SelectorConformance);

// No key missed, doubled or in the future; whatever the chunks, tiles and the layer's own window.
TYPED_TEST_P(SelectorConformance, RowsAttendExactlyTheirKeys) {
  for (const int32_t len : {1, 15, 64, 65, 331}) {
    for (const int32_t window : {kNoWindow, 100, 1}) {
      const uint16_t tile_rows = static_cast<uint16_t>(16u << this->rng.below(4));
      const std::vector<int32_t> edges = this->random_edges(len);
      for (size_t e = 0; e + 1 < edges.size(); ++e) {
        const int32_t pos = edges[e], n_q = edges[e + 1] - pos;
        const auto rows = plan_rows(*this->selector, pos, n_q, len, window, tile_rows);
        for (int32_t q = 0; q < n_q; ++q) {
          const int32_t i = pos + q;
          for (int32_t j = 0; j < pos + n_q; ++j) {
            bool sees = j <= i;
            if (window == kNoWindow) {
              sees = sees && TypeParam::sees(i, j, len);
            } else {  // a layer with a window of its own has no sinks (plan/reach.h)
              const Reach reach = within_layer_window(this->selector->reach(), window);
              sees = sees && reach.sees(i, j);
            }
            ASSERT_EQ(rows[q][j], sees ? 1 : 0) << "row " << i << " key " << j << " window " << window;
          }
        }
      }
    }
  }
}

TYPED_TEST_P(SelectorConformance, ChunksDoNotMatter) {
  const int32_t len = 300;
  const auto whole = plan_rows(*this->selector, 0, len, len, kNoWindow, 64);
  const std::vector<int32_t> edges = this->random_edges(len);
  for (size_t e = 0; e + 1 < edges.size(); ++e) {
    const auto part = plan_rows(*this->selector, edges[e], edges[e + 1] - edges[e], len, kNoWindow, 64);
    for (size_t q = 0; q < part.size(); ++q) {
      KeyCounts padded = part[q];
      padded.resize(len, 0);
      ASSERT_EQ(padded, whole[edges[e] + q]);
    }
  }
}

TYPED_TEST_P(SelectorConformance, NeutralSettingIsDense) {
  auto spec = parse_spec(TypeParam::kSpec, "attn");
  ASSERT_TRUE(spec.ok());
  for (const SelectorEntry& entry : selector_registry()) {
    if (entry.schema.name != spec->terms[0].name) continue;
    const auto neutral = make_selector(entry.schema.neutral);
    const auto rows = plan_rows(*neutral, 40, 200, 240, kNoWindow, 32);
    for (int32_t q = 0; q < 200; ++q) {
      for (int32_t j = 0; j < 240; ++j) ASSERT_EQ(rows[q][j], j <= 40 + q ? 1 : 0);
    }
  }
}

TYPED_TEST_P(SelectorConformance, BudgetIsHonoured) {
  const auto rows = plan_rows(*this->selector, 0, 331, 331, kNoWindow, 64);
  for (int32_t i = 0; i < 331; ++i) {
    EXPECT_LE(std::count(rows[i].begin(), rows[i].end(), 1), TypeParam::budget(i, 331));
    for (int32_t j = 0; j <= i; ++j) {
      ASSERT_TRUE(rows[i][j] == 0 || this->selector->reach().sees(i, j)) << "reach() must cover what rows attend";
    }
  }
}

TYPED_TEST_P(SelectorConformance, ArenaBoundHolds) {
  PrefillStep step;
  for (int n = 0; n < 8; ++n) step.add(63, n % 3 + 1, 400);
  const size_t bytes = this->selector->max_bytes(step.rows, 8, 16);
  BlockPlan plan;
  Arena arena = make_arena(bytes);
  const PrefillRows rows = {.seqs = step.seqs, .n_heads = kTestHeads, .tile_rows = 16};
  EXPECT_TRUE(this->selector->build(rows, kNoWindow, arena, plan).ok());
  Arena small = make_arena(64);
  EXPECT_EQ(this->selector->build(rows, kNoWindow, small, plan).code(), StatusCode::kResourceExhausted);
}

REGISTER_TYPED_TEST_SUITE_P(SelectorConformance, RowsAttendExactlyTheirKeys, ChunksDoNotMatter, NeutralSettingIsDense,
                            BudgetIsHonoured, ArenaBoundHolds);

}  // namespace pare::testing
