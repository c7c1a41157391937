#include "cli/eval_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/console.h"
#include "cli/eval_report.h"
#include "eval/figures.h"
#include "eval/harness.h"
#include "eval/summary.h"
#include "io/atomic_file.h"
#include "io/sha256.h"
#include "plan/spec.h"

namespace pare::cli {
namespace {

constexpr std::chrono::seconds kSaveInterval{2};

// "NAME=SPECS", or SPECS alone, which then name themselves.
Expected<Candidate> parse_candidate(const std::string& text) {
  std::string name = text, specs = text;
  const size_t equals = text.find('=');
  const std::string before = text.substr(0, equals);
  const auto is_half = [](std::string_view word) {
    while (word.starts_with(' ')) word.remove_prefix(1);
    return word == "attn" || word == "kv";
  };
  if (equals != std::string::npos && !is_half(before)) {
    name = before;
    specs = text.substr(equals + 1);
  }
  if (name.empty()) return invalid_argument(fmt::format("--candidate '{}': the name is empty", text));
  PARE_RETURN_IF_ERROR(check_utf8("--candidate", name));
  auto pair = parse_spec_pair(specs);
  if (!pair.ok()) return pair.status().with_context(fmt::format("--candidate '{}'", text));
  return Candidate{name, print_spec(pair->attn), print_spec(pair->kv)};
}

Expected<std::string> hash_text(std::string_view text) {
  Sha256 sha;
  sha.update(text);
  PARE_ASSIGN_OR_RETURN(const std::string hex, sha.finish_hex());
  return hex.substr(0, 16);
}

Status read_material(const std::string& file, EvalPlan* plan) {
  if (file.empty()) return ok_status();
  if (plan->task == "copy") return invalid_argument("copy repeats random tokens: it takes no --file");
  PARE_ASSIGN_OR_RETURN(const std::string text, read_text_file(file, kMaxPromptBytes));
  PARE_RETURN_IF_ERROR(check_utf8(file, text));
  if (plan->task == "gsm8k") {
    auto problems = read_gsm8k(text);
    if (!problems.ok()) return at_path(problems.status(), file);
    plan->problems = std::move(*problems);
    PARE_ASSIGN_OR_RETURN(plan->problems_identity, hash_text(text));
    return ok_status();
  }
  auto haystack = Haystack::from_text(text);
  if (!haystack.ok()) return at_path(haystack.status(), file);
  plan->haystack = std::move(*haystack);
  return ok_status();
}

Expected<EvalPlan> make_plan(const std::string& task, const ModelOptions& model, const EvalTaskOptions& o,
                             const std::string& file, const std::string& against) {
  EvalPlan plan;
  plan.task = task;
  PARE_RETURN_IF_ERROR(read_material(file, &plan));
  plan.params = o.params;
  plan.lengths.assign(o.lengths.begin(), o.lengths.end());
  const std::vector<int>& depths = task == "copy" ? o.distances : o.depths;
  plan.depths.assign(depths.begin(), depths.end());
  plan.cases = o.cases;
  plan.seed = o.seed;
  plan.plain = o.plain;
  plan.scored = o.scored;
  PARE_ASSIGN_OR_RETURN(const SpecPair reference, parse_spec_pair(against));
  plan.reference = {"reference", print_spec(reference.attn), print_spec(reference.kv)};
  if (model.attn != "dense" || model.kv != "dense") plan.candidates.push_back({"candidate", model.attn, model.kv});
  for (const std::string& text : o.candidates) {
    PARE_ASSIGN_OR_RETURN(Candidate candidate, parse_candidate(text));
    plan.candidates.push_back(std::move(candidate));
  }
  plan.engine.threads = model.threads;
  plan.engine.strict = model.strict;
  return plan;
}

Status write_text(const std::string& path, std::string_view text) {
  PARE_ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::create(path));
  PARE_RETURN_IF_ERROR(out.write(text));
  return out.commit();
}

}  // namespace

void EvalTaskOptions::add_to(CLI::App* app) {
  const auto add = [&](const char* name, auto& value, const char* type, const char* text) {
    return app->add_option(name, value, text)->type_name(type)->group("Tasks");
  };
  add("--candidate,--controls", candidates, "NAME=SPECS",
      "A configuration to judge, a row of the table: NAME=\"attn=SPEC; kv=SPEC\"; may be repeated")
      ->allow_extra_args(false);
  add("--lengths", lengths, "N,N...", "Tokens of a prompt")->delimiter(',');
  add("--depths", depths, "P,P...", "Where in the text the answer stands, percent")->delimiter(',');
  add("--distances", distances, "N,N...", "copy: tokens from a copy to the other")->delimiter(',');
  add("--cases", cases, "N", "Cases of each length and depth");
  add("--seed", seed, "N", "Seed of the first case; the others follow it")->check([](const std::string& text) {
    return text.starts_with('-') ? fmt::format("{} is negative", text) : std::string();
  });
  add("--keys", params.keys, "N", "Needles, chains or people beside those asked for");
  add("--values", params.values, "N", "multi-value, multi-query: how many are asked for");
  add("--hops", params.hops, "N", "variables: assignments of a chain; qa: 1, or 2 facts to join");
  add("--question", params.question, "N", "long-question: words after the question");
  add("--scored", scored, "N", "Tokens of an answer over which KL is measured, at most");
  add("--rounds", rounds, "N", "Draws of the bootstrap")->check(CLI::Range(100, 1'000'000));
  app->add_flag("--plain", plain, "Plain text instead of the model's chat template")->group("Tasks");
  add("--out", out, "FILE", "Results as JSON, kept up while it runs; cases that are in it are not run again");
  add("--plot", plot, "FILE.svg", "A figure of the results");
  add("--figure", figure, "KIND", "Which: heat, score, nll, kl-pairs, kl-bytes, ttft; by default what suits the task");
}

std::vector<std::string> eval_task_names() {
  std::vector<std::string> names;
  for (const TaskFamily& family : task_families()) names.emplace_back(family.name);
  names.insert(names.end(), {"copy", "gsm8k"});
  return names;
}

std::string eval_task_help() {
  std::string text;
  for (const TaskFamily& family : task_families()) text += fmt::format("  {:<16} {}\n", family.name, family.summary);
  text += fmt::format("  {:<16} {}\n", "copy", "a random sequence that stands twice: NLL of the second copy");
  text += fmt::format("  {:<16} {}\n", "gsm8k", "word problems from --file, exact answer");
  return text;
}

Status run_eval_task(const std::string& task, const ModelOptions& model_options, const EvalTaskOptions& o,
                     const std::string& file, const std::string& against, bool json) {
  PARE_ASSIGN_OR_RETURN(const EvalPlan plan, make_plan(task, model_options, o, file, against));
  FigureKind figure = default_figure(task);
  if (!o.figure.empty()) {
    if (o.plot.empty()) return invalid_argument("--figure says what --plot draws: give --plot too");
    PARE_ASSIGN_OR_RETURN(figure, find_figure(o.figure));
  }
  EvalRecords records;
  if (!o.out.empty()) {
    PARE_ASSIGN_OR_RETURN(records, EvalRecords::read(o.out));
  }
  PARE_ASSIGN_OR_RETURN(const auto model,
                        load_by_name(model_options.model, model_options.threads, model_options.device));
  arm_interrupt();
  Progress bar;
  std::vector<EvalRow> rows;
  // Large files are not written again for every small case; an end that nobody asked for loses seconds of work.
  auto saved = std::chrono::steady_clock::now();
  const auto save = [&]() -> Status {
    if (o.out.empty()) return ok_status();
    PARE_RETURN_IF_ERROR(records.write(o.out));
    saved = std::chrono::steady_clock::now();
    return ok_status();
  };
  PARE_RETURN_IF_ERROR(save());  // a place that cannot be written is told before the work
  const EvalSave save_sometimes = [&] {
    return std::chrono::steady_clock::now() - saved < kSaveInterval ? ok_status() : save();
  };
  const Status status = run_evaluation(
      model, plan, &records,
      [&](int64_t done, int64_t total) {
        bar.update("evaluating " + task, done, total, "runs");
        return !interrupted();
      },
      save_sometimes, &rows);
  bar.finish();
  const bool stopped = status.code() == StatusCode::kCancelled;
  PARE_RETURN_IF_ERROR(save());
  if (!status.ok() && !stopped) return status;
  if (rows.empty() || rows[0].records.empty()) return cancelled("interrupted");
  BootstrapOptions bootstrap;
  bootstrap.rounds = o.rounds;
  const std::vector<EvalSummary> summaries = summarize(rows, bootstrap);
  if (!o.plot.empty()) {
    PARE_ASSIGN_OR_RETURN(const std::string svg, draw_figure(figure, rows, summaries, bootstrap));
    PARE_RETURN_IF_ERROR(write_text(o.plot, svg));
  }
  if (json) {
    print_json(report_json(task, *model, rows, summaries));
  } else {
    fmt::print("{}", report_text(task, summaries));
  }
  return stopped ? cancelled("interrupted") : ok_status();
}

}  // namespace pare::cli
