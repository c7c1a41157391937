// Agreement of two engines: nothing differs from itself, and what differs is found where it is.
#include "eval/device_agreement.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "../../tiny_models.h"

namespace pare {
namespace {

constexpr int32_t kPrompt = 100, kAnswer = 24;

using test::tiny_model;

std::unique_ptr<Engine> engine_of(const std::string& name, int32_t threads, const std::string& kv = "dense") {
  EngineOptions o;
  o.threads = threads;
  o.max_context = kPrompt + kAnswer + 1;
  o.max_sequences = 1;
  o.share_prefixes = false;
  o.kv = kv;
  return Engine::create(tiny_model(name), o).value();
}

Agreement compare(Engine& reference, Engine& other, int prompts) {
  Agreement found;
  for (int i = 0; i < prompts; ++i) {
    const uint64_t seed = 5 + static_cast<uint64_t>(i);
    const auto prompt = text_prompt(*reference.model().tokenizer, Haystack(), seed, kPrompt);
    EXPECT_TRUE(prompt.ok()) << prompt.status().to_string();
    const Status status = compare_devices(reference, other, *prompt, seed, kAnswer, {}, &found);
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  return found;
}

TEST(DeviceAgreement, TheSameDeviceAgreesWithItselfToTheBit) {
  for (const char* name : {"llama", "qwen3", "gemma3"}) {
    SCOPED_TRACE(name);
    const auto one = engine_of(name, 1), two = engine_of(name, 2);
    const Agreement found = compare(*one, *two, 3);
    ASSERT_EQ(found.prompts.size(), 3u);
    int64_t told = 0;
    for (const AgreementPrompt& p : found.prompts) {
      EXPECT_EQ(p.prompt_tokens, kPrompt);
      EXPECT_GT(p.answer_tokens, 0);
      EXPECT_EQ(p.agreed, p.answer_tokens);
      EXPECT_EQ(p.diverged_at, -1);
      told += p.answer_tokens;
    }
    EXPECT_EQ(found.positions(), told);
    EXPECT_EQ(found.agreed(), told);
    EXPECT_TRUE(found.disagreements.empty());
    EXPECT_EQ(gap_spread(found.gap).max, 0.0);
    EXPECT_EQ(gap_spread(found.kl).max, 0.0);
  }
}

// A policy that forgets stands for a device that computes something else. The first told position at which both find
// another token most likely is where their own answers part: until there they have read the same.
TEST(DeviceAgreement, WhatDiffersIsFoundWhereItIs) {
  const auto dense = engine_of("llama", 1), forgetful = engine_of("llama", 1, "streaming(sink=1,recent=4)");
  const Agreement found = compare(*dense, *forgetful, 4);
  ASSERT_FALSE(found.disagreements.empty());
  EXPECT_LT(found.agreed(), found.positions());
  EXPECT_GT(gap_spread(found.gap).max, 0.0);
  EXPECT_GT(gap_spread(found.kl).mean, 0.0);
  size_t position = 0;
  for (size_t i = 0; i < found.prompts.size(); ++i) {
    const AgreementPrompt& p = found.prompts[i];
    int32_t first = -1, n = 0;
    for (const Disagreement& d : found.disagreements) {
      if (d.prompt != static_cast<int32_t>(i)) continue;
      if (n++ == 0) first = d.position;
      EXPECT_NE(d.reference, d.other);
      EXPECT_GE(d.reference_margin, 0.0);
      EXPECT_GE(d.other_margin, 0.0);
      EXPECT_EQ(d.gap, found.gap[position + static_cast<size_t>(d.position)]);
    }
    EXPECT_EQ(p.diverged_at, first) << "prompt " << i;
    EXPECT_EQ(p.agreed, p.answer_tokens - n);
    // The row that draws the first token is the prompt's last, which the policy leaves alone.
    EXPECT_EQ(found.gap[position], 0.0);
    position += static_cast<size_t>(p.answer_tokens);
  }
}

TEST(DeviceAgreement, AStopLeavesWhatWasFound) {
  const auto one = engine_of("llama", 1), two = engine_of("llama", 1);
  Agreement found = compare(*one, *two, 1);
  const auto prompt = text_prompt(*tiny_model("llama")->tokenizer, Haystack(), 1, kPrompt);
  int asked = 0;
  const Status status = compare_devices(
      *one, *two, *prompt, 1, kAnswer, [&] { return ++asked > 2; }, &found);
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_EQ(found.prompts.size(), 1u);
  EXPECT_EQ(found.positions(), found.prompts[0].answer_tokens);
}

TEST(DeviceAgreement, PromptsFollowFromTheirSeed) {
  const Tokenizer& tokenizer = *tiny_model("llama")->tokenizer;
  const auto a = text_prompt(tokenizer, Haystack(), 1, 200), b = text_prompt(tokenizer, Haystack(), 1, 200);
  const auto c = text_prompt(tokenizer, Haystack(), 2, 200), longer = text_prompt(tokenizer, Haystack(), 1, 900);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok() && longer.ok());
  EXPECT_EQ(a->prompt, b->prompt);
  EXPECT_NE(a->prompt, c->prompt);
  ASSERT_EQ(longer->prompt.size(), 900u);
  EXPECT_TRUE(std::equal(a->prompt.begin(), a->prompt.end(), longer->prompt.begin()));
  EXPECT_EQ(text_prompt(tokenizer, Haystack(), 1, 1)->prompt.size(), 1u);
}

TEST(DeviceAgreement, MarginsAndSpreads) {
  EXPECT_EQ(top_margin(std::vector<float>{1, 4, 2.5f, -3}), 1.5);
  EXPECT_EQ(top_margin(std::vector<float>{4, 1}), 3.0);
  EXPECT_EQ(top_margin(std::vector<float>{2, 5, 5}), 0.0);
  EXPECT_EQ(top_margin(std::vector<float>{5}), 0.0);
  EXPECT_EQ(gap_spread({}).max, 0.0);
  std::vector<double> hundred(100);
  std::iota(hundred.rbegin(), hundred.rend(), 1.0);
  EXPECT_EQ(gap_spread(hundred).mean, 50.5);
  EXPECT_EQ(gap_spread(hundred).p99, 99.0);
  EXPECT_EQ(gap_spread(hundred).max, 100.0);
  EXPECT_EQ(gap_spread({3, 1, 2}).p99, 3.0);
}

}  // namespace
}  // namespace pare
