// What an engine does with requests: sharing, forks, ends, failures, figures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "engine_rig.h"

namespace pare::test {
namespace {

EngineOptions small_engine() {
  EngineOptions o;
  o.threads = 1;
  o.kv_rows = 1024;
  return o;
}

Request random_request(uint64_t seed, int32_t prompt, int32_t answer) {
  Philox rng(seed);
  Request r;
  r.tokens = random_tokens(rng, prompt);
  r.max_tokens = answer;
  r.ignore_eos = true;
  r.sampling.temperature = 1.0f;
  r.sampling.seed = seed;
  return r;
}

void expect_same(const Answer& a, const Answer& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.text, b.text);
  EXPECT_EQ(a.logprobs, b.logprobs);
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.finish, b.finish);
}

// --- forced tokens ---

// An answer that is told to the model is a prompt that contains it: the same rows, bit for bit.
TEST(Engine, ForcedTokensAreReadAsAPromptWouldBe) {
  Philox rng(11);
  Request whole;
  whole.tokens = random_tokens(rng, 150);
  whole.max_tokens = 4;
  whole.ignore_eos = true;
  whole.observe_prompt = true;
  Request forced = whole;
  forced.tokens.resize(100);
  forced.forced.assign(whole.tokens.begin() + 100, whole.tokens.end());
  forced.max_tokens = 54;
  for (const int32_t in_flight : {0, 1}) {
    EngineOptions o = small_engine();
    o.steps_in_flight = in_flight;
    const Answer a = run_alone(whole, o)[0], b = run_alone(forced, o)[0];
    EXPECT_EQ(a.rows, b.rows) << in_flight << " steps in flight";
    ASSERT_EQ(b.tokens.size(), 54u);
    EXPECT_TRUE(std::equal(forced.forced.begin(), forced.forced.end(), b.tokens.begin()));
    EXPECT_EQ(std::vector<int32_t>(b.tokens.begin() + 50, b.tokens.end()), a.tokens) << "then the model goes on";
    EXPECT_EQ(b.finish, FinishReason::kLength);
  }
}

TEST(Engine, ForcedTokensAreEverySamplesAndSurvivePreemption) {
  Request r = random_request(12, 70, 40);
  Philox rng(13);
  r.forced = random_tokens(rng, 25);
  r.samples = 3;
  for (const int32_t in_flight : {0, 1}) {
    EngineOptions roomy = small_engine(), tight = small_engine();
    roomy.steps_in_flight = tight.steps_in_flight = in_flight;
    const Answers all = run_alone(r, roomy);
    for (const Answer& a : all) EXPECT_TRUE(std::equal(r.forced.begin(), r.forced.end(), a.tokens.begin()));
    EXPECT_NE(all[0].tokens, all[1].tokens) << "what follows is drawn";
    // Two requests in a pool for little more than one: the second is read again.
    tight.kv_rows = 256;
    tight.max_sequences = 6;
    const auto engine = make_engine(tight);
    const auto first = submit(*engine, r), second = submit(*engine, r);
    ASSERT_TRUE(engine->run().ok());
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ((*first)[i].tokens, all[i].tokens);
      EXPECT_EQ((*second)[i].tokens, all[i].tokens);
    }
    expect_idle(*engine);
  }
}

TEST(Engine, CudnnIsRefusedOnTheCpu) {
  const Status refused = Engine::create(tiny_model(), {.attn = "dense(impl=cudnn)"}).status();
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("impl=cudnn needs a CUDA device (--device cuda); this one is cpu-"),
            std::string_view::npos)
      << refused.to_string();
  const auto own = Engine::create(tiny_model(), {.attn = "dense(impl=own)"});
  ASSERT_TRUE(own.ok()) << own.status().to_string();
  EXPECT_EQ((*own)->attn_spec(), "dense");
}

TEST(Engine, AForcedEndEndsTheAnswer) {
  Request r = random_request(14, 20, 10);
  r.ignore_eos = false;
  const auto ends = tiny_model()->tokenizer->end_of_generation();
  ASSERT_FALSE(ends.empty());
  r.forced = {5, ends.front(), 6};
  const Answer a = run_alone(r, small_engine())[0];
  EXPECT_EQ(a.tokens, (std::vector<int32_t>{5, ends.front()}));
  EXPECT_EQ(a.finish, FinishReason::kStopToken);
}

TEST(Engine, ObserversSeeThePromptFromWhereTheyAsk) {
  Request r = random_request(15, 90, 3);
  r.observe_prompt = true;
  EngineOptions o = small_engine();
  o.step_rows = 32;
  std::map<int32_t, std::string> all = run_alone(r, o)[0].rows;
  EXPECT_EQ(all.size(), 92u);
  for (const int32_t from : {1, 40, 89}) {
    r.observe_from = from;
    std::map<int32_t, std::string> rest(all.lower_bound(from), all.end());
    EXPECT_EQ(run_alone(r, o)[0].rows, rest) << from;
  }
}

// --- sharing ---

TEST(Engine, ASecondPromptTakesItsPrefixFromTheCache) {
  const auto engine = make_engine(small_engine());
  Request first = random_request(1, 150, 5);
  RequestId id;
  const auto a = submit(*engine, first, &id);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->request_stats(id)->cached_tokens, 0);
  EXPECT_EQ(engine->stats().kv_pages_cached, 2);
  // The same 150 tokens, then others: two whole pages of 64.
  Request second = first;
  second.tokens.insert(second.tokens.end(), {9, 8, 7});
  const auto b = submit(*engine, second, &id);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->request_stats(id)->cached_tokens, 128);
  EXPECT_EQ(engine->request_stats(id)->prompt_tokens, 153);
  EXPECT_EQ(engine->stats().prefix_hit_rows, 128);
  EXPECT_EQ(engine->stats().prefill_rows, 150u + 25u);
  EngineOptions unshared = small_engine();
  unshared.share_prefixes = false;
  expect_same((*b)[0], run_alone(second, unshared)[0]);
  expect_idle(*engine);
}

TEST(Engine, ASecondTurnTakesTheAnswerFromTheCacheToo) {
  const auto engine = make_engine(small_engine());
  Request first = random_request(2, 60, 80);
  const auto a = submit(*engine, first);
  ASSERT_TRUE(engine->run().ok());
  Request second = first;
  second.tokens.insert(second.tokens.end(), (*a)[0].tokens.begin(), (*a)[0].tokens.end());
  RequestId id;
  const auto b = submit(*engine, second, &id);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->request_stats(id)->cached_tokens, 128) << "dense answers equal dense prompts";
  EngineOptions unshared = small_engine();
  unshared.share_prefixes = false;
  expect_same((*b)[0], run_alone(second, unshared)[0]);
}

TEST(Engine, SamplesHoldThePromptOnce) {
  EngineOptions o = small_engine();
  const auto engine = make_engine(o);
  const int64_t page_bytes = engine->stats().kv_bytes_per_token * kPageRows;
  Request r = random_request(3, 150, 30);  // two full pages, 22 rows of a third
  r.samples = 8;
  const auto answers = submit(*engine, r);
  ASSERT_TRUE(engine->step().value());
  EXPECT_EQ(engine->stats().sequences, 8) << "all fork where the prompt ends";
  EXPECT_EQ(engine->stats().kv_bytes_used, 3 * page_bytes) << "eight samples hold the prompt's pages once";
  EXPECT_EQ(engine->stats().prefill_rows, 150u);
  ASSERT_TRUE(engine->step().value());
  // Each writes its own copy of the page that the prompt ends in; the last holder needs none.
  EXPECT_EQ(engine->stats().kv_bytes_used, (2 + 8) * page_bytes);
  EXPECT_EQ(EngineTestPeer::store(*engine).stats().copies, 7);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->stats().kv_pages_used_peak, 2 + 8);
  EXPECT_EQ(engine->stats().kv_bytes_used_peak, (2 + 8) * page_bytes);
  EXPECT_EQ(engine->stats().kv_bytes_used, 0);
  // Sample i is the same whatever its mates: a request of i + 1 samples has it last.
  for (const int32_t i : {0, 1, 7}) {
    Request fewer = r;
    fewer.samples = i + 1;
    expect_same((*answers)[i], run_alone(fewer, o)[i]);
  }
  EXPECT_NE((*answers)[0].tokens, (*answers)[1].tokens);
  expect_idle(*engine);
}

TEST(Engine, SamplesBeyondTheSlotsRunLater) {
  EngineOptions o = small_engine();
  o.max_sequences = 2;
  Request r = random_request(4, 70, 9);
  r.samples = 5;
  EngineOptions roomy = small_engine();
  const Answers few = run_alone(r, o), all = run_alone(r, roomy);
  for (int i = 0; i < 5; ++i) expect_same(few[i], all[i]);
}

// A sample that waits for the end of the prompt keeps its place, so that the prompt is computed once.
TEST(Engine, AYoungerRequestDoesNotTakeTheSlotOfAFork) {
  EngineOptions o = small_engine();
  o.max_sequences = 3;
  o.step_rows = 32;
  o.share_prefixes = false;
  const auto engine = make_engine(o);
  Request r = random_request(5, 100, 4);
  r.samples = 3;
  submit(*engine, r);
  submit(*engine, random_request(6, 10, 4));
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->stats().prefill_rows, 100u + 10u);
}

// --- ends ---

TEST(Engine, CancelEndsARequestBeforeTheNextStep) {
  const auto engine = make_engine(small_engine());
  const Request kept = random_request(7, 40, 20);
  RequestId id;
  const auto a = submit(*engine, random_request(8, 90, 20), &id), b = submit(*engine, kept);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(engine->step().value());
  const size_t before = (*a)[0].tokens.size();
  EXPECT_GT(before, 0u);
  engine->cancel(id);
  engine->cancel(12345);
  ASSERT_TRUE(engine->step().value());
  EXPECT_EQ((*a)[0].finish, FinishReason::kCancelled);
  EXPECT_EQ((*a)[0].tokens.size(), before);
  EXPECT_EQ(engine->stats().sequences, 1);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->request_stats(id)->generated_tokens, static_cast<int32_t>(before));
  expect_same((*b)[0], run_alone(kept, small_engine())[0]);
  expect_idle(*engine);
}

TEST(Engine, ASinkMayCancel) {
  const auto engine = make_engine(small_engine());
  RequestId id = 0;
  int events = 0;
  FinishReason last = FinishReason::kNone;
  Request r = random_request(9, 10, 50);
  r.samples = 3;
  id = engine
           ->submit(r,
                    [&](const TokenEvent& event) {
                      ++events;
                      last = event.finish;
                      engine->cancel(id);
                    })
           .value();
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(events, 3 + 3) << "a token and an end for each branch";
  EXPECT_EQ(last, FinishReason::kCancelled);
  expect_idle(*engine);
}

// Token p at position p; the script decides.
std::shared_ptr<const LoadedModel> counting_model(std::vector<std::string> pieces) {
  return scripted_model(std::move(pieces), [](int32_t, int32_t position, std::span<float> logits) {
    std::fill(logits.begin(), logits.end(), 0.0f);
    logits[static_cast<size_t>(position + 1) % logits.size()] = 1.0f;
  });
}

TEST(Engine, EveryWayToEnd) {
  const auto model = counting_model({"a", "b", "c", "d"});  // id 4 ends the text
  EngineOptions o = small_engine();
  Request r;
  r.tokens = {0};
  Answers a = run_alone(r, o, model);
  EXPECT_EQ(a[0].finish, FinishReason::kStopToken);
  EXPECT_EQ(a[0].tokens, (std::vector<int32_t>{1, 2, 3, 4}));
  EXPECT_EQ(a[0].text, "bcd");
  r.ignore_eos = true;
  r.max_tokens = 6;
  a = run_alone(r, o, model);
  EXPECT_EQ(a[0].finish, FinishReason::kLength);
  EXPECT_EQ(a[0].tokens, (std::vector<int32_t>{1, 2, 3, 4, 0, 1}));
  EXPECT_EQ(a[0].text, "bcdab");
  r.stop = {"cda"};
  a = run_alone(r, o, model);
  EXPECT_EQ(a[0].finish, FinishReason::kStopString);
  EXPECT_EQ(a[0].text, "b");
  EXPECT_EQ(a[0].tokens, (std::vector<int32_t>{1, 2, 3, 4, 0}));
  r.stop = {"bx"};
  r.max_tokens = 1;
  a = run_alone(r, o, model);
  EXPECT_EQ(a[0].finish, FinishReason::kLength);
  EXPECT_EQ(a[0].text, "b") << "held for a stop string that never came";
  // The context ends the answer too.
  r = {};
  r.tokens.assign(60, 0);
  r.ignore_eos = true;
  o.max_context = 64;
  a = run_alone(r, o, model);
  EXPECT_EQ(a[0].finish, FinishReason::kLength);
  EXPECT_EQ(a[0].tokens.size(), 4u);
}

TEST(Engine, AModelWithoutAnswerFailsItsBranchAlone) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const int32_t in_flight : {0, 1}) {
    // Whoever drew token 2 gets no number next.
    const auto model = scripted_model({"a", "b", "c", "d"}, [](int32_t token, int32_t, std::span<float> logits) {
      std::fill(logits.begin(), logits.end(), token == 2 ? kNan : 0.0f);
      if (token != 2) logits[4] = -INFINITY;
    });
    EngineOptions o = small_engine();
    o.steps_in_flight = in_flight;
    const auto engine = make_engine(o, model);
    Request r;
    r.tokens = {0};
    r.samples = 8;
    r.max_tokens = 12;
    r.sampling.temperature = 1.0f;
    const auto answers = submit(*engine, r);
    ASSERT_TRUE(engine->run().ok());
    int failed = 0;
    for (const Answer& a : *answers) {
      const auto bad = std::find(a.tokens.begin(), a.tokens.end(), 2);
      const bool fails = bad != a.tokens.end() && a.tokens.size() < 12;
      failed += fails;
      EXPECT_EQ(a.finish, fails ? FinishReason::kFailed : FinishReason::kLength);
      EXPECT_EQ(a.error, fails ? StatusCode::kInternal : StatusCode::kOk);
      EXPECT_TRUE(!fails || bad == a.tokens.end() - 1) << "the failed draw is no token";
    }
    EXPECT_GT(failed, 0);
    expect_idle(*engine);
  }
}

TEST(Engine, WithoutPagesTheOldestFailsAndTheRestGoesOn) {
  EngineOptions o = small_engine();
  const auto engine = make_engine(o);
  const Request kept = random_request(11, 30, 10);
  const auto a = submit(*engine, random_request(10, 30, 10));
  ASSERT_TRUE(engine->step().value());
  // Alone, nobody can be pre-empted for it.
  EngineTestPeer::store(*engine).deny_reserve_after(0);
  const auto b = submit(*engine, kept);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ((*a)[0].finish, FinishReason::kLength) << "the younger request got rows in that step";
  EXPECT_EQ((*b)[0].finish, FinishReason::kLength);
  const auto c = submit(*engine, random_request(10, 30, 10));
  EngineTestPeer::store(*engine).deny_reserve_after(0);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ((*c)[0].finish, FinishReason::kFailed);
  EXPECT_EQ((*c)[0].error, StatusCode::kResourceExhausted);
  expect_same((*b)[0], run_alone(kept, o)[0]);
  expect_idle(*engine);
}

// --- what is reported ---

TEST(Engine, LogprobsBelongToTheTokensDrawn) {
  Request r = random_request(12, 20, 15);
  r.logprobs = 4;
  r.sampling.top_k = 20;
  r.sampling.repetition_penalty = 1.3f;
  EngineOptions o = small_engine();
  const Answers with = run_alone(r, o);
  r.logprobs = -1;
  const Answers without = run_alone(r, o);
  EXPECT_EQ(with[0].tokens, without[0].tokens);
  EXPECT_THAT(without[0].logprobs, ::testing::Each(0.0f));
  for (size_t i = 0; i < with[0].tokens.size(); ++i) {
    ASSERT_EQ(with[0].top[i].size(), 4u);
    EXPECT_TRUE(without[0].top[i].empty());
    EXPECT_LT(with[0].logprobs[i], 0.0f);
    EXPECT_LE(with[0].logprobs[i], with[0].top[i][0].logprob);
    for (int k = 1; k < 4; ++k) EXPECT_LE(with[0].top[i][k].logprob, with[0].top[i][k - 1].logprob);
    for (const TokenLogprob& top : with[0].top[i]) {
      EXPECT_TRUE(top.id != with[0].tokens[i] || top.logprob == with[0].logprobs[i]);
    }
  }
}

TEST(Engine, AnObservedPromptIsSeenOnceAndByBranchZero) {
  Request r = random_request(13, 77, 5);
  r.observe_prompt = true;
  r.samples = 3;
  for (const int32_t logit_rows : {3, 64, 512}) {
    EngineOptions o = small_engine();
    o.logit_rows = logit_rows;
    const Answers a = run_alone(r, o);
    ASSERT_EQ(a[0].rows.size(), 77u + 4u);
    EXPECT_EQ(a[0].rows.begin()->first, 0);
    for (const int i : {1, 2}) {
      EXPECT_EQ(a[i].rows.size(), 5u);
      EXPECT_EQ(a[i].rows.at(76), a[0].rows.at(76));
    }
    Request quiet = r;
    quiet.observe_prompt = false;
    const Answers b = run_alone(quiet, o);
    EXPECT_EQ(b[0].rows.size(), 5u);
    EXPECT_EQ(b[0].rows.at(76), a[0].rows.at(76));
    EXPECT_EQ(b[2].tokens, a[2].tokens);
  }
}

TEST(Engine, PenaltiesCountTheTokenInFlight) {
  // Without penalties the model repeats itself; the frequency penalty makes it count through the vocabulary.
  const auto model = scripted_model({"a", "b", "c", "d", "e"}, [](int32_t, int32_t, std::span<float> logits) {
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(logits.size() - i);
  });
  Request r;
  r.tokens = {3};
  r.max_tokens = 9;
  r.ignore_eos = true;
  r.sampling.presence_penalty = 100.0f;
  for (const int32_t in_flight : {0, 1}) {
    EngineOptions o = small_engine();
    o.steps_in_flight = in_flight;
    const Answers a = run_alone(r, o, model);
    EXPECT_EQ(a[0].tokens, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 0, 0, 0})) << in_flight << " steps in flight";
  }
  r.sampling.presence_penalty = 0.0f;
  r.sampling.repetition_penalty = 100.0f;
  for (const int32_t in_flight : {0, 1}) {
    EngineOptions o = small_engine();
    o.steps_in_flight = in_flight;
    const Answers a = run_alone(r, o, model);
    EXPECT_EQ(a[0].tokens, (std::vector<int32_t>{0, 1, 2, 4, 5, 0, 0, 0, 0})) << "the prompt's token counts too";
  }
}

TEST(Engine, BiasForbidsAndForces) {
  Request r = random_request(14, 10, 6);
  r.sampling.logit_bias = {{17, 1000.0f}};
  EngineOptions o = small_engine();
  EXPECT_THAT(run_alone(r, o)[0].tokens, ::testing::Each(17));
  r.sampling.logit_bias = {};
  r.sampling.temperature = 0.0f;
  const int32_t first = run_alone(r, o)[0].tokens[0];
  r.sampling.logit_bias = {{first, -1000.0f}};
  EXPECT_NE(run_alone(r, o)[0].tokens[0], first);
}

TEST(Engine, StatsOutliveARequestFor256Others) {
  const auto engine = make_engine(small_engine(), counting_model({"a", "b"}));
  Request r;
  r.tokens = {0};
  r.max_tokens = 1;
  RequestId first = 0;
  submit(*engine, r, &first);
  EXPECT_EQ(engine->request_stats(first)->prompt_tokens, 1) << "while it waits";
  ASSERT_TRUE(engine->run().ok());
  for (int i = 0; i < 255; ++i) submit(*engine, r);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->request_stats(first)->generated_tokens, 1);
  submit(*engine, r);
  ASSERT_TRUE(engine->run().ok());
  EXPECT_EQ(engine->request_stats(first).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(engine->step().value()) << "idle";
}

TEST(Engine, FiguresAddUp) {
  EngineOptions o = small_engine();
  o.share_prefixes = false;
  const auto engine = make_engine(o);
  submit(*engine, random_request(15, 33, 4));
  submit(*engine, random_request(16, 20, 7));
  ASSERT_TRUE(engine->run().ok());
  const EngineStats s = engine->stats();
  EXPECT_EQ(s.prefill_rows, 53u);
  EXPECT_EQ(s.decode_rows, 3u + 6u) << "the last token of an answer is never computed";
  EXPECT_EQ(s.steps, 7u);
  EXPECT_EQ(s.decode_steps, 6u);
  // 2 layers, 4 heads; row i sees i + 1 keys.
  EXPECT_EQ(s.keys_visited, 2u * 4u * (36u * 37u / 2u + 26u * 27u / 2u));
  EXPECT_GT(s.weight_bytes, 0);
  EXPECT_EQ(s.decode_weight_bytes % s.decode_steps, 0u);
  EXPECT_EQ(s.kv_bytes_per_token, tiny_model()->model->config().kv_bytes_per_token());
  EXPECT_EQ(s.kv_pages, 1024 / kPageRows + o.max_sequences);
}

}  // namespace
}  // namespace pare::test
