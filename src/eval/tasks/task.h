// Synthetic tasks: pure functions of (seed, size, parameters) that give a conversation and what its answer must hold.
//
// A family makes a case of `units` units of filler (sentences, pairs, words); eval/fit.h finds the number of units that
// fills a context of the model at hand. What is asked and expected depends on the seed and the parameters, never on the
// number of units, so that one seed is the same question at every length. Texts are ASCII unless the haystack is a
// file. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/status.h"

namespace pare {

class Haystack;  // eval/tasks/haystack.h

enum class Scoring : uint8_t {
  kContains,     // share of `expected` that stand in the answer as whole words
  kFinalNumber,  // the last number of the answer, or the first after "####", equals expected[0]
};

struct CaseText {
  // What the user says; with several turns the model is taken to have given `answers` to all but the last.
  std::vector<std::string> turns, answers;
  std::string answer_prefix;  // the answer begins so: the model goes on from there; no space at its end
  std::vector<std::string> expected;
  Scoring scoring = Scoring::kContains;
  int32_t max_tokens = 32;  // an answer takes no more
};

struct TaskParams {
  uint64_t seed = 0;
  int32_t depth = 50;      // percent of the filler that stands before what is asked for
  int32_t keys = 4;        // needles with other keys beside the one asked for (families of needles), chains, people
  int32_t values = 4;      // multi-value: values of one key; multi-query: keys asked for at once
  int32_t hops = 4;        // variable tracking: assignments of a chain; qa: 1 or 2 facts to join
  int32_t question = 256;  // long-question: words between the question and the end of the prompt
  const Haystack* haystack = nullptr;  // never null when a family is called
};

struct TaskFamily {
  std::string_view name, summary;
  bool uses_depth = false;
  int32_t units_min = 1;
  CaseText (*make)(const TaskParams& params, int64_t units);
};

// In the order that --help lists them. `copy` and `gsm8k` are no families: they have no filler (copy.h, gsm8k.h).
std::span<const TaskFamily> task_families();
const TaskFamily* find_family(std::string_view name);  // null when there is none

// Values outside the ranges that docs/eval.md gives are kInvalidArgument.
Status validate(const TaskParams& params);

// The families, one file each.
CaseText make_needle(const TaskParams& params, int64_t units);
CaseText make_key_value(const TaskParams& params, int64_t units);
CaseText make_multi_value(const TaskParams& params, int64_t units);
CaseText make_multi_query(const TaskParams& params, int64_t units);
CaseText make_variable_tracking(const TaskParams& params, int64_t units);
CaseText make_common_words(const TaskParams& params, int64_t units);
CaseText make_frequent_words(const TaskParams& params, int64_t units);
CaseText make_facts(const TaskParams& params, int64_t units);
CaseText make_question_first(const TaskParams& params, int64_t units);
CaseText make_long_question(const TaskParams& params, int64_t units);
CaseText make_multi_turn(const TaskParams& params, int64_t units);
CaseText make_long_answer(const TaskParams& params, int64_t units);

}  // namespace pare
