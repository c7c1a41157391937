// What an answer is worth. Answers are a model's output: any bytes, of which the first kMaxScoredBytes count. Cost:
// linear in answer times expectations.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "eval/tasks/task.h"

namespace pare {

inline constexpr size_t kMaxScoredBytes = 1 << 20;
inline constexpr size_t kMaxNumberBytes = 64;  // a longer number is none

// Whether `expected` (not empty) stands in `text` with no letter or digit right before or after it: "12" is not in
// "312". ASCII letters of both cases are the same.
bool contains_whole(std::string_view text, std::string_view expected);

// The last number of an answer, in canonical form: no sign but "-", no thousands' commas, no leading zeros, no zeros at
// the end of a fraction ("$1,250.00" is "1250"). Marks do not count: small models write the one that they are asked for
// before they think.
std::optional<std::string> final_number(std::string_view text);
// The first number after "####", the mark of GSM8K's own answers.
std::optional<std::string> marked_number(std::string_view text);

// In [0, 1].
double score_answer(const CaseText& asked, std::string_view answer);

}  // namespace pare
