#include "eval/harness.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "base/limits.h"
#include "eval/score.h"
#include "eval/tasks/copy.h"

namespace pare {
namespace {

constexpr int32_t kLengthMin = 64, kCasesMax = 100'000;

// A case before any engine has seen it.
struct PreparedCase {
  CaseText text;
  PromptIds ids;
  std::vector<TokenId> rest;  // copy: told instead of an answer
  int32_t scored_from = 0;    // copy
  CaseKey key;                // all but config
};

std::string variant_of(const EvalPlan& plan) {
  const std::string form = plan.plain ? ",plain" : "";
  if (plan.task == "copy") return fmt::format("half={},words", kCopyHalf);
  if (plan.task == "gsm8k") return fmt::format("file={}{}", plan.problems_identity, form);
  const TaskParams& p = plan.params;
  return fmt::format("keys={},values={},hops={},question={},scored={},haystack={}{}", p.keys, p.values, p.hops,
                     p.question, plan.scored, plan.haystack.identity(), form);
}

Expected<PreparedCase> prepare(const LoadedModel& model, const EvalPlan& plan, int32_t length, int32_t depth,
                               uint64_t seed) {
  PreparedCase c;
  c.key = {plan.task, variant_of(plan), seed, length, depth, "", "", model_identity(model), ""};
  if (plan.task == "copy") {
    PARE_ASSIGN_OR_RETURN(CopyCase copy, make_copy(*model.tokenizer, seed, length, depth));
    c.ids.prompt = std::move(copy.prompt);
    c.rest = std::move(copy.rest);
    c.scored_from = copy.scored_from;
  } else if (plan.task == "gsm8k") {
    c.text = gsm8k_case(plan.problems[seed % plan.problems.size()]);
    PARE_ASSIGN_OR_RETURN(c.ids, render_case(model, c.text, plan.plain));
  } else {
    TaskParams params = plan.params;
    params.seed = seed;
    params.depth = depth;
    params.haystack = &plan.haystack;
    auto fitted = fit_case(model, *find_family(plan.task), params, length, plan.plain);
    if (!fitted.ok()) return fitted.status().with_context(fmt::format("{} at {} tokens", plan.task, length));
    c.text = std::move(fitted->text);
    c.ids = std::move(fitted->ids);
  }
  c.key.prompt = prompt_hash(c.ids);
  return c;
}

// Tokens that an answer of the task may take.
int32_t answer_max(const EvalPlan& plan) {
  if (plan.task == "copy") return kCopyHalf;
  if (plan.task == "gsm8k") return gsm8k_case({}).max_tokens;
  TaskParams params = plan.params;
  params.haystack = &plan.haystack;
  const TaskFamily* family = find_family(plan.task);
  return family->make(params, family->units_min).max_tokens;
}

Expected<std::unique_ptr<Engine>> make_engine(const std::shared_ptr<const LoadedModel>& model, const EvalPlan& plan,
                                              const Candidate& candidate, int32_t context) {
  EngineOptions o = plan.engine;
  o.max_sequences = 1;
  o.share_prefixes = false;
  o.logit_rows = 2 * kCopyHalf;
  o.max_context = context;
  o.attn = candidate.attn;
  o.kv = candidate.kv;
  auto engine = Engine::create(model, o);
  if (!engine.ok()) return engine.status().with_context(fmt::format("candidate '{}'", candidate.name));
  return engine;
}

void set_answer(const PreparedCase& c, const std::string& text, CaseRecord* record) {
  record->answer = text.substr(0, kMaxAnswerBytes);
  record->score = score_answer(c.text, text);
}

double share(const std::vector<uint8_t>& flags) {
  return flags.empty() ? 0.0 : std::accumulate(flags.begin(), flags.end(), 0.0) / static_cast<double>(flags.size());
}

CaseRecord record_of(const PreparedCase& c, const std::string& config) {
  CaseRecord record;
  record.key = c.key;
  record.key.config = config;
  record.prompt_tokens = static_cast<int32_t>(c.ids.size());
  return record;
}

Expected<ReferenceAnswer> run_reference(Engine& engine, const EvalPlan& plan, const PreparedCase& c,
                                        const ProbeStop& stop) {
  if (!c.rest.empty()) return tell_case(engine, c.ids, c.rest, c.scored_from, stop);
  return answer_case(engine, c.ids, c.text.max_tokens, plan.scored, stop);
}

CaseRecord reference_record(const PreparedCase& c, const ReferenceAnswer& answer, int32_t vocab) {
  CaseRecord record = record_of(c, c.key.against);
  record.answer_tokens = static_cast<int32_t>(answer.tokens.size());
  record.cost = answer.cost;
  record.prompt_nll = answer.prompt_nll;
  std::vector<uint8_t> hits;
  for (size_t i = 0; i < answer.scored.tokens.size(); ++i) {
    const std::span<const float> row(answer.scored.logits.data() + i * static_cast<size_t>(vocab),
                                     static_cast<size_t>(vocab));
    const TokenId token = answer.scored.tokens[i];
    record.nll.push_back(log_sum_exp(row) - row[static_cast<size_t>(token)]);
    hits.push_back(most_likely(row) == token);
  }
  if (c.rest.empty()) {
    set_answer(c, answer.text, &record);
  } else {
    record.score = share(hits);
  }
  return record;
}

Expected<CaseRecord> candidate_record(Engine& engine, const PreparedCase& c, const ReferenceAnswer& reference,
                                      const std::string& config, const ProbeStop& stop) {
  CaseRecord record = record_of(c, config);
  PARE_ASSIGN_OR_RETURN(Comparison compared, compare_case(engine, c.ids, reference.scored, c.scored_from, stop));
  record.kl = std::move(compared.kl);
  record.same = std::move(compared.same);
  record.nll = std::move(compared.nll);
  record.prompt_nll = std::move(compared.prompt_nll);
  record.cost = compared.cost;
  record.answer_tokens = static_cast<int32_t>(reference.scored.tokens.size());
  if (!c.rest.empty()) {
    record.score = share(compared.hit);
    return record;
  }
  const bool same_answer =
      std::all_of(compared.hit.begin(), compared.hit.end(), [](uint8_t hit) { return hit != 0; }) &&
      reference.scored.tokens.size() == reference.tokens.size();
  if (same_answer) {
    set_answer(c, reference.text, &record);
    return record;
  }
  PARE_ASSIGN_OR_RETURN(const ReferenceAnswer own, answer_case(engine, c.ids, c.text.max_tokens, 0, stop));
  record.answer_tokens = static_cast<int32_t>(own.tokens.size());
  set_answer(c, own.text, &record);
  return record;
}

// The engines of one length, made when the first case needs them.
struct LengthEngines {
  std::unique_ptr<Engine> reference;
  std::vector<std::unique_ptr<Engine>> candidates;
  std::string against;
  std::vector<std::string> configs;
};

Expected<LengthEngines> make_engines(const std::shared_ptr<const LoadedModel>& model, const EvalPlan& plan,
                                     int32_t context) {
  LengthEngines e;
  PARE_ASSIGN_OR_RETURN(e.reference, make_engine(model, plan, plan.reference, context));
  e.against = config_of(*e.reference);
  for (const Candidate& candidate : plan.candidates) {
    PARE_ASSIGN_OR_RETURN(auto engine, make_engine(model, plan, candidate, context));
    e.configs.push_back(config_of(*engine));
    e.candidates.push_back(std::move(engine));
  }
  return e;
}

class EvaluationRun {
 public:
  EvaluationRun(const std::shared_ptr<const LoadedModel>& model, const EvalPlan& plan, EvalRecords* records,
                const EvalCasesProgress& progress, const EvalSave& save, std::vector<EvalRow>* rows)
      : model_(model), plan_(plan), records_(*records), progress_(progress), save_(save), rows_(*rows) {}

  Status run() {
    rows_.assign(1 + plan_.candidates.size(), {});
    rows_[0].name = plan_.reference.name;
    for (size_t i = 0; i < plan_.candidates.size(); ++i) rows_[i + 1].name = plan_.candidates[i].name;
    const bool has_depth = plan_.task == "copy" || (find_family(plan_.task) && find_family(plan_.task)->uses_depth);
    depths_ = has_depth ? plan_.depths : std::vector<int32_t>{plan_.task == "gsm8k" ? 0 : 50};
    lengths_ = plan_.task == "gsm8k" ? std::vector<int32_t>{0} : plan_.lengths;
    total_ = static_cast<int64_t>(lengths_.size() * depths_.size()) * plan_.cases *
             static_cast<int64_t>(1 + plan_.candidates.size());
    for (const int32_t length : lengths_) PARE_RETURN_IF_ERROR(run_length(length));
    return ok_status();
  }

 private:
  Status run_length(int32_t length) {
    PARE_ASSIGN_OR_RETURN(const int32_t context, context_of(length));
    PARE_ASSIGN_OR_RETURN(LengthEngines engines, make_engines(model_, plan_, context));
    rows_[0].config = engines.against;
    for (size_t i = 0; i < engines.configs.size(); ++i) rows_[i + 1].config = engines.configs[i];
    for (const int32_t depth : depths_) {
      for (int32_t i = 0; i < plan_.cases; ++i) {
        PARE_ASSIGN_OR_RETURN(PreparedCase c,
                              prepare(*model_, plan_, length, depth, plan_.seed + static_cast<uint64_t>(i)));
        c.key.against = engines.against;
        PARE_RETURN_IF_ERROR(run_case(engines, c));
      }
    }
    return ok_status();
  }

  Expected<int32_t> context_of(int32_t length) const {
    int64_t prompt = length;
    if (plan_.task == "gsm8k") {
      for (int32_t i = 0; i < plan_.cases; ++i) {
        PARE_ASSIGN_OR_RETURN(const PreparedCase c,
                              prepare(*model_, plan_, 0, 0, plan_.seed + static_cast<uint64_t>(i)));
        prompt = std::max(prompt, c.ids.size());
      }
    }
    const int64_t context = prompt + answer_max(plan_) + 1, longest = model_->model->config().context_max;
    if (context <= longest) return static_cast<int32_t>(context);
    return invalid_argument(fmt::format("prompts of {} tokens and answers of {}: the context of this model holds {}",
                                        prompt, answer_max(plan_), longest));
  }

  Status run_case(LengthEngines& engines, const PreparedCase& c) {
    std::vector<CaseRecord> of_case(rows_.size());
    CaseKey key = c.key;
    key.config = engines.against;
    bool added = false;
    std::optional<ReferenceAnswer> answer;
    const ProbeStop stop = [&] { return progress_ && !progress_(done_, total_); };
    const auto reference = [&]() -> Status {
      if (answer) return ok_status();
      PARE_ASSIGN_OR_RETURN(answer, run_reference(*engines.reference, plan_, c, stop));
      return ok_status();
    };
    if (!records_.find(key)) {
      PARE_RETURN_IF_ERROR(reference());
      PARE_RETURN_IF_ERROR(records_.add(reference_record(c, *answer, model_->model->config().vocab)));
      added = true;
    }
    of_case[0] = *records_.find(key);
    if (stop()) return cancelled("stopped between cases");
    ++done_;
    for (size_t i = 0; i < engines.candidates.size(); ++i, ++done_) {
      key.config = engines.configs[i];
      if (!records_.find(key)) {
        PARE_RETURN_IF_ERROR(reference());
        PARE_ASSIGN_OR_RETURN(CaseRecord record,
                              candidate_record(*engines.candidates[i], c, *answer, engines.configs[i], stop));
        PARE_RETURN_IF_ERROR(records_.add(std::move(record)));
        added = true;
      }
      of_case[i + 1] = *records_.find(key);
      if (stop()) return cancelled("stopped between cases");
    }
    // Rows stay paired: a case counts when every configuration has run it.
    for (size_t i = 0; i < rows_.size(); ++i) rows_[i].records.push_back(std::move(of_case[i]));
    return added && save_ ? save_() : ok_status();
  }

  const std::shared_ptr<const LoadedModel>& model_;
  const EvalPlan& plan_;
  EvalRecords& records_;
  const EvalCasesProgress& progress_;
  const EvalSave& save_;
  std::vector<EvalRow>& rows_;
  std::vector<int32_t> lengths_, depths_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

Status validate(const EvalPlan& plan, const LoadedModel& model) {
  const bool copy = plan.task == "copy", gsm8k = plan.task == "gsm8k";
  if (!copy && !gsm8k && !find_family(plan.task)) return invalid_argument(fmt::format("no task '{}'", plan.task));
  if (gsm8k && plan.problems.empty()) return invalid_argument("gsm8k reads its problems from --file");
  if (plan.cases < 1 || plan.cases > kCasesMax) {
    return invalid_argument(fmt::format("--cases is {}, allowed 1 to {}", plan.cases, kCasesMax));
  }
  if (plan.scored < 1 || plan.scored > 4096) {
    return invalid_argument(fmt::format("--scored is {}, allowed 1 to 4096", plan.scored));
  }
  if (!gsm8k && (plan.lengths.empty() || plan.depths.empty())) return invalid_argument("no length or no depth");
  for (const int32_t length : plan.lengths) {
    if (gsm8k) break;
    if (length < kLengthMin || length > model.model->config().context_max) {
      return invalid_argument(fmt::format("--lengths: {} tokens, allowed {} to {}, the context of this model", length,
                                          kLengthMin, model.model->config().context_max));
    }
    for (const int32_t depth : plan.depths) {
      if (copy) {
        if (depth < 2 * kCopyHalf || depth > length - kCopyHalf - 1) {
          return invalid_argument(fmt::format("--distances: {} at {} tokens, allowed {} to {}", depth, length,
                                              2 * kCopyHalf, length - kCopyHalf - 1));
        }
      } else if (depth < 0 || depth > 100) {
        return invalid_argument(fmt::format("--depths: {} percent, allowed 0 to 100", depth));
      }
    }
  }
  std::map<std::string, int> names;
  ++names[plan.reference.name];
  for (const Candidate& c : plan.candidates) {
    if (++names[c.name] > 1) return invalid_argument(fmt::format("two candidates are called '{}'", c.name));
  }
  return validate(plan.params);
}

Status run_evaluation(const std::shared_ptr<const LoadedModel>& model, const EvalPlan& plan, EvalRecords* records,
                      const EvalCasesProgress& progress, const EvalSave& save, std::vector<EvalRow>* rows) {
  PARE_RETURN_IF_ERROR(validate(plan, *model));
  return EvaluationRun(model, plan, records, progress, save, rows).run();
}

}  // namespace pare
