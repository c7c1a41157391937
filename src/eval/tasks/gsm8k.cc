#include "eval/tasks/gsm8k.h"

#include <fmt/format.h>

#include "eval/score.h"
#include "io/json.h"

namespace pare {
namespace {

Expected<Gsm8kProblem> read_problem(std::string_view line) {
  if (static_cast<int64_t>(line.size()) > kMaxGsm8kLineBytes) {
    return limit_exceeded(fmt::format("{} bytes, limit {}", line.size(), kMaxGsm8kLineBytes));
  }
  PARE_ASSIGN_OR_RETURN(const auto object, parse_json(line));
  if (!object.is_object()) return data_loss("not a JSON object");
  Gsm8kProblem problem;
  for (const auto& [field, out] : {std::pair{"question", &problem.question}, std::pair{"answer", &problem.answer}}) {
    const auto it = object.find(field);
    if (it == object.end() || !it->is_string()) return data_loss(fmt::format("no string '{}'", field));
    *out = it->get<std::string>();
  }
  const auto number = marked_number(problem.answer);
  if (!number) return data_loss("the answer has no '#### NUMBER'");
  problem.answer = *number;
  return problem;
}

}  // namespace

Expected<std::vector<Gsm8kProblem>> read_gsm8k(std::string_view text) {
  std::vector<Gsm8kProblem> problems;
  int64_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (static_cast<int64_t>(problems.size()) == kMaxGsm8kProblems) {
      return limit_exceeded(fmt::format("more than {} problems", kMaxGsm8kProblems));
    }
    auto problem = read_problem(line);
    if (!problem.ok()) return problem.status().with_context(fmt::format("line {}", number));
    problems.push_back(std::move(*problem));
  }
  if (problems.empty()) return data_loss("no problem in it");
  return problems;
}

CaseText gsm8k_case(const Gsm8kProblem& problem) {
  CaseText c;
  c.turns = {fmt::format("{}\n\nThink step by step, and finish with the sentence \"The answer is\" and the number.",
                         problem.question)};
  c.expected = {problem.answer};
  c.scoring = Scoring::kFinalNumber;
  c.max_tokens = 384;
  return c;
}

}  // namespace pare
