// Rows that move to another form while an engine runs: what that may change and what it may not.
#include <gtest/gtest.h>

#include <cmath>

#include "moving_rows.h"

namespace pare::test {
namespace {

// Prompt 150, 100 tokens more: 64 rows move at the prompt's end, 64 more after 42 tokens.
Request long_answer(uint64_t seed) { return test::long_answer(seed, 150, 100); }

// Greedy tokens and the logits that each was drawn from.
struct Trace {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
};
Trace trace(Request request, const EngineOptions& options, const std::string& model) {
  Trace out;
  request.on_logits = [&](int32_t, int32_t, std::span<const float> row) {
    out.logits.emplace_back(row.begin(), row.end());
  };
  const auto engine = make_engine(options, tiny_model(model));
  EXPECT_TRUE(engine->submit(request, [&](const TokenEvent& e) { out.tokens.push_back(e.token); }).ok());
  EXPECT_TRUE(engine->run().ok());
  return out;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}

// A mask that keeps every channel moves rows but changes no value: what differs is how partial sums are grouped, by
// about 1e-7, which the 8-bit activations of the next product can make a step of theirs (2^-8 of a row's largest
// value).
TEST(MidZone, RowsThatKeepEveryChannelChangeOnlyRounding) {
  for (const char* model : {"llama", "qwen2", "gemma3"}) {
    EngineOptions dense, moved;
    dense.max_context = moved.max_context = 256;
    moved.kv = "leank(sink=4,recent=64,flush=64)";
    const Trace a = trace(long_answer(1), dense, model), b = trace(long_answer(1), moved, model);
    ASSERT_EQ(a.logits.size(), b.logits.size());
    for (size_t i = 0; i < a.logits.size() && a.tokens[i] == b.tokens[i]; ++i) {
      ASSERT_LE(largest_difference(a.logits[i], b.logits[i]), 5e-3) << model << ", token " << i;
    }
    EXPECT_EQ(a.tokens, b.tokens) << model;
  }
}

constexpr const char* kMoving = "leank(sink=4,recent=64,flush=64)";
// Reached by the 68th token of an answer: two pages move at once.
constexpr const char* kGated = "leank(sink=4,recent=64,flush=64,min_tokens=217)";

TEST(MidZone, NeutralWindowsAreDenseBitForBit) {
  for (const char* kv : {"leank(recent=16777216)", "quant(recent=16777216)", "leank+quant(recent=16777216)"}) {
    const Answers dense = run_alone(long_answer(2), moving_options("dense"));
    const Answers neutral = run_alone(long_answer(2), moving_options(kv));
    EXPECT_EQ(dense[0].rows, neutral[0].rows) << kv;
  }
}

class MidZoneBits : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Gates, MidZoneBits, ::testing::Values(kMoving, kGated));

TEST_P(MidZoneBits, WhatARowReadsFollowsFromItsPositionAlone) {
  for (const char* attn : {"dense", "streaming(sink=4,window=80)"}) {
    SCOPED_TRACE(attn);
    EngineOptions options = moving_options(GetParam());
    options.attn = attn;
    expect_bits_of_position_alone([](uint64_t seed) { return long_answer(seed); }, options);
  }
}

// An answer whose rows never are as many as the gate is dense, bit for bit, and the counters say why nothing moved.
TEST(MidZoneGates, BelowItAnAnswerIsDenseBitForBit) {
  const Answers dense = run_alone(long_answer(2), moving_options("dense"));
  for (const char* kv : {"leank(sink=4,recent=64,flush=64,min_tokens=16777216)", "quant(recent=64,min_tokens=250)",
                         "leank(sink=4,recent=64)+quant(recent=64,min_tokens=250)"}) {
    const auto engine = make_engine(moving_options(kv));
    RequestId id = 0;
    const auto answers = submit(*engine, long_answer(2), &id);
    ASSERT_TRUE(engine->run().ok());
    EXPECT_EQ((*answers)[0].rows, dense[0].rows) << kv;
    EXPECT_EQ(engine->stats().kv_pages_moved, 0) << kv;
    EXPECT_EQ(engine->stats().answers, 1u);
    EXPECT_EQ(engine->stats().answers_whole_short, 1u) << kv;
    EXPECT_TRUE(engine->request_stats(id)->whole_short) << kv;
  }
  // From the gate on rows have fewer bits.
  const Answers quantized = run_alone(long_answer(2), moving_options("quant(recent=64,flush=64,min_tokens=217)"));
  for (int32_t position = 149; position < 217; ++position) {
    ASSERT_EQ(quantized[0].rows.at(position), dense[0].rows.at(position)) << position;
  }
  EXPECT_NE(quantized[0].rows.at(217), dense[0].rows.at(217));
}

TEST(MidZoneGates, OnlyTheGateCountsAsAReason) {
  // Reached; no row old enough even without it.
  for (const char* kv : {kGated, "leank(sink=4,recent=250,min_tokens=251)", "dense"}) {
    const auto engine = make_engine(moving_options(kv));
    const auto answers = submit(*engine, long_answer(2));
    ASSERT_TRUE(engine->run().ok());
    EXPECT_EQ(engine->stats().answers, 1u);
    EXPECT_EQ(engine->stats().answers_whole_short, 0u) << kv;
  }
}

// Samples that grow past the gate each move rows of their own; the prompt's whole ones were shared until then.
TEST(MidZoneGates, ForksReachItOneByOne) {
  Request request = long_answer(5);
  request.samples = 3;
  request.sampling.temperature = 1.0f;
  EngineOptions options = moving_options(kGated);
  options.kv_rows = 1024;
  const auto engine = make_engine(options);
  const auto answers = submit(*engine, request);
  for (;;) {
    const auto more = engine->step();
    ASSERT_TRUE(more.ok());
    if (!*more) break;
    ASSERT_TRUE(EngineTestPeer::store(*engine).check().ok());
  }
  EXPECT_GE(engine->stats().kv_pages_moved, 3 * 2);
  request.samples = 1;
  EXPECT_EQ((*answers)[0].rows, run_alone(request, moving_options(kGated))[0].rows);
  expect_idle(*engine);
}

// Samples of one prompt share its moved rows.
TEST(MidZone, ForksShareMovedPages) {
  Request request = long_answer(5);
  request.samples = 3;
  request.sampling.temperature = 1.0f;
  request.max_tokens = 10;
  const auto engine = make_engine(moving_options(kMoving));
  const auto answers = submit(*engine, request);
  int64_t most = 0;
  for (;;) {
    const auto more = engine->step();
    ASSERT_TRUE(more.ok());
    if (!*more) break;
    KvStore& store = EngineTestPeer::store(*engine);
    ASSERT_TRUE(store.check().ok()) << store.check().message();
    most = std::max(most, store.stats().classes[0].mid_pages_used);
  }
  EXPECT_EQ(most, 1);
  request.samples = 1;
  EXPECT_EQ((*answers)[0].rows, run_alone(request, moving_options(kMoving))[0].rows);
  expect_idle(*engine);
}

// The prompt's whole rows outlive the sequence that pruned them: the next request takes them from the prefix index.
TEST(MidZone, PrefixesAreSharedWhole) {
  const auto engine = make_engine(moving_options(kMoving));
  const auto first = submit(*engine, long_answer(6));
  ASSERT_TRUE(engine->run().ok());
  const auto second = submit(*engine, long_answer(6));
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ((*first)[0].tokens, (*second)[0].tokens);
  EXPECT_EQ(engine->stats().prefix_hit_rows, 128);
  expect_idle(*engine);
}

}  // namespace
}  // namespace pare::test
