// Memory of the engine: none is taken in a decode step, and lack of it leaves no trace.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "../engine_rig.h"

namespace {
std::atomic<int64_t> allocations{0};
thread_local int64_t allocations_left = -1;  // of this thread, until one fails, once; negative: none does
}  // namespace

// Inlined into a caller, half of a pair looks to GCC like a mismatch.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (allocations_left >= 0 && allocations_left-- == 0) throw std::bad_alloc();
  void* p = std::malloc(bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace pare::test {
namespace {

Request busy_request(int32_t samples) {
  Philox rng(61);
  Request r;
  r.tokens = random_tokens(rng, 30);
  r.max_tokens = 200;
  r.samples = samples;
  r.ignore_eos = true;
  r.logprobs = 3;
  r.stop = {"never to be seen"};
  r.sampling.temperature = 1.0f;
  r.sampling.top_p = 0.9f;
  r.sampling.typical_p = 0.9f;
  r.sampling.repetition_penalty = 1.1f;
  r.sampling.logit_bias = {{5, 1.0f}};
  return r;
}

TEST(Allocation, ADecodeStepTakesNoMemory) {
  for (const int32_t in_flight : {0, 1}) {
    for (const int32_t threads : {1, 2}) {
      for (const char* kv : {"dense", "streaming(sink=0,recent=40)"}) {
        EngineOptions o;
        o.threads = threads;
        o.steps_in_flight = in_flight;
        o.kv = kv;
        o.kv_rows = 2048;
        const auto engine = make_engine(o);
        int64_t tokens = 0;
        ASSERT_TRUE(engine->submit(busy_request(4), [&](const TokenEvent&) { ++tokens; }).ok());
        for (int warm_up = 0; warm_up < 20; ++warm_up) ASSERT_TRUE(engine->step().value());
        const int64_t before = allocations, seen = tokens;
        for (int n = 0; n < 150; ++n) ASSERT_TRUE(engine->step().value());
        EXPECT_EQ(allocations - before, 0) << kv << ", " << threads << " threads, " << in_flight << " in flight";
        EXPECT_EQ(tokens - seen, 4 * 150);
      }
    }
  }
}

TEST(Allocation, ARequestWithoutMemoryLeavesNoTrace) {
  EngineOptions o;
  o.threads = 1;
  const auto engine = make_engine(o);
  Request other = busy_request(1);
  other.max_tokens = 20;
  const auto running = submit(*engine, other);
  ASSERT_TRUE(engine->step().value());
  int refused = 0;
  for (int64_t k = 0;; ++k) {
    Request r = busy_request(3);
    const EventSink sink = [](const TokenEvent&) {};
    allocations_left = k;
    const auto id = engine->submit(std::move(r), sink);
    allocations_left = -1;
    if (id.ok()) {
      engine->cancel(*id);
      break;
    }
    EXPECT_EQ(id.status().code(), StatusCode::kResourceExhausted);
    ++refused;
  }
  EXPECT_GT(refused, 8) << "request, branches, their tables";
  ASSERT_TRUE(engine->run().ok());
  const Answers alone = run_alone(other, o);
  EXPECT_EQ((*running)[0].tokens, alone[0].tokens);
  EXPECT_EQ((*running)[0].rows, alone[0].rows);
  expect_idle(*engine);
}

TEST(Allocation, AnEngineWithoutMemoryIsAStatus) {
  const auto model = tiny_model();
  EngineOptions o;
  o.threads = 1;
  int refused = 0;
  for (int64_t k = 0;; ++k) {
    allocations_left = k;
    const auto engine = Engine::create(model, o);
    allocations_left = -1;
    if (engine.ok()) break;
    EXPECT_EQ(engine.status().code(), StatusCode::kResourceExhausted);
    ++refused;
  }
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace pare::test
