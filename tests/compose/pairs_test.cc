// Every registered selector with every registered KV policy and every engine feature, generated from the
// registries and the capability records: no pair is named here. A legal combination runs a mixed workload on
// the level of visibility (which rows attend which keys, brute force, with every plan checked against live
// pages); an illegal one is refused with a message that names both parties and the fact.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../unit/plan/visibility.h"
#include "attention/selector.h"
#include "base/rng.h"
#include "kv/configure.h"
#include "kv/policy.h"
#include "kv/step_builder.h"
#include "kv/store.h"
#include "plan/check.h"

namespace pare::testing {
namespace {

constexpr int32_t kHeads = 4, kContext = 1200, kLayerWindow = 96;

// A neutral setting, and one small enough to bite on a short prompt: parameters an eighth of their defaults.
std::vector<std::string> settings_of(const PolicySchema& schema) {
  std::vector<std::string> out = {std::string(schema.neutral)};
  std::string small;
  for (const ParamSchema& p : schema.params) {
    if (p.kind != ParamKind::kInt || p.optional) continue;
    const double value = std::max(p.min, p.fallback >= 64 ? p.fallback / 8 : p.fallback);
    small += fmt::format("{}{}={}", small.empty() ? "(" : ",", p.name, static_cast<int64_t>(value));
  }
  if (!small.empty()) out.push_back(fmt::format("{}{})", schema.name, small));
  return out;
}

struct Setting {
  std::string text;
  std::vector<const Caps*> stages;  // one, or those of a kv pipeline
  bool neutral;
};
template <typename Entry>
std::vector<Setting> settings(std::span<const Entry> registry) {
  std::vector<Setting> out;
  for (const Entry& entry : registry) {
    for (const std::string& text : settings_of(entry.schema)) {
      out.push_back({text, {entry.schema.caps}, text == entry.schema.neutral});
    }
  }
  return out;
}

// Every policy alone, and every pipeline of two that the records allow, with settings that bite.
std::vector<Setting> kv_settings() {
  const std::vector<Setting> single = settings(kv_policy_registry());
  std::vector<Setting> out = single;
  for (const Setting& a : single) {
    for (const Setting& b : single) {
      if (a.neutral || b.neutral || !check_order(*a.stages[0], *b.stages[0], true).ok()) continue;
      out.push_back({a.text + "+" + b.text, {a.stages[0], b.stages[0]}, false});
    }
  }
  return out;
}

LayerMap layers() {
  const LayerInfo infos[] = {
      {kNoWindow, 0, true}, {kLayerWindow, 1, true}, {kNoWindow, 2, true}, {kNoWindow, 2, false}};
  return make_layer_map(infos).value_or(LayerMap{});
}

// A model of the engine around plans: sequences, chunks, steps. It computes nothing but visibility.
class Rig {
 public:
  Rig(const std::string& attn, const std::string& kv, bool share) : map(layers()) {
    auto attn_spec = parse_spec(attn, "attn");
    auto kv_spec = parse_spec(kv, "kv");
    auto made_set = SelectorSet::make(*attn_spec, map);
    auto made_policy = make_kv_policy(*kv_spec);
    EXPECT_TRUE(made_set.ok() && made_policy.ok());
    selectors = std::make_unique<SelectorSet>(std::move(made_set).value());
    policy = std::move(made_policy->policy);
    KvStoreConfig config;
    config.layers = &map;
    config.n_kv_heads = 2;
    config.head_dim = 16;
    config.max_sequences = 5;
    config.max_context = kContext;
    config.max_step_rows = kContext;
    config.share_prefixes = share;
    apply_policies(selectors->facts(), *policy, map, config);
    auto made_store = KvStore::create(config);
    EXPECT_TRUE(made_store.ok()) << made_store.status().message();
    store = std::move(made_store).value();
    shape = {.n_heads = kHeads, .n_kv_heads = 2, .head_dim = 16, .threads = 3};
    const size_t bytes = step_max_bytes(kContext, 5, kContext, map, *policy, shape).total() +
                         selectors->max_bytes(kContext, 5, kTileRows);
    auto buffer = AlignedBuffer::allocate(bytes);
    EXPECT_TRUE(buffer.ok());
    arena = Arena(std::move(buffer).value());
  }

  struct State {
    int32_t seed = 0, prompt_len = 0;
    std::map<int32_t, KeyCounts> seen[2];
  };
  struct Work {
    SeqId seq;
    int32_t n_q;
    bool decode;
  };

  SeqId start(int32_t prompt_len, int32_t seed = 0) {
    auto seq = store->create_sequence();
    EXPECT_TRUE(seq.ok());
    State& s = states[*seq];
    s = {};
    s.seed = seed;
    s.prompt_len = prompt_len;
    store->adopt_prefix(*seq, tokens(seed, 0, prompt_len));
    return *seq;
  }

  void step(const std::vector<Work>& work) {
    arena.reset();
    std::vector<std::vector<int32_t>> ids;
    std::vector<StepSeq> seqs;
    for (const Work& w : work) {
      ids.push_back(tokens(states[w.seq].seed, store->length(w.seq), w.n_q));
      const Status reserved = store->reserve(w.seq, w.n_q);
      ASSERT_TRUE(reserved.ok()) << reserved.message();
    }
    for (size_t i = 0; i < work.size(); ++i) {
      seqs.push_back({.seq = work[i].seq,
                      .tokens = ids[i],
                      .prompt_len = states[work[i].seq].prompt_len,
                      .decode = work[i].decode});
    }
    StepPlans plans;
    Status status = build_step(seqs, map, *policy, shape, *store, arena, arena, plans);
    ASSERT_TRUE(status.ok()) << status.message();
    const std::span<const SeqStep> rows(plans.classes[0].seqs, work.size());
    status = selectors->build({.seqs = rows, .n_heads = kHeads, .tile_rows = kTileRows}, arena, plans);
    ASSERT_TRUE(status.ok()) << status.message();
    status = store->check();
    ASSERT_TRUE(status.ok()) << status.message();
    for (int32_t l = 0; l < plans.n_layers; ++l) {
      const ClassStep& cls = plans.cls(l);
      const PlanCheck check = {.seqs = {cls.seqs, work.size()},
                               .n_heads = kHeads,
                               .kv = &plans.kv,
                               .kv_layer = plans.layer(l).kv_layer,
                               .chunk_grid = selectors->chunk_grid()};
      status = check_block_plan(plans.block(l), check);
      ASSERT_TRUE(status.ok()) << status.message();
      status = check_segment_plan(cls.segment, check);
      ASSERT_TRUE(status.ok()) << status.message();
    }
    for (size_t i = 0; i < work.size(); ++i) {
      State& s = states[work[i].seq];
      const int32_t end = rows[i].pos + rows[i].n_q;
      for (int32_t q = 0; q < rows[i].n_q; ++q) {
        for (const int32_t l : {0, 1}) {
          const ClassStep& cls = plans.cls(l);
          const std::span<const SeqStep> own(cls.seqs, work.size());
          const KeyCounts keys = work[i].decode ? segment_keys(cls.segment, own, static_cast<int32_t>(i), q, end)
                                                : block_keys(plans.block(l), own, rows[i].q_row + q, kHeads - 1, end);
          s.seen[l][rows[i].pos + q] = keys;
        }
      }
    }
    store->commit_step();
  }

  void prefill(SeqId seq, int32_t chunk) {
    while (store->length(seq) < states[seq].prompt_len) {
      step({{seq, std::min(chunk, states[seq].prompt_len - store->length(seq)), false}});
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
  void decode(SeqId seq, int32_t steps, int32_t n_q = 1) {
    for (int32_t n = 0; n < steps && !::testing::Test::HasFatalFailure(); ++n) step({{seq, n_q, true}});
  }

  static std::vector<int32_t> tokens(int32_t seed, int32_t from, int32_t n) {
    std::vector<int32_t> out(n);
    for (int32_t i = 0; i < n; ++i) out[i] = seed * 10000 + from + i;
    return out;
  }

  // Rows [begin, end) of the sequence attend what they attend in `reference`, which read the prompt at once.
  void expect_prompt(SeqId seq, int32_t begin, int32_t end, const State& reference) {
    for (const int32_t l : {0, 1}) {
      for (int32_t i = begin; i < end; ++i) {
        const auto it = states[seq].seen[l].find(i);
        if (it == states[seq].seen[l].end()) continue;  // came from the prefix cache
        KeyCounts keys = it->second;
        keys.resize(end, 0);
        ASSERT_EQ(keys, reference.seen[l].at(i)) << "layer " << l << " row " << i;
      }
    }
  }

  // Row `i` of the sequence attends exactly the keys of `reach`, in the layer without and the one with a
  // window.
  void expect_rows(SeqId seq, int32_t begin, int32_t end, Reach reach) {
    const State& s = states[seq];
    for (const int32_t l : {0, 1}) {
      const Reach own = within_layer_window(reach, map.layers[l].window);
      for (int32_t i = begin; i < end; ++i) {
        const auto it = s.seen[l].find(i);
        if (it == s.seen[l].end()) continue;  // came from the prefix cache
        for (size_t j = 0; j < it->second.size(); ++j) {
          ASSERT_EQ(it->second[j], own.sees(i, static_cast<int32_t>(j)) ? 1 : 0)
              << "layer " << l << " row " << i << " key " << j;
        }
      }
    }
  }

  static constexpr uint16_t kTileRows = 64;
  LayerMap map;
  std::unique_ptr<SelectorSet> selectors;
  std::unique_ptr<KvPolicy> policy;
  std::unique_ptr<KvStore> store;
  SegmentShape shape;
  Arena arena;
  std::map<SeqId, State> states;
};

// What the rows of a prompt of n tokens attend when it is read in one step, alone, and nothing is ever given back.
Rig::State read_at_once(const std::string& attn, int32_t n) {
  Rig rig(attn, "dense", false);
  const SeqId seq = rig.start(n);
  rig.prefill(seq, n);
  return rig.states[seq];
}

// What each feature does to a sequence; `decode` is the reach that generated rows must have, `attn` says what prompt
// rows attend.
void exercise(Rig& rig, std::string_view feature, const std::string& attn, Reach decode) {
  const int32_t n = 517;
  const PrefillFacts facts = rig.selectors->facts();
  const Rig::State whole = read_at_once(attn, n);
  if (feature == "chunked_prefill") {
    const SeqId a = rig.start(n, 1), b = rig.start(300, 2);
    rig.prefill(b, 300);
    int32_t chunk = 1;
    while (rig.store->length(a) < n && !::testing::Test::HasFatalFailure()) {
      rig.step({{a, std::min(chunk, n - rig.store->length(a)), false}, {b, 1, true}});
      chunk = chunk * 2 + 5;
    }
    rig.decode(a, 3);
    rig.expect_prompt(a, 0, n, whole);
    rig.expect_rows(a, n, n + 3, decode);
    rig.expect_rows(b, 300, 310, decode);
  } else if (feature == "fork") {
    const SeqId a = rig.start(n, 1);
    rig.prefill(a, n);
    std::vector<SeqId> all = {a};
    for (int i = 0; i < 3; ++i) {
      auto child = rig.store->fork(a);
      ASSERT_TRUE(child.ok());
      rig.states[*child] = rig.states[a];
      all.push_back(*child);
    }
    const int64_t pages = rig.store->stats().classes[0].pages_used;
    for (int i = 0; i < 80; ++i) {
      std::vector<Rig::Work> work;
      for (const SeqId seq : all) work.push_back({seq, 1, true});
      rig.step(work);
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_LE(rig.store->stats().classes[0].pages_used, pages + 3 + 2 * 4) << "the prompt is held once";
    for (const SeqId seq : all) rig.expect_rows(seq, n, n + 80, decode);
  } else if (feature == "prefix_sharing") {
    const SeqId a = rig.start(n, 1);
    rig.prefill(a, 200);
    rig.decode(a, 3);
    rig.store->free_sequence(a);
    const SeqId b = rig.start(n, 1);
    const int32_t own = facts.horizon == Horizon::kTail ? std::max(1, facts.horizon_arg) : 1;
    const int32_t shared = (n - own) / kPageRows * kPageRows;
    EXPECT_EQ(rig.store->length(b), shared) << "what a prompt row depends on is in the cache";
    rig.prefill(b, 200);
    rig.decode(b, 3);
    rig.expect_prompt(b, shared, n, whole);
    rig.expect_rows(b, n, n + 3, decode);
    // A shorter prompt takes no row that its own end would have given more keys.
    const int32_t less = 460;
    const SeqId c = rig.start(less, 1);
    EXPECT_EQ(rig.store->length(c), (less - own) / kPageRows * kPageRows);
    rig.prefill(c, 200);
    rig.expect_prompt(c, 0, less, read_at_once(attn, less));
  } else if (feature == "preemption") {
    const SeqId a = rig.start(n, 1);
    rig.prefill(a, 200);
    rig.decode(a, 40);
    const auto before = rig.states[a];
    rig.store->free_sequence(a);
    const SeqId b = rig.start(n, 1);
    rig.prefill(b, 77);
    rig.decode(b, 5, 8);  // replayed as drafts
    for (const int l : {0, 1}) {
      for (const auto& [row, keys] : rig.states[b].seen[l]) {
        KeyCounts padded = before.seen[l].at(row);
        padded.resize(std::max(keys.size(), padded.size()), 0);
        KeyCounts replayed = keys;
        replayed.resize(padded.size(), 0);
        ASSERT_EQ(replayed, padded) << "row " << row;
      }
    }
  } else if (feature == "second_turn") {
    const SeqId a = rig.start(n, 1);
    rig.prefill(a, 300);
    rig.decode(a, 30);
    rig.states[a].prompt_len = n + 30 + 250;
    rig.prefill(a, 100);
    rig.decode(a, 3);
    rig.expect_prompt(a, n + 30, n + 280, read_at_once(attn, n + 280));
    rig.expect_rows(a, n + 280, n + 283, decode);
  }
}

TEST(Compose, EveryPairRunsOrIsRefused) {
  int legal_runs = 0, refused = 0;
  for (const Setting& attn : settings(selector_registry())) {
    for (const Setting& kv : kv_settings()) {
      for (const Caps& feature : feature_caps()) {
        SCOPED_TRACE(fmt::format("attn={} kv={} {}", attn.text, kv.text, feature.name));
        const Caps* features[] = {&feature};
        const Status legal = check_legal(attn.stages, kv.stages, features);
        const bool sealed = feature.phase == Phase::kDecode;
        uint32_t broken = 0;
        std::vector<::testing::Matcher<std::string>> breakers;
        for (const std::vector<const Caps*>& stages : {attn.stages, kv.stages}) {
          for (const Caps* caps : stages) {
            broken |= caps->breaks | (sealed ? caps->breaks_sealed : 0);
            breakers.push_back(::testing::HasSubstr(fmt::format("'{}'", caps->name)));
          }
        }
        ASSERT_EQ(legal.ok(), (feature.needs & broken) == 0);
        if (!legal.ok()) {
          ++refused;
          EXPECT_THAT(std::string(legal.message()), ::testing::HasSubstr(fmt::format("'{}'", feature.name)));
          EXPECT_THAT(std::string(legal.message()), ::testing::AnyOfArray(breakers));
          continue;
        }
        Rig rig(attn.text, kv.text, feature.name == "prefix_sharing");
        // Both neutral: dense in both phases, whatever the names.
        const Reach decode = kv.neutral ? Reach{} : rig.policy->decode_reach();
        if (attn.neutral) {
          EXPECT_TRUE(rig.selectors->facts().reach[0].unlimited());
        }
        exercise(rig, feature.name, attn.text, decode);
        if (::testing::Test::HasFatalFailure()) return;
        ++legal_runs;
      }
    }
  }
  EXPECT_GT(legal_runs, 20);
  EXPECT_GT(refused, 0) << "the records must forbid something";
  ::testing::Test::RecordProperty("legal", legal_runs);
  ::testing::Test::RecordProperty("refused", refused);
}

// The reference that the pairs are held against: rows of a selector whose facts are exact see that reach.
TEST(Compose, ExactFactsAreWhatRowsAttend) {
  int exact = 0, other = 0;
  for (const Setting& attn : settings(selector_registry())) {
    SCOPED_TRACE(attn.text);
    Rig rig(attn.text, "dense", false);
    const SeqId seq = rig.start(517);
    rig.prefill(seq, 517);
    const PrefillFacts facts = rig.selectors->facts();
    if (attn.neutral) {
      EXPECT_TRUE(facts.exact[0]);
    }
    if (facts.exact[0]) {
      ++exact;
      rig.expect_rows(seq, 0, 517, facts.reach[0]);
      continue;
    }
    ++other;
    const KeyCounts& last = rig.states[seq].seen[0].at(516);
    EXPECT_EQ(last, KeyCounts(517, 1)) << "the row that is sampled attends everything";
    EXPECT_EQ(facts.horizon, Horizon::kTail);
  }
  EXPECT_GE(exact, 4);
  EXPECT_GE(other, 1);
}

TEST(Compose, EveryOrderOfTwoKvStagesIsLegalOrNamed) {
  const auto all = settings(kv_policy_registry());
  int legal_orders = 0;
  for (const Setting& a : all) {
    for (const Setting& b : all) {
      auto spec = parse_spec(fmt::format("{}+{}", a.text, b.text), "kv");
      ASSERT_TRUE(spec.ok());
      const Status status = make_kv_policy(*spec).status();
      const Caps &first = *a.stages[0], &then = *b.stages[0];
      const bool legal = check_order(first, then, true).ok();
      legal_orders += legal;
      EXPECT_EQ(status.ok(), legal) << a.text << " + " << b.text;
      if (legal) continue;
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()),
                  ::testing::HasSubstr(fmt::format("'{}' cannot follow '{}'", then.name, first.name)));
    }
  }
  EXPECT_EQ(legal_orders, 4) << "leank+quant, each with a neutral and a small setting";
}

// Streaming prompts with a streaming cache: pages die while the prompt is being read.
TEST(Compose, BothWindowsTogetherBoundMemoryDuringThePrompt) {
  Rig dense("dense", "streaming(sink=4,recent=128)", false);
  Rig both("streaming(sink=4,window=128)", "streaming(sink=4,recent=128)", false);
  int64_t peak[2] = {0, 0};
  int n = 0;
  for (Rig* rig : {&dense, &both}) {
    const SeqId seq = rig->start(1100, 1);
    while (rig->store->length(seq) < 1100) {
      rig->step({{seq, std::min(100, 1100 - rig->store->length(seq)), false}});
      ASSERT_FALSE(::testing::Test::HasFatalFailure());
      peak[n] = std::max(peak[n], rig->store->stats().classes[0].pages_used);
    }
    rig->decode(seq, 40);
    ++n;
  }
  EXPECT_GE(peak[0], 16);
  EXPECT_LE(peak[1], 6);
  // Equal reaches in both phases: generated rows equal prompt rows, and are worth sharing.
  KvStoreConfig config;
  apply_policies(both.selectors->facts(), *both.policy, both.map, config);
  EXPECT_TRUE(config.share_decoded);
  apply_policies(dense.selectors->facts(), *dense.policy, dense.map, config);
  EXPECT_FALSE(config.share_decoded);
}

}  // namespace
}  // namespace pare::testing
