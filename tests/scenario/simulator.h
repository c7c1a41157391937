// Plays requests against an engine, step by step, and compares every one with itself alone.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../unit/runtime/engine_rig.h"

namespace pare::test {

struct Planned {
  Request request;
  Answers alone;       // what the request gives by itself
  int arrives = 0;     // before this step
  int cancelled = -1;  // before this step; -1: never
};

struct Scenario {
  std::string model = "llama";
  EngineOptions options;
  std::vector<Planned> requests;
  int64_t denied_reserve = -1;  // this reservation of pages finds none; -1: all are served
};

struct Outcome {
  std::vector<std::shared_ptr<Answers>> answers;
  EngineStats stats;
  KvStats kv;
  int steps = 0, failed = 0, cut = 0;  // branches that failed; that were cancelled
};

// The engine in which requests run alone: as plain as it can be, with the same policies.
inline EngineOptions plain_options(const EngineOptions& options) {
  EngineOptions plain;
  plain.threads = 1;
  plain.kv_rows = 2048;
  plain.share_prefixes = false;
  plain.attn = options.attn;
  plain.kv = options.kv;
  return plain;
}

inline Planned planned(const Scenario& s, Request request, int arrives) {
  Planned p;
  p.alone = run_alone(request, plain_options(s.options), tiny_model(s.model));
  p.request = std::move(request);
  p.arrives = arrives;
  return p;
}

// How far the oldest branch is. It advances in every step: rows, or the look at its own token in flight.
struct Oldest {
  const Branch* branch = nullptr;
  int32_t computed = 0;
  size_t tokens = 0;

  explicit Oldest(Engine& engine) {
    const auto& branches = EngineTestPeer::branches(engine);
    if (branches.empty()) return;
    branch = branches.front().get();
    computed = branch->computed;
    tokens = branch->tokens.size();
  }
  bool advanced_from(const Oldest& before) const {
    return !before.branch || branch != before.branch || computed > before.computed || tokens > before.tokens;
  }
};

// Hence this many; arrivals may leave gaps.
inline int steps_at_most(const Scenario& s) {
  int steps = 0, last_arrival = 0;
  for (const Planned& p : s.requests) {
    const int rows = static_cast<int>(p.request.tokens.size()) + p.request.max_tokens;
    steps += p.request.samples * (rows + 1) * (1 + std::max(0, s.options.steps_in_flight));
    last_arrival = std::max(last_arrival, p.arrives);
  }
  return last_arrival + steps + 1;
}

// `whole`: the request ran to its end, so nothing may be missing.
inline void expect_as_alone(const Answer& got, const Answer& alone, bool whole, bool in_flight) {
  ASSERT_LE(got.tokens.size(), alone.tokens.size());
  for (size_t i = 0; i < got.tokens.size(); ++i) ASSERT_EQ(got.tokens[i], alone.tokens[i]) << "token " << i;
  for (size_t i = 0; i < got.tokens.size(); ++i) ASSERT_EQ(got.logprobs[i], alone.logprobs[i]) << "token " << i;
  // With a step in flight a row is computed after the one that ended the answer.
  const size_t overshoot = in_flight ? 1 : 0;
  size_t unknown = 0;
  for (const auto& [position, hash] : got.rows) {
    const auto expected = alone.rows.find(position);
    if (expected == alone.rows.end()) {
      ++unknown;
      ASSERT_GT(position, alone.rows.rbegin()->first);
    } else {
      ASSERT_EQ(hash, expected->second) << "logits of position " << position;
    }
  }
  ASSERT_LE(unknown, overshoot);
  if (!whole) return;
  ASSERT_EQ(got.tokens.size(), alone.tokens.size());
  ASSERT_EQ(got.rows.size() - unknown, alone.rows.size());
  ASSERT_EQ(got.text, alone.text);
  ASSERT_EQ(got.finish, alone.finish);
}

inline void play(const Scenario& s, Outcome* outcome) {
  const auto engine = make_engine(s.options, tiny_model(s.model));
  ASSERT_NE(engine, nullptr);
  KvStore& store = EngineTestPeer::store(*engine);
  if (s.denied_reserve >= 0) store.deny_reserve_after(s.denied_reserve);
  outcome->answers.assign(s.requests.size(), nullptr);
  std::vector<RequestId> ids(s.requests.size());
  const int bound = steps_at_most(s);
  int stalls = 0;
  for (int step = 0;; ++step) {
    bool awaited = false;
    for (size_t i = 0; i < s.requests.size(); ++i) {
      const Planned& p = s.requests[i];
      awaited |= p.arrives > step;
      if (p.arrives == step) {
        outcome->answers[i] = submit(*engine, p.request, &ids[i]);
        ASSERT_NE(outcome->answers[i], nullptr);
      }
      if (p.cancelled == step) engine->cancel(ids[i]);
    }
    const Oldest before(*engine);
    const auto more = engine->step();
    ASSERT_TRUE(more.ok()) << more.status().message();
    outcome->steps = step;
    if (!*more && !awaited) break;
    const Status status = store.check();
    ASSERT_TRUE(status.ok()) << "step " << step << ": " << status.message();
    stalls += !Oldest(*engine).advanced_from(before);
    ASSERT_LE(stalls, s.denied_reserve >= 0 ? 1 : 0) << "the oldest branch, step " << step;
    ASSERT_LE(step, bound) << "somebody starves";
  }
  outcome->stats = engine->stats();
  outcome->kv = store.stats();
  expect_idle(*engine);
  for (size_t i = 0; i < s.requests.size(); ++i) {
    const Planned& p = s.requests[i];
    for (size_t b = 0; b < p.alone.size(); ++b) {
      SCOPED_TRACE(::testing::Message() << "request " << i << " branch " << b);
      const Answer& got = (*outcome->answers[i])[b];
      ASSERT_NE(got.finish, FinishReason::kNone);
      const bool failed = got.finish == FinishReason::kFailed, cut = got.finish == FinishReason::kCancelled;
      ASSERT_EQ(got.error, failed ? StatusCode::kResourceExhausted : StatusCode::kOk);
      ASSERT_TRUE(!cut || p.cancelled >= 0);
      outcome->failed += failed;
      outcome->cut += cut;
      expect_as_alone(got, p.alone[b], !failed && !cut, s.options.steps_in_flight > 0);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
  ASSERT_LE(outcome->failed, s.denied_reserve >= 0 ? 1 : 0) << "only a denied reservation fails a branch";
}

}  // namespace pare::test
