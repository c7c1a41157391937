// Chains of assignments in a haystack: which variables hold a value in the end.
#include <fmt/format.h>

#include <algorithm>

#include "eval/tasks/haystack.h"
#include "eval/tasks/task.h"

namespace pare {
namespace {

std::string draw_variable(Philox& rng, std::vector<std::string>* used) {
  for (;;) {
    std::string name;
    for (int i = 0; i < 5; ++i) name += static_cast<char>('A' + rng.below(26));
    if (std::find(used->begin(), used->end(), name) != used->end()) continue;
    used->push_back(name);
    return name;
  }
}

}  // namespace

CaseText make_variable_tracking(const TaskParams& params, int64_t units) {
  Philox rng = task_rng(params.seed, TaskStream::kContent), where = task_rng(params.seed, TaskStream::kPlaces);
  std::vector<std::string> used, numbers, inserts;
  std::vector<int64_t> places;
  CaseText c;
  std::string value;
  for (int32_t chain = 0; chain <= params.keys; ++chain) {
    const std::string number = draw_number(rng, 5, &numbers);
    std::vector<int64_t> steps = draw_places(where, params.hops, units);
    // A variable is read only after it was set.
    std::sort(steps.begin(), steps.end());
    std::string before = number;
    for (int32_t hop = 0; hop < params.hops; ++hop) {
      const std::string name = draw_variable(rng, &used);
      inserts.push_back(fmt::format("Set {} to {}.", name, before));
      places.push_back(steps[static_cast<size_t>(hop)]);
      before = name;
      if (chain == 0) c.expected.push_back(name);
    }
    if (chain == 0) value = number;
  }
  c.turns = {
      fmt::format("Variables are set in the text below, to numbers or to other variables. Keep track of them.\n\n{}"
                  "\n\nWhich {} variables hold the value {}?",
                  weave(params.haystack->sentences(params.seed, units), inserts, places), params.hops, value)};
  c.answer_prefix = fmt::format("The variables that hold the value {} are", value);
  c.max_tokens = 16 + 8 * params.hops;
  return c;
}

}  // namespace pare
