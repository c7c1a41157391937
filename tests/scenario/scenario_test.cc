// The whole engine under random load: whatever arrives, is cancelled, pre-empted or denied memory, every request gives
// the tokens and the logits that it gives alone, bit for bit; everything ends within bounds; nothing leaks.
//
// PARE_SCENARIO_SEEDS: how many random scenarios to play; PARE_SCENARIO_FIRST: the first seed.
#include <cstdlib>

#include "simulator.h"

namespace pare::test {
namespace {

constexpr int32_t kPromptMax = 140, kAnswerMax = 40;

int from_environment(const char* name, int fallback) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoi(text) : fallback;
}

struct Policies {
  const char *attn, *kv;
};
constexpr Policies kPolicies[] = {{"dense", "dense"},
                                  {"dense", "streaming(sink=0,recent=40)"},
                                  {"streaming(sink=4,window=48)", "dense"},
                                  {"streaming(sink=0,window=40)", "streaming(sink=0,recent=40)"},
                                  {"triangle(sink=2,window=24,last=8,min_tokens=75)", "dense"},
                                  {"triangle(sink=0,window=9,last=70)", "streaming(sink=0,recent=40)"}};

template <typename T, size_t N>
T pick(Philox& rng, const T (&values)[N]) {
  return values[rng.below(N)];
}

SamplingParams random_sampling(Philox& rng) {
  SamplingParams s;
  const auto sometimes = [&] { return rng.below(4) == 0; };
  s.temperature = sometimes() ? 0.0f : 0.2f + 1.5f * rng.uniform();
  if (sometimes()) s.top_k = 1 + static_cast<int32_t>(rng.below(50));
  if (sometimes()) s.top_p = 0.3f + 0.6f * rng.uniform();
  if (sometimes()) s.min_p = 0.3f * rng.uniform();
  if (sometimes()) s.typical_p = 0.3f + 0.6f * rng.uniform();
  if (sometimes()) s.repetition_penalty = 0.8f + rng.uniform();
  if (sometimes()) s.frequency_penalty = rng.normal();
  if (sometimes()) s.presence_penalty = rng.normal();
  if (sometimes()) s.logit_bias = {{static_cast<int32_t>(rng.below(264)), 3.0f * rng.normal()}};
  s.seed = uint64_t{rng()} << 32 | rng();
  return s;
}

// Prompts share beginnings with each other; some go on where an earlier request's answer ended.
Request random_request(Philox& rng, const std::vector<Planned>& earlier) {
  Request r;
  const auto sometimes = [&] { return rng.below(4) == 0; };
  Philox base(1000 + rng.below(3));
  r.tokens = random_tokens(base, sometimes() ? 1 + static_cast<int32_t>(rng.below(20))
                                             : 60 + static_cast<int32_t>(rng.below(kPromptMax - 60)));
  if (!earlier.empty() && sometimes()) {
    const Planned& turn = earlier[rng.below(static_cast<uint32_t>(earlier.size()))];
    r.tokens = turn.request.tokens;
    r.tokens.insert(r.tokens.end(), turn.alone[0].tokens.begin(), turn.alone[0].tokens.end());
  }
  const std::vector<int32_t> own = random_tokens(rng, static_cast<int32_t>(rng.below(10)));
  r.tokens.insert(r.tokens.end(), own.begin(), own.end());
  r.tokens.resize(std::min<size_t>(r.tokens.size(), kPromptMax));
  r.max_tokens = 1 + static_cast<int32_t>(rng.below(kAnswerMax));
  r.samples = sometimes() ? 1 + static_cast<int32_t>(rng.below(5)) : 1;
  r.sampling = random_sampling(rng);
  r.observe_prompt = sometimes();
  r.ignore_eos = !sometimes();
  if (sometimes()) r.logprobs = static_cast<int32_t>(rng.below(4));
  if (sometimes()) r.stop = {std::string(1, static_cast<char>('a' + rng.below(26)))};
  return r;
}

Scenario random_scenario(uint64_t seed) {
  Philox rng(seed, 7);
  Scenario s;
  if (rng.below(3) == 0) s.model = "gemma3";
  const Policies policies = pick(rng, kPolicies);
  EngineOptions& o = s.options;
  o.attn = policies.attn;
  o.kv = policies.kv;
  o.threads = 1 + static_cast<int32_t>(rng.below(3));
  o.max_sequences = 1 + static_cast<int32_t>(rng.below(8));
  o.kv_rows = pick(rng, {192, 192, 192, 256, 1024});  // the longest request needs 180
  o.step_rows = pick(rng, {1, 2, 3, 7, 16, 65, 512});
  o.logit_rows = pick(rng, {1, 2, 5, 64});
  o.share_prefixes = rng.below(2) == 0;
  o.steps_in_flight = static_cast<int32_t>(rng.below(2));
  for (uint32_t n = 3 + rng.below(7); n > 0; --n) {
    s.requests.push_back(planned(s, random_request(rng, s.requests), static_cast<int>(rng.below(15))));
    Planned& p = s.requests.back();
    if (rng.below(4) == 0) p.cancelled = p.arrives + 1 + static_cast<int>(rng.below(20));
  }
  if (rng.below(3) == 0) s.denied_reserve = rng.below(60);
  return s;
}

TEST(Scenario, RandomLoad) {
  const int first = from_environment("PARE_SCENARIO_FIRST", 1), seeds = from_environment("PARE_SCENARIO_SEEDS", 400);
  uint64_t preemptions = 0;
  int64_t copies = 0, hits = 0, evicted = 0, freed = 0;
  int failed = 0, cut = 0;
  for (int seed = first; seed < first + seeds; ++seed) {
    const Scenario s = random_scenario(static_cast<uint64_t>(seed));
    const EngineOptions& o = s.options;
    SCOPED_TRACE(::testing::Message() << "PARE_SCENARIO_FIRST=" << seed << " PARE_SCENARIO_SEEDS=1: " << s.model << " "
                                      << o.attn << " " << o.kv << ", step rows " << o.step_rows << ", in flight "
                                      << o.steps_in_flight << ", denied reservation " << s.denied_reserve);
    Outcome out;
    play(s, &out);
    if (HasFatalFailure()) return;
    preemptions += out.stats.preemptions;
    copies += out.kv.copies;
    hits += out.kv.prefix_hit_rows;
    for (int32_t c = 0; c < out.kv.n_classes; ++c) {
      evicted += out.kv.classes[c].evicted;
      freed += out.kv.classes[c].freed_dead;
    }
    failed += out.failed;
    cut += out.cut;
  }
  if (seeds < 100) return;
  // The load must be worth its name, in every scenario or in one of a few.
  EXPECT_GT(static_cast<int>(preemptions), seeds / 8);
  EXPECT_GT(copies, seeds / 5);
  EXPECT_GT(hits, seeds * 10);
  EXPECT_GT(evicted, seeds / 10);
  EXPECT_GT(freed, seeds / 5);
  EXPECT_GT(cut, seeds / 5);
  EXPECT_GT(failed, 0);
}

// Two samples of one request between two others, in a pool that cannot hold them all.
Scenario crowd(int32_t steps_in_flight) {
  Scenario s;
  EngineOptions& o = s.options;
  o.threads = 1;
  o.max_sequences = 4;
  o.kv_rows = 192;
  o.step_rows = 24;
  o.steps_in_flight = steps_in_flight;
  Philox rng(77);
  const std::vector<int32_t> prompt = random_tokens(rng, 130);
  for (const int i : {0, 1, 2}) {
    Request r;
    r.tokens.assign(prompt.begin(), prompt.begin() + 100 + 15 * i);
    r.max_tokens = 30 - i;
    r.samples = i == 1 ? 2 : 1;
    r.observe_prompt = i == 2;
    r.sampling.temperature = 1.0f;
    r.sampling.frequency_penalty = 0.5f;
    r.sampling.seed = static_cast<uint64_t>(i);
    s.requests.push_back(planned(s, std::move(r), i));
  }
  return s;
}

TEST(Scenario, CancelAtEveryStep) {
  for (const int32_t in_flight : {0, 1}) {
    Scenario s = crowd(in_flight);
    Outcome undisturbed;
    play(s, &undisturbed);
    ASSERT_GT(undisturbed.stats.preemptions, 0u);
    for (size_t victim = 0; victim <= s.requests.size(); ++victim) {  // the last round cancels all
      for (int step = 3; step <= undisturbed.steps; ++step) {
        SCOPED_TRACE(::testing::Message()
                     << "request " << victim << " before step " << step << ", " << in_flight << " in flight");
        for (size_t i = 0; i < s.requests.size(); ++i) {
          s.requests[i].cancelled = i == victim || victim == s.requests.size() ? step : -1;
        }
        Outcome out;
        play(s, &out);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Scenario, DenyEveryReservation) {
  for (const int32_t in_flight : {0, 1}) {
    Scenario s = crowd(in_flight);
    int failed = 0;
    uint64_t most = 0, least = UINT64_MAX;
    for (int64_t k = 0; k < 150; ++k) {
      SCOPED_TRACE(::testing::Message() << "reservation " << k << ", " << in_flight << " in flight");
      s.denied_reserve = k;
      Outcome out;
      play(s, &out);
      if (HasFatalFailure()) return;
      failed += out.failed;
      most = std::max(most, out.stats.preemptions);
      least = std::min(least, out.stats.preemptions);
    }
    EXPECT_GT(failed, 0) << "with nobody to pre-empt, a branch fails";
    EXPECT_GT(most, least) << "with somebody, he gives way";
  }
}

// One long request after another, with a stream of short ones: the pool is always contended, and all come through.
TEST(Scenario, NobodyStarves) {
  for (const int32_t step_rows : {1, 8, 512}) {
    Scenario s;
    s.options.threads = 1;
    s.options.max_sequences = 3;
    s.options.kv_rows = 192;
    s.options.step_rows = step_rows;
    Philox rng(78);
    for (int i = 0; i < 24; ++i) {
      Request r;
      r.tokens = random_tokens(rng, i % 6 == 0 ? 140 : 5);
      r.max_tokens = 20;
      r.ignore_eos = true;
      s.requests.push_back(planned(s, std::move(r), i * 2));
    }
    Outcome out;
    play(s, &out);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace pare::test
