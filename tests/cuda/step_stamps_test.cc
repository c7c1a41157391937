// The times that a card gives its steps: in order, one for each step that draws, and nothing else changes by them.
#include <filesystem>
#include <numeric>

#include "base/rng.h"
#include "cuda_test.h"
#include "kernels/cuda/card_rates.h"
#include "pare/engine.h"
#include "runtime/loaded_model.h"
#include "runtime/step_clock.h"

namespace pare {
namespace {

using cuda::is_ok;
using cuda::value_of;

std::shared_ptr<const LoadedModel> tiny_on_card() {
  ThreadPool pool(2);
  return value_of(load(std::filesystem::path(PARE_SOURCE_DIR) / "tests/data/tiny/llama/model.gguf", &pool,
                       value_of(ops::accelerator_by_name("cuda"))));
}

struct Result {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> logprobs;
  std::vector<StepStamp> stamps;
  EngineStats stats;
};

// `requests` at once, of prompts of different lengths and answers of `answer` tokens.
Result run_requests(const std::shared_ptr<const LoadedModel>& model, int requests, int32_t answer, float temperature,
                    EngineOptions options) {
  options.threads = 2;
  options.max_context = 256;
  options.max_sequences = requests;
  options.kv_rows = 256 * requests;
  auto engine = value_of(Engine::create(model, options));
  Result run;
  run.tokens.resize(static_cast<size_t>(requests));
  run.logprobs.resize(static_cast<size_t>(requests));
  Philox rng(21);
  for (int i = 0; i < requests; ++i) {
    Request request;
    for (int t = 0; t < 20 + 10 * i; ++t) request.tokens.push_back(static_cast<int32_t>(rng.below(264)));
    request.max_tokens = answer;
    request.ignore_eos = true;
    request.logprobs = 0;
    request.sampling.temperature = temperature;
    request.sampling.seed = 3;
    EXPECT_TRUE(is_ok(engine->submit(std::move(request), [&run, i](const TokenEvent& event) {
      if (event.token < 0) return;
      run.tokens[static_cast<size_t>(i)].push_back(event.token);
      run.logprobs[static_cast<size_t>(i)].push_back(event.logprob);
    })));
  }
  EXPECT_TRUE(is_ok(engine->run()));
  run.stamps = engine->take_step_stamps();
  run.stats = engine->stats();
  EXPECT_TRUE(engine->take_step_stamps().empty());
  return run;
}

class StepStamps : public cuda::CudaTest {};

TEST_F(StepStamps, EveryStepHasItsTimesInOrder) {
  const auto model = tiny_on_card();
  for (const bool graphs : {true, false}) {
    for (const int32_t in_flight : {1, 0}) {
      for (const int requests : {1, 5}) {
        SCOPED_TRACE(testing::Message() << "graphs " << graphs << ", in flight " << in_flight << ", " << requests);
        EngineOptions options;
        options.graphs = graphs;
        options.steps_in_flight = in_flight;
        const Result run = run_requests(model, requests, 60, 0.0f, options);
        // Every prompt fits into the first step, which draws, and so does every step after it.
        ASSERT_EQ(run.stamps.size(), run.stats.steps);
        ASSERT_GE(run.stamps.size(), 60u);
        EXPECT_EQ(run.stats.device_steps, run.stats.decode_steps);
        EXPECT_EQ(run.stats.device_gaps, run.stats.decode_steps - 1);
        for (size_t i = 0; i < run.stamps.size(); ++i) {
          const StepStamp& s = run.stamps[i];
          EXPECT_EQ(s.step, i);
          EXPECT_EQ(s.decode, i > 0);
          EXPECT_FALSE(s.followed);
          EXPECT_GT(s.begin_ns, 0);
          EXPECT_GE(s.end_ns, s.begin_ns) << "step " << i;
          // The begin is read after everything before has ended, so that not even dependents that start early overlap.
          if (i > 0) {
            EXPECT_GE(s.begin_ns, run.stamps[i - 1].end_ns) << "step " << i;
          }
        }
        StepTimes times;
        append_times(run.stamps, &times);
        EXPECT_EQ(times.step_us.size(), run.stats.device_steps);
        EXPECT_EQ(times.gap_us.size(), run.stats.device_gaps);
        EXPECT_NEAR(std::accumulate(times.gap_us.begin(), times.gap_us.end(), 0.0), run.stats.device_gap_us, 1e-6);
        EXPECT_GT(spread_of(times.step_us).median, 0.0);
        // All of it happened while the engine ran: the card's clock counts nanoseconds.
        const double span_ms = static_cast<double>(run.stamps.back().end_ns - run.stamps.front().begin_ns) * 1e-6;
        EXPECT_LE(span_ms, 1.05 * (run.stats.prefill_ms + run.stats.decode_ms) + 50.0);
      }
    }
  }
}

TEST_F(StepStamps, ChangeNoBitOfTheResults) {
  const auto model = tiny_on_card();
  for (const float temperature : {0.0f, 0.9f}) {
    for (const bool graphs : {true, false}) {
      EngineOptions options;
      options.strict = true;
      options.graphs = graphs;
      const Result with = run_requests(model, 4, 50, temperature, options);
      options.step_stamps = false;
      const Result without = run_requests(model, 4, 50, temperature, options);
      EXPECT_EQ(with.tokens, without.tokens);
      EXPECT_EQ(with.logprobs, without.logprobs);
      EXPECT_FALSE(with.stamps.empty());
      EXPECT_TRUE(without.stamps.empty());
      EXPECT_EQ(without.stats.device_steps, 0u);
    }
  }
}

// Rows that move are queued behind the sampler: such steps are marked, and no gap is taken after them.
TEST_F(StepStamps, StepsWithMovesAreFollowed) {
  EngineOptions options;
  options.kv = "leank(sink=4,recent=16,flush=64)";
  const Result run = run_requests(tiny_on_card(), 1, 150, 0.0f, options);
  size_t followed = 0;
  for (size_t i = 1; i + 1 < run.stamps.size(); ++i) followed += run.stamps[i].followed;
  EXPECT_GT(followed, 0u);
  EXPECT_LT(followed, run.stamps.size() / 2);
  EXPECT_LE(run.stats.device_gaps, run.stats.device_steps - 1 - followed);
}

TEST_F(StepStamps, TheClockMoves) {
  const int64_t ns = value_of(cuda::measure_clock_step_ns());
  EXPECT_GT(ns, 0);
  EXPECT_LE(ns, 10'000);  // coarser than that it would say nothing about gaps of 5 us
}

}  // namespace
}  // namespace pare
