// Evaluations from cases to rows, on a model with random weights: what is told, compared, kept, resumed and summed up.
#include "eval/harness.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>

#include "../../scratch_folder.h"
#include "eval/figures.h"
#include "eval/random_model.h"
#include "eval/summary.h"

namespace pare {
namespace {

std::shared_ptr<const LoadedModel> small() {
  static const auto model = [] {
    ModelShape s;
    s.name = "small";
    s.type = "llama";
    s.layers = 2;
    s.dim = 64;
    s.heads = 4;
    s.kv_heads = 2;
    s.head_dim = 16;
    s.ffn_dim = 128;
    s.vocab = 256;
    s.context = 4096;
    s.rope_base = 10'000.0;
    ThreadPool pool(1);
    return load(random_model(s, DType::BF16).value(), "small", &pool).value();
  }();
  return model;
}

std::unique_ptr<Engine> engine_of(const std::string& attn, const std::string& kv) {
  EngineOptions o;
  o.threads = 1;
  o.max_context = 1024;
  o.max_sequences = 1;
  o.share_prefixes = false;
  o.attn = attn;
  o.kv = kv;
  return Engine::create(small(), o).value();
}

EvalPlan plan_of(const std::string& task) {
  EvalPlan plan;
  plan.task = task;
  plan.lengths = {900};
  plan.depths = {0, 100};
  plan.cases = 2;
  plan.scored = 8;
  plan.engine.threads = 1;
  plan.params.keys = 1;
  plan.candidates = {{"kv", "dense", "streaming(sink=4,recent=64)"}, {"attn", "streaming(sink=4,window=64)", "dense"}};
  return plan;
}

// Rows of logits of a prompt, by position.
std::map<int32_t, std::vector<float>> prompt_rows(Engine& engine, const std::vector<TokenId>& prompt) {
  std::map<int32_t, std::vector<float>> rows;
  Request r;
  r.tokens = prompt;
  r.max_tokens = 1;
  r.observe_prompt = true;
  r.on_logits = [&](int32_t, int32_t row, std::span<const float> logits) {
    rows[row].assign(logits.begin(), logits.end());
  };
  EXPECT_TRUE(engine.submit(r, {}).ok());
  EXPECT_TRUE(engine.run().ok());
  return rows;
}

TEST(Probe, RowsOfALine) {
  const std::vector<float> p = {0.0f, 1.0f, 2.0f}, q = {2.0f, 1.0f, 0.0f};
  const double z = std::exp(0.0) + std::exp(1.0) + std::exp(2.0);
  EXPECT_NEAR(log_sum_exp(p), std::log(z), 1e-12);
  // Both have the same sum: the logarithms differ by the logits.
  const double kl = (std::exp(0.0) * -2 + std::exp(2.0) * 2) / z;
  EXPECT_NEAR(kl_divergence(p, q), kl, 1e-12);
  EXPECT_EQ(kl_divergence(p, p), 0.0);
  const std::vector<float> skewed = {5.0f, 0.0f, 0.0f};
  EXPECT_GT(std::abs(kl_divergence(p, skewed) - kl_divergence(skewed, p)), 0.1) << "it has a direction";
  EXPECT_EQ(most_likely(q), 0);
  EXPECT_EQ(most_likely(std::vector<float>{1, 3, 3}), 1);
  const float none = -std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isfinite(kl_divergence(std::vector<float>{1, none}, std::vector<float>{1, none})));
}

TEST(Probe, ToldTokensAreComparedRowByRow) {
  const auto dense = engine_of("dense", "dense");
  PromptIds ids;
  for (int i = 0; i < 300; ++i) ids.prompt.push_back((i * 37 + i * i) % 250);
  ids.told = {9, 8, 7};
  const auto answer = answer_case(*dense, ids, 12, 5, {});
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  EXPECT_EQ(answer->tokens.size(), 12u);
  ASSERT_EQ(answer->scored.tokens.size(), 5u);
  EXPECT_GT(answer->cost.prompt_pairs, 0);
  EXPECT_GT(answer->cost.kv_bytes_held, 0);
  // The rows are those of a prompt that holds everything, bit for bit.
  std::vector<TokenId> whole = ids.prompt;
  whole.insert(whole.end(), ids.told.begin(), ids.told.end());
  whole.insert(whole.end(), answer->tokens.begin(), answer->tokens.end());
  const auto rows = prompt_rows(*dense, whole);
  for (size_t i = 0; i < 5; ++i) {
    const std::span<const float> row(answer->scored.logits.data() + i * 256, 256);
    const std::vector<float>& expected = rows.at(302 + static_cast<int32_t>(i));
    EXPECT_TRUE(std::equal(row.begin(), row.end(), expected.begin())) << i;
    EXPECT_EQ(most_likely(row), answer->tokens[i]) << "the answer is greedy";
  }
  const auto same = compare_case(*dense, ids, answer->scored, 0, {});
  ASSERT_TRUE(same.ok()) << same.status().to_string();
  EXPECT_EQ(same->kl, std::vector<double>(5, 0.0));
  EXPECT_EQ(same->same, std::vector<uint8_t>(5, 1));
  EXPECT_EQ(same->hit, std::vector<uint8_t>(5, 1));
  // A policy that forgets is met in decode steps: the first row comes from the prompt.
  PromptIds without = ids;
  without.prompt.insert(without.prompt.end(), without.told.begin(), without.told.end());
  without.told.clear();
  const auto forgetful = engine_of("dense", "streaming(sink=4,recent=64)");
  const auto other = compare_case(*forgetful, without, answer->scored, 0, {});
  ASSERT_TRUE(other.ok());
  const auto own_rows = tell_case(*forgetful, without, answer->scored.tokens, 0, {});
  ASSERT_TRUE(own_rows.ok());
  for (size_t i = 0; i < 5; ++i) {
    const std::span<const float> p(answer->scored.logits.data() + i * 256, 256);
    const std::span<const float> q(own_rows->scored.logits.data() + i * 256, 256);
    EXPECT_DOUBLE_EQ(other->kl[i], kl_divergence(p, q)) << "from the reference to the candidate";
  }
  EXPECT_EQ(other->kl[0], 0.0);
  EXPECT_GT(other->kl[1], 0.0);
  EXPECT_LT(other->cost.decode_pairs, same->cost.decode_pairs);
  EXPECT_EQ(other->cost.prompt_pairs > 0, true);
}

TEST(Probe, PromptsAreScoredFromAPosition) {
  const auto dense = engine_of("dense", "dense");
  PromptIds ids;
  for (int i = 0; i < 120; ++i) ids.prompt.push_back((i * 31 + 7) % 250);
  const std::vector<TokenId> rest = {1, 2, 3, 4};
  const auto told = tell_case(*dense, ids, rest, 100, {});
  ASSERT_TRUE(told.ok()) << told.status().to_string();
  ASSERT_EQ(told->prompt_nll.size(), 20u);
  std::vector<TokenId> whole = ids.prompt;
  whole.insert(whole.end(), rest.begin(), rest.end());
  const auto rows = prompt_rows(*dense, whole);
  for (int32_t i = 0; i < 20; ++i) {
    const auto& row = rows.at(99 + i);
    EXPECT_DOUBLE_EQ(told->prompt_nll[i], log_sum_exp(row) - row[whole[100 + i]]);
  }
  const auto compared = compare_case(*dense, ids, told->scored, 100, {});
  ASSERT_TRUE(compared.ok());
  EXPECT_EQ(compared->prompt_nll, told->prompt_nll);
  for (int32_t i = 0; i < 4; ++i) {
    const auto& row = rows.at(119 + i);
    EXPECT_DOUBLE_EQ(compared->nll[i], log_sum_exp(row) - row[rest[i]]);
  }
}

TEST(Harness, RunsResumesAndStops) {
  EvalPlan plan = plan_of("needle");
  plan.candidates.push_back({"itself", "dense", "dense"});
  EvalRecords records;
  std::vector<EvalRow> rows;
  int saves = 0;
  int64_t last = 0;
  const EvalSave save = [&] {
    ++saves;
    return ok_status();
  };
  const Status status = run_evaluation(
      small(), plan, &records,
      [&](int64_t done, int64_t total) {
        EXPECT_EQ(total, 2 * 2 * 4);
        EXPECT_GE(done, last);
        last = done;
        return true;
      },
      save, &rows);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(saves, 4);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(records.all().size(), 4u * 3u) << "a candidate that is the reference has its records";
  for (const EvalRow& row : rows) {
    ASSERT_EQ(row.records.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(row.records[i].key.seed, rows[0].records[i].key.seed);
      EXPECT_LE(row.records[i].prompt_tokens, 900);
    }
  }
  const double kl_kv = std::accumulate(rows[1].records[0].kl.begin(), rows[1].records[0].kl.end(), 0.0);
  EXPECT_EQ(rows[1].records[0].kl.size(), 8u);
  EXPECT_GT(kl_kv, 0.0);
  EXPECT_EQ(rows[1].records[0].kl[0], 0.0) << "the first token comes from the prompt, which a KV policy leaves alone";
  EXPECT_GT(rows[2].records[0].kl[0], 0.0) << "a selector does not";
  // Again: nothing is left to do. With one record less, that one comes back the same.
  std::vector<EvalRow> again;
  saves = 0;
  ASSERT_TRUE(run_evaluation(small(), plan, &records, {}, save, &again).ok());
  EXPECT_EQ(saves, 0);
  EvalRecords fewer;
  for (const CaseRecord& r : records.all()) {
    if (!(r.key == rows[1].records[2].key)) {
      ASSERT_TRUE(fewer.add(r).ok());
    }
  }
  ASSERT_TRUE(run_evaluation(small(), plan, &fewer, {}, save, &again).ok());
  EXPECT_EQ(saves, 1);
  EXPECT_EQ(fewer.find(rows[1].records[2].key)->kl, rows[1].records[2].kl);
  EXPECT_EQ(fewer.find(rows[1].records[2].key)->answer, rows[1].records[2].answer);
  // Stopped: whole cases alone are in the rows.
  EvalRecords fresh;
  int calls = 0;
  const Status stopped = run_evaluation(
      small(), plan, &fresh, [&](int64_t done, int64_t) { return done < 6 && ++calls < 100'000; }, {}, &again);
  EXPECT_EQ(stopped.code(), StatusCode::kCancelled);
  EXPECT_EQ(again[0].records.size(), 1u);
  EXPECT_EQ(again[2].records.size(), 1u);
  EXPECT_GE(fresh.all().size(), 3u);
}

TEST(Harness, EveryTaskRuns) {
  for (const TaskFamily& family : task_families()) {
    EvalPlan plan = plan_of(std::string(family.name));
    if (family.name == "common-words") continue;  // its shortest list is long in bytes
    plan.lengths = {1800};
    plan.depths = {50};
    plan.cases = 1;
    plan.candidates.resize(1);
    plan.params.values = 2;
    plan.params.question = 16;
    EvalRecords records;
    std::vector<EvalRow> rows;
    const Status status = run_evaluation(small(), plan, &records, {}, {}, &rows);
    EXPECT_TRUE(status.ok()) << family.name << ": " << status.to_string();
    EXPECT_EQ(records.all().size(), 2u) << family.name;
  }
  EvalPlan plan = plan_of("gsm8k");
  plan.problems = {{"What is 1 + 1?", "2"}, {"What is 2 + 2?", "4"}};
  plan.cases = 3;
  EvalRecords records;
  std::vector<EvalRow> rows;
  ASSERT_TRUE(run_evaluation(small(), plan, &records, {}, {}, &rows).ok());
  EXPECT_EQ(rows[0].records.size(), 3u);
}

TEST(Harness, CopiesAreScoredInPromptAndDecode) {
  EvalPlan plan = plan_of("copy");
  plan.lengths = {400};
  plan.depths = {128, 300};
  EvalRecords records;
  std::vector<EvalRow> rows;
  const Status status = run_evaluation(small(), plan, &records, {}, {}, &rows);
  ASSERT_TRUE(status.ok()) << status.to_string();
  for (const EvalRow& row : rows) {
    EXPECT_EQ(row.records[0].prompt_nll.size(), 56u);
    EXPECT_EQ(row.records[0].nll.size(), 64u);
  }
  EXPECT_EQ(rows[0].records[0].prompt_nll, rows[1].records[0].prompt_nll) << "prompts are read densely";
  EXPECT_NE(rows[0].records[0].prompt_nll, rows[2].records[0].prompt_nll);
  const auto summaries = summarize(rows, {.rounds = 100});
  ASSERT_EQ(summaries[1].copies.size(), 2u);
  EXPECT_EQ(summaries[1].copies[1].distance, 300);
  for (const FigureKind kind : {FigureKind::kHeat, FigureKind::kScore, FigureKind::kNll, FigureKind::kKlPairs,
                                FigureKind::kKlBytes, FigureKind::kTtft}) {
    const auto svg = draw_figure(kind, rows, summaries, {.rounds = 100});
    EXPECT_TRUE(svg.ok()) << figure_names()[static_cast<size_t>(kind)] << ": " << svg.status().to_string();
  }
}

TEST(Harness, SaysWhatIsWrong) {
  const auto message = [](auto change) {
    EvalPlan plan = plan_of("needle");
    change(&plan);
    EvalRecords records;
    std::vector<EvalRow> rows;
    return run_evaluation(small(), plan, &records, {}, {}, &rows).to_string();
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->task = "nothing"; }), "nothing"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->lengths = {100'000}; }), "--lengths"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->lengths = {4090}; }), "context"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->depths = {101}; }), "--depths"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->cases = 0; }), "--cases"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->scored = 0; }), "--scored"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->candidates[1].name = "kv"; }), "'kv'"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->candidates[0].kv = "foo"; }), "candidate 'kv'"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->lengths = {64}; }), "64"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->task = "gsm8k"; }), "--file"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->task = "copy", p->depths = {10}; }), "--distances"));
  EXPECT_TRUE(has(message([](EvalPlan* p) { p->params.hops = 99; }), "hops"));
}

CaseRecord record_of(uint64_t seed, double score, std::vector<double> kl = {}) {
  CaseRecord r;
  r.key = {"needle", "v", seed, 100, 50, "attn=dense; kv=dense", "attn=dense; kv=dense", "m", "p"};
  r.score = score;
  r.kl = std::move(kl);
  r.same.assign(r.kl.size(), 1);
  r.cost = {1000, 100, 10, 4096, 2048, 5.0};
  r.answer = "a \"quoted\" \n answer";
  return r;
}

TEST(Summary, OnlySolvedCasesCountForRetrieval) {
  EvalRow reference{"reference", "r", {record_of(1, 1), record_of(2, 1), record_of(3, 0), record_of(4, 0.5)}};
  EvalRow candidate{
      "c", "c", {record_of(1, 1, {0.5}), record_of(2, 0.5, {0.1, 0.3}), record_of(3, 1), record_of(4, 1)}};
  candidate.records[0].cost.prompt_pairs = 0;
  const auto s = summarize({reference, candidate}, {.rounds = 500});
  ASSERT_EQ(s.size(), 2u);
  EXPECT_EQ(s[1].reference_solved, 2);
  EXPECT_DOUBLE_EQ(s[1].of_solved.value, 0.5);
  EXPECT_LE(s[1].of_solved.high, 1.0);
  EXPECT_DOUBLE_EQ(s[1].score.value, 3.5 / 4);
  EXPECT_DOUBLE_EQ(s[1].difference.value, 1.0 / 4);
  EXPECT_NEAR(s[1].kl_mean.value, 0.3, 1e-12);
  EXPECT_NEAR(s[1].kl_median, 0.3, 1e-12);
  EXPECT_NEAR(s[1].first_kl.value, 0.3, 1e-12);
  EXPECT_NEAR(s[1].prompt_pairs, 75.0, 1e-9);
  EXPECT_NEAR(s[1].decode_pairs, 100.0, 1e-9);
  ASSERT_EQ(s[1].positions.size(), 2u);
  EXPECT_EQ(s[1].positions[0].tokens, 2);
  EXPECT_NEAR(s[1].positions[1].kl_mean, 0.3, 1e-12);
  EXPECT_TRUE(std::isnan(s[0].kl_mean.value)) << "the reference has no distance from itself";
}

TEST(Records, ComeBackFromAFileAsTheyWere) {
  EvalRecords records;
  ASSERT_TRUE(records.add(record_of(1, 0.25, {0.125, 3})).ok());
  ASSERT_TRUE(records.add(record_of(UINT64_MAX, 1)).ok());
  ASSERT_TRUE(records.add(record_of(1, 0.75, {0.5})).ok()) << "replaces the first";
  ASSERT_EQ(records.all().size(), 2u);
  const test::ScratchFolder folder;
  const auto path = folder / "records.json";
  EXPECT_EQ(EvalRecords::read(path)->all().size(), 0u) << "a file that is not there yet";
  ASSERT_TRUE(records.write(path).ok());
  const auto read = EvalRecords::read(path);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(print_records(*read), print_records(records));
  EXPECT_EQ(read->find(record_of(1, 0).key)->score, 0.75);
  EXPECT_EQ(read->find(record_of(2, 0).key), nullptr);
  std::ofstream(path) << "{\"pare_eval\": 1}";
  const auto broken = EvalRecords::read(path);
  EXPECT_NE(broken.status().message().find("records.json"), std::string::npos);
}

TEST(Records, BadFilesAreNamed) {
  EvalRecords records;
  ASSERT_TRUE(records.add(record_of(1, 0.25, {0.125})).ok());
  const std::string good = print_records(records);
  ASSERT_TRUE(parse_records(good).ok());
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return parse_records(text).status().to_string();
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(has(changed("\"score\":0.25", "\"score\":2"), "score"));
  EXPECT_TRUE(has(changed("\"score\":0.25", "\"score\":\"x\""), "record 0"));
  EXPECT_TRUE(has(changed("\"length\":100", "\"length\":-1"), "length"));
  EXPECT_TRUE(has(changed("\"length\":100", "\"length\":1e99"), "length"));
  EXPECT_TRUE(has(changed("\"kl\":[0.125]", "\"kl\":[0.125,1]"), "kl"));
  EXPECT_TRUE(has(changed("\"kl\":[0.125]", "\"kl\":[\"x\"]"), "kl"));
  EXPECT_TRUE(has(changed("\"kl\":[0.125]", "\"kl\":7"), "kl"));
  EXPECT_TRUE(has(changed("\"task\"", "\"tusk\""), "task"));
  EXPECT_TRUE(has(changed("\"pare_eval\": 1", "\"pare_eval\": 2"), "format"));
  for (const char* bad :
       {"", "[]", "{}", "{\"pare_eval\": 1, \"records\": 3}", "{\"pare_eval\": 1, \"records\": [3]}"}) {
    EXPECT_FALSE(parse_records(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace pare
