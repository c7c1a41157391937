#include "eval/tasks/task.h"

#include <fmt/format.h>

#include <array>

namespace pare {
namespace {

constexpr std::array kFamilies = {
    TaskFamily{"needle", "one number in a haystack, among numbers of other keys", true, 1, make_needle},
    TaskFamily{"kv", "the value of one key of a JSON object of random identifiers", true, 1, make_key_value},
    TaskFamily{"multi-value", "all numbers of one key", true, 1, make_multi_value},
    TaskFamily{"multi-query", "the numbers of several keys", true, 1, make_multi_query},
    TaskFamily{"variables", "variables that hold a value after chains of assignments", false, 1,
               make_variable_tracking},
    TaskFamily{"common-words", "the ten most common words of a list", false, 1, make_common_words},
    TaskFamily{"frequent-words", "the three most frequent words of a coded text", false, 64, make_frequent_words},
    TaskFamily{"qa", "facts about people in prose; --hops 2 joins two", true, 1, make_facts},
    TaskFamily{"question-first", "a needle whose question stands before the text", true, 1, make_question_first},
    TaskFamily{"long-question", "a needle with --question words after its question", true, 1, make_long_question},
    TaskFamily{"multi-turn", "a needle asked for in a second turn, over the keys and values of the first", true, 1,
               make_multi_turn},
    TaskFamily{"long-answer", "forty entries to repeat, over 500 tokens", true, 1, make_long_answer},
};

Status in_range(std::string_view name, int32_t value, int32_t low, int32_t high) {
  if (value >= low && value <= high) return ok_status();
  return invalid_argument(fmt::format("{} is {}, allowed {} to {}", name, value, low, high));
}

}  // namespace

std::span<const TaskFamily> task_families() { return kFamilies; }

const TaskFamily* find_family(std::string_view name) {
  for (const TaskFamily& family : kFamilies) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

Status validate(const TaskParams& params) {
  PARE_RETURN_IF_ERROR(in_range("depth", params.depth, 0, 100));
  PARE_RETURN_IF_ERROR(in_range("keys", params.keys, 0, 256));
  PARE_RETURN_IF_ERROR(in_range("values", params.values, 1, 32));
  PARE_RETURN_IF_ERROR(in_range("hops", params.hops, 1, 32));
  return in_range("question", params.question, 8, 16384);
}

}  // namespace pare
