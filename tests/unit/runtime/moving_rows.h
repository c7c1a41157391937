// What tests of rows that move while an engine runs have in common.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine_rig.h"

namespace pare::test {

inline EngineOptions moving_options(const std::string& kv, int32_t max_sequences = 4) {
  EngineOptions options;
  options.threads = 2;
  options.max_context = 256;
  options.max_sequences = max_sequences;
  options.kv = kv;
  return options;
}

inline Request long_answer(uint64_t seed, int32_t prompt, int32_t answer) {
  Philox rng(seed);
  Request request;
  request.tokens = random_tokens(rng, prompt);
  request.max_tokens = answer;
  request.ignore_eos = true;
  return request;
}

// Requests of seeds 0 to 3 have the same bits alone, beside each other, in chunks of any size, pre-empted and replayed,
// on any number of threads. `options`: for four sequences; rows move.
template <typename MakeRequest>
void expect_bits_of_position_alone(const MakeRequest& request, const EngineOptions& options) {
  EngineOptions alone = options;
  alone.max_sequences = 1;
  std::vector<Answers> expected;
  for (uint64_t seed = 0; seed < 4; ++seed) expected.push_back(run_alone(request(seed), alone));
  for (const int32_t step_rows : {7, 64, 512}) {
    for (const bool scarce : {false, true}) {
      EngineOptions together = options;
      together.step_rows = step_rows;
      together.kv_rows = 1024;
      together.threads = step_rows == 7 ? 1 : 2;
      const auto engine = make_engine(together);
      std::vector<std::shared_ptr<Answers>> answers;
      for (uint64_t seed = 0; seed < 4; ++seed) answers.push_back(submit(*engine, request(seed)));
      for (int64_t step = 0;; ++step) {
        // The third or fourth branch of a step finds no page.
        KvStore& store = EngineTestPeer::store(*engine);
        if (scarce && step % 19 == 0 && store.stats().sequences == 4) store.deny_reserve_after(2 + step % 2);
        const auto more = engine->step();
        ASSERT_TRUE(more.ok());
        if (!*more) break;
        ASSERT_TRUE(store.check().ok()) << store.check().message();
      }
      for (uint64_t seed = 0; seed < 4; ++seed) {
        EXPECT_EQ((*answers[seed])[0].rows, expected[seed][0].rows) << "rows of a step " << step_rows;
        EXPECT_EQ((*answers[seed])[0].tokens, expected[seed][0].tokens);
      }
      EXPECT_EQ(engine->stats().preemptions > 0, scarce);
      EXPECT_GT(engine->stats().kv_pages_moved, 0);
      expect_idle(*engine);
    }
  }
}

}  // namespace pare::test
