// Every field of a request and of the engine's options, at and beyond its bounds.
#include "pare/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "../../scoped_env.h"
#include "base/limits.h"
#include "engine_rig.h"

namespace pare::test {
namespace {

constexpr int32_t kVocab = 264, kContext = 64;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Request good_request() {
  Request r;
  r.tokens = {1, 2, 3};
  return r;
}

void expect_refused(const Request& r, std::string_view field, std::string_view value) {
  const Status status = validate(r, kVocab, kContext);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field << " = " << value;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(std::string(field)));
}

struct FloatField {
  const char* name;
  float SamplingParams::*field;
  std::vector<float> good, bad;
};

TEST(Request, SamplingNumbers) {
  const float below_zero = -std::numeric_limits<float>::denorm_min(), above_one = std::nextafter(1.0f, 2.0f);
  const float tiny = std::numeric_limits<float>::denorm_min(), above_100 = std::nextafter(100.0f, 200.0f);
  const FloatField fields[] = {
      {"temperature", &SamplingParams::temperature, {0, tiny, 1, 100}, {below_zero, above_100}},
      {"top_p", &SamplingParams::top_p, {tiny, 0.5f, 1}, {0, -0.5f, above_one}},
      {"min_p", &SamplingParams::min_p, {0, 0.5f, 1}, {below_zero, above_one}},
      {"typical_p", &SamplingParams::typical_p, {tiny, 1}, {0, -1, above_one}},
      {"repetition_penalty", &SamplingParams::repetition_penalty, {tiny, 100}, {0, -1, above_100}},
      {"frequency_penalty", &SamplingParams::frequency_penalty, {-100, 0, 100}, {-above_100, above_100}},
      {"presence_penalty", &SamplingParams::presence_penalty, {-100, 0, 100}, {-above_100, above_100}},
  };
  for (const FloatField& f : fields) {
    Request r = good_request();
    for (const float value : f.good) {
      r.sampling.*f.field = value;
      EXPECT_TRUE(validate(r, kVocab, kContext).ok()) << f.name << " = " << value;
    }
    std::vector<float> bad = f.bad;
    bad.insert(bad.end(), {kNan, kInfinity, -kInfinity});
    for (const float value : bad) {
      r.sampling.*f.field = value;
      expect_refused(r, f.name, std::to_string(value));
    }
  }
}

TEST(Request, ForcedTokens) {
  Request r = good_request();
  r.max_tokens = 2;
  r.forced = {0, kVocab - 1};
  EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  r.forced.push_back(5);
  expect_refused(r, "3 forced tokens", "max_tokens 2");
  for (const int32_t bad : {-1, kVocab, INT32_MIN, INT32_MAX}) {
    r.forced = {7, bad};
    expect_refused(r, "forced token 1", std::to_string(bad));
  }
  r.forced = {1};
  r.logprobs = 0;
  expect_refused(r, "logprobs", "0");
  r.logprobs = -1;
  for (float SamplingParams::*penalty :
       {&SamplingParams::repetition_penalty, &SamplingParams::frequency_penalty, &SamplingParams::presence_penalty}) {
    Request penalized = r;
    penalized.sampling.*penalty = 0.5f;
    expect_refused(penalized, "penalties", "0.5");
    penalized.forced.clear();
    EXPECT_TRUE(validate(penalized, kVocab, kContext).ok());
  }
  r.observe_from = 2;
  EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  for (const int32_t bad : {-1, 3}) {
    r.observe_from = bad;
    expect_refused(r, "observe_from", std::to_string(bad));
  }
}

TEST(Request, WholeNumbers) {
  Request r = good_request();
  r.sampling.top_k = -1;
  expect_refused(r, "top_k", "-1");
  r.sampling.top_k = INT32_MAX;
  EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  for (const int32_t bad : {0, -1, INT32_MIN}) {
    r = good_request();
    r.max_tokens = bad;
    expect_refused(r, "max_tokens", std::to_string(bad));
    r = good_request();
    r.samples = bad;
    expect_refused(r, "samples", std::to_string(bad));
  }
  r = good_request();
  r.samples = kMaxSamplesPerRequest;
  EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  ++r.samples;
  expect_refused(r, "samples", "limit + 1");
  r = good_request();
  for (const int32_t good : {-1, 0, static_cast<int32_t>(kMaxTopLogprobs)}) {
    r.logprobs = good;
    EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  }
  for (const int32_t bad : {-2, static_cast<int32_t>(kMaxTopLogprobs) + 1}) {
    r.logprobs = bad;
    expect_refused(r, "logprobs", std::to_string(bad));
  }
}

TEST(Request, Prompts) {
  Request r;
  expect_refused(r, "prompt", "empty");
  r.tokens.assign(kContext, 5);
  EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  r.tokens.push_back(5);
  expect_refused(r, "context holds 64", "65 tokens");
  for (const int32_t bad : {-1, kVocab, INT32_MIN, INT32_MAX}) {
    r.tokens = {1, 2, bad};
    expect_refused(r, "prompt token 2", std::to_string(bad));
  }
}

TEST(Request, BiasesAndStopStrings) {
  Request r = good_request();
  r.sampling.logit_bias = {{0, -1000.0f}, {kVocab - 1, 1000.0f}};
  EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  for (const int32_t id : {-1, kVocab}) {
    r.sampling.logit_bias = {{id, 0.0f}};
    expect_refused(r, "logit bias for token", std::to_string(id));
  }
  for (const float value : {1000.5f, -1000.5f, kNan, kInfinity}) {
    r.sampling.logit_bias = {{7, value}};
    expect_refused(r, "logit bias of token 7", std::to_string(value));
  }
  r.sampling.logit_bias.assign(kMaxLogitBias + 1, {1, 0.0f});
  expect_refused(r, "logit biases", "limit + 1");

  r = good_request();
  r.stop.assign(kMaxStopStrings, std::string(kMaxStopBytes, 'x'));
  EXPECT_TRUE(validate(r, kVocab, kContext).ok());
  r.stop.push_back("x");
  expect_refused(r, "stop strings", "limit + 1");
  r.stop = {"x", ""};
  expect_refused(r, "stop string 1", "empty");
  r.stop = {std::string(kMaxStopBytes + 1, 'x')};
  expect_refused(r, "stop string 0", "limit + 1 bytes");
  for (const char* broken : {"\xA9", "x\xC3", "\xF8\x88\x80\x80\x80"}) {
    r.stop = {broken};
    expect_refused(r, "stop string 0", "not UTF-8");
  }
}

TEST(Request, ReasonsHaveNames) {
  for (int i = 0; i <= static_cast<int>(FinishReason::kFailed); ++i) {
    EXPECT_NE(finish_reason_name(static_cast<FinishReason>(i)), "unknown");
  }
}

TEST(EngineOptions, OutOfRangeIsNamed) {
  const auto refuses = [](std::string_view name, auto change) {
    EngineOptions o;
    change(o);
    const auto engine = Engine::create(tiny_model(), o);
    ASSERT_FALSE(engine.ok()) << name;
    EXPECT_EQ(engine.status().code(), StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(engine.status().message()), ::testing::HasSubstr(std::string(name)));
  };
  for (const int32_t bad : {-1, INT32_MIN, INT32_MAX}) {
    refuses("threads", [&](EngineOptions& o) { o.threads = bad; });
    refuses("max_sequences", [&](EngineOptions& o) { o.max_sequences = bad; });
    refuses("max_context", [&](EngineOptions& o) { o.max_context = bad; });
    refuses("step_rows", [&](EngineOptions& o) { o.step_rows = bad; });
    refuses("logit_rows", [&](EngineOptions& o) { o.logit_rows = bad; });
    refuses("steps_in_flight", [&](EngineOptions& o) { o.steps_in_flight = bad == -1 ? -2 : bad; });
  }
  for (const int64_t bad : {int64_t{-1}, INT64_MIN, INT64_MAX}) {
    refuses("kv_rows", [&](EngineOptions& o) { o.kv_rows = bad; });
  }
  refuses("max_sequences", [](EngineOptions& o) { o.max_sequences = 0; });
  refuses("logit_rows", [](EngineOptions& o) { o.logit_rows = 0; });
  refuses("max_context", [](EngineOptions& o) { o.max_context = 257; });  // the model has 256
  refuses("nonsense", [](EngineOptions& o) { o.attn = "nonsense"; });
  refuses("nonsense", [](EngineOptions& o) { o.kv = "nonsense"; });
  EXPECT_EQ(Engine::create(tiny_model("bert"), {}).status().code(), StatusCode::kUnsupported);
}

TEST(EngineOptions, TheirCpuLevelStandsAboveTheEnvironment) {
  const ScopedEnv lowest("PARE_CPU_LEVEL", "scalar");
  EngineOptions o;
  o.threads = 1;
  EXPECT_EQ(EngineTestPeer::cpu_level(*make_engine(o)), CpuLevel::kScalar);
  const Request request = {.tokens = {5, 6, 7}, .max_tokens = 8};
  for (const CpuLevel level : testable_cpu_levels()) {
    o.cpu_level = level;
    const auto engine = make_engine(o);
    EXPECT_EQ(EngineTestPeer::cpu_level(*engine), level);
    const auto answers = submit(*engine, request);
    ASSERT_NE(answers, nullptr);
    EXPECT_TRUE(engine->run().ok());
    EXPECT_NE((*answers)[0].finish, FinishReason::kFailed);
  }
  EXPECT_STREQ(std::getenv("PARE_CPU_LEVEL"), "scalar");
  o.cpu_level = static_cast<CpuLevel>(4);
  const Status unknown = Engine::create(tiny_model(), o).status();
  EXPECT_EQ(unknown.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(unknown.to_string(), ::testing::HasSubstr("cpu_level"));
  if (detected_cpu_level() == CpuLevel::kAmx) return;
  o.cpu_level = CpuLevel::kAmx;
  const Status missing = Engine::create(tiny_model(), o).status();
  EXPECT_EQ(missing.code(), StatusCode::kUnsupported);
  EXPECT_THAT(missing.to_string(), ::testing::HasSubstr("cpu_level: this machine has"));
}

TEST(EngineOptions, ARequestThatCanNeverRunIsRefusedAtOnce) {
  EngineOptions o;
  o.threads = 1;
  o.max_context = 200;
  o.kv_rows = 128;
  const auto engine = make_engine(o);
  Request r = good_request();
  r.max_tokens = 125;
  EXPECT_NE(submit(*engine, r), nullptr);
  r.max_tokens = 126;
  EXPECT_EQ(engine->submit(r, {}).status().code(), StatusCode::kResourceExhausted);
  r.tokens.assign(201, 1);
  EXPECT_EQ(engine->submit(r, {}).status().code(), StatusCode::kInvalidArgument);
  r.tokens.assign(3, 264);
  EXPECT_EQ(engine->submit(r, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(engine->run().ok());
  expect_idle(*engine);
}

}  // namespace
}  // namespace pare::test
