// From a task's conversation to the ids that a model reads, and how much filler fits a context.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "eval/tasks/task.h"
#include "runtime/loaded_model.h"

namespace pare {

struct PromptIds {
  std::vector<TokenId> prompt;
  // With several turns: the answer to the first and the turns after it, to be told in decode steps (Request::forced),
  // so that the later turns meet the keys and values as the first left them. Empty with one turn.
  std::vector<TokenId> told;
  int64_t size() const { return static_cast<int64_t>(prompt.size() + told.size()); }
};

// Through the model's chat template, or as plain text ("Question: ... Answer: ...") when it has none or `plain` is set.
// The answer's prefix is part of the ids. kUnsupported when a template writes a conversation's first turn differently
// once there is a second.
Expected<PromptIds> render_case(const LoadedModel& model, const CaseText& text, bool plain);

struct FittedCase {
  CaseText text;
  PromptIds ids;
  int64_t units = 0;
};

// The case of a family with the most filler that `length` tokens hold: at most `length`, and less than about two units
// below it. kInvalidArgument when not even the least filler fits.
Expected<FittedCase> fit_case(const LoadedModel& model, const TaskFamily& family, const TaskParams& params,
                              int32_t length, bool plain);

// The search itself: the largest units >= units_min, up to about one unit, with tokens(units) <= length.
Expected<int64_t> fit_units(int64_t units_min, int64_t length,
                            const std::function<Expected<int64_t>(int64_t units)>& tokens);

}  // namespace pare
