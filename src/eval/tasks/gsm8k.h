// Grade-school word problems from a file of the GSM8K form: one JSON object a line, {"question", "answer"}, the answer
// ending in "#### NUMBER".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/tasks/task.h"

namespace pare {

inline constexpr int64_t kMaxGsm8kLineBytes = 1 << 16;
inline constexpr int64_t kMaxGsm8kProblems = 1 << 20;

struct Gsm8kProblem {
  std::string question, answer;  // answer: canonical number (score.h)
};

// Errors name the line: no JSON object, a missing field, an answer without a number, a line or file beyond the limits.
// Empty lines are skipped; at least one problem.
Expected<std::vector<Gsm8kProblem>> read_gsm8k(std::string_view text);

CaseText gsm8k_case(const Gsm8kProblem& problem);

}  // namespace pare
