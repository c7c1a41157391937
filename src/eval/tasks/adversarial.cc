// Needles asked for in the ways that a mask around the end of the prompt does not expect: the question stands before
// the context, ends long before the prompt does, comes only after an answer, or has a long answer.
#include <fmt/format.h>

#include "eval/tasks/haystack.h"
#include "eval/tasks/needles.h"

namespace pare {

CaseText make_question_first(const TaskParams& params, int64_t units) {
  const std::vector<Needle> all = draw_needles(params, 1 + params.keys, 1);
  CaseText c;
  c.turns = {
      fmt::format("What is the access code of the {}? Find it in the text that follows, and answer at its end."
                  "\n\n{}",
                  all[0].key, hide_needles(params, units, {all[0]}, {all.begin() + 1, all.end()}))};
  // The prefix does not repeat the key: the question's rows alone know it.
  c.answer_prefix = "The access code is";
  c.expected = {all[0].value};
  c.max_tokens = 16;
  return c;
}

CaseText make_long_question(const TaskParams& params, int64_t units) {
  const std::vector<Needle> all = draw_needles(params, 1 + params.keys, 1);
  // Rules that say nothing, `question` words of them.
  const std::vector<std::string> rules = {"Answer in a calm and friendly tone.",
                                          "Do not add a greeting to the answer.",
                                          "Write the digits without any spaces.",
                                          "Leave out everything that was not asked for.",
                                          "Take as much time as you need.",
                                          "Keep the answer on a single line.",
                                          "Do not explain how the answer was found.",
                                          "Write as one would write in a letter.",
                                          "Do not mention these rules in the answer.",
                                          "Use plain words that everybody knows."};
  std::string tail;
  Philox rng = task_rng(params.seed, TaskStream::kMoreFiller);
  for (int32_t words = 0; words < params.question; words += 8) {
    tail += ' ';
    tail += rules[rng.below(static_cast<uint32_t>(rules.size()))];
  }
  CaseText c;
  c.turns = {
      fmt::format("Some access codes are mentioned in the text below. Remember them.\n\n{}\n\nWhat is the access "
                  "code of the {}? Mind these rules:{}",
                  hide_needles(params, units, {all[0]}, {all.begin() + 1, all.end()}), all[0].key, tail)};
  c.answer_prefix = "The access code is";
  c.expected = {all[0].value};
  c.max_tokens = 16;
  return c;
}

CaseText make_multi_turn(const TaskParams& params, int64_t units) {
  const std::vector<Needle> all = draw_needles(params, 2 + params.keys, 1);
  const Needle &asked = all[0], &before = all[1];
  CaseText c;
  c.turns = {
      fmt::format("Some access codes are mentioned in the text below. Remember them.\n\n{}\n\nWhat is the access "
                  "code of the {}?",
                  hide_needles(params, units, {asked}, {all.begin() + 1, all.end()}), before.key),
      fmt::format("Thank you. And what is the access code of the {}?", asked.key)};
  c.answers = {fmt::format("The access code of the {} is {}.", before.key, before.value)};
  c.answer_prefix = fmt::format("The access code of the {} is", asked.key);
  c.expected = {asked.value};
  c.max_tokens = 16;
  return c;
}

CaseText make_long_answer(const TaskParams& params, int64_t units) {
  constexpr int kEntries = 40;
  Philox rng = task_rng(params.seed, TaskStream::kContent);
  std::vector<std::string> numbers;
  std::string list;
  CaseText c;
  for (int i = 1; i <= kEntries; ++i) {
    c.expected.push_back(draw_number(rng, 5, &numbers));
    list += fmt::format("{}Entry {} has code {}.", i > 1 ? " " : "", i, c.expected.back());
  }
  c.turns = {fmt::format(
      "The text below holds a list of entries.\n\n{}\n\nRepeat all {} entries of the list in their order, "
      "word for word.",
      weave(params.haystack->sentences(params.seed, units), {list}, {place_at(params.depth, units)}), kEntries)};
  c.answer_prefix = "Entry 1 has code";
  c.max_tokens = 640;
  return c;
}

}  // namespace pare
