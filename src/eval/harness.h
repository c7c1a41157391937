// Runs the cases of one task through a reference and several candidate configurations of one model.
//
// For each length an engine a configuration is made and kept while its cases run: memory is the sum of their KV pools.
// Case by case the reference answers, then each candidate is compared on the reference's tokens and, when it would have
// answered otherwise, answers itself. What is in the records already is not run again, except that a candidate's
// comparison needs the reference's logits once more.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "eval/records.h"
#include "eval/tasks/gsm8k.h"
#include "eval/tasks/haystack.h"

namespace pare {

struct Candidate {
  std::string name;  // of its row
  std::string attn = "dense", kv = "dense";
};

struct EvalPlan {
  std::string task;   // a family, "copy" or "gsm8k"
  TaskParams params;  // seed, depth and haystack are set by the run
  Haystack haystack;
  std::vector<Gsm8kProblem> problems;  // gsm8k
  std::string problems_identity;
  std::vector<int32_t> lengths = {2048};               // tokens of a prompt; gsm8k has its own
  std::vector<int32_t> depths = {0, 25, 50, 75, 100};  // percent; distances in tokens for copy
  int32_t cases = 4;                                   // a length and depth
  uint64_t seed = 1;                                   // of the first case
  bool plain = false;                                  // no chat template
  int32_t scored = 64;                                 // tokens of an answer that are compared, at most
  Candidate reference{"reference"};
  std::vector<Candidate> candidates;
  EngineOptions engine;  // threads and strict; the rest is set by the run
};

// Ranges and combinations, against the model. Errors name the option as the command spells it.
Status validate(const EvalPlan& plan, const LoadedModel& model);

// done and total in cases times configurations; false stops (kCancelled).
using EvalCasesProgress = std::function<bool(int64_t done, int64_t total)>;
// Called after a case has new records; an error ends the run.
using EvalSave = std::function<Status()>;

// One row: a configuration's records, in the order of the reference's.
struct EvalRow {
  std::string name, config;
  std::vector<CaseRecord> records;
};

// The reference's row first. When it was stopped, the rows so far are in `rows` and the status is kCancelled.
Status run_evaluation(const std::shared_ptr<const LoadedModel>& model, const EvalPlan& plan, EvalRecords* records,
                      const EvalCasesProgress& progress, const EvalSave& save, std::vector<EvalRow>* rows);

}  // namespace pare
