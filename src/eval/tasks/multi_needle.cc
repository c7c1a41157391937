// All values of one key; the values of several keys at once.
#include <fmt/format.h>

#include "eval/tasks/needles.h"

namespace pare {

CaseText make_multi_value(const TaskParams& params, int64_t units) {
  const std::vector<Needle> all = draw_needles(params, params.values + params.keys, params.values);
  const std::vector<Needle> asked(all.begin(), all.begin() + params.values),
      others(all.begin() + params.values, all.end());
  CaseText c;
  c.turns = {
      fmt::format("Some access codes are mentioned in the text below. Remember them.\n\n{}\n\nThe text mentions {} "
                  "access codes of the {}. What are they, all of them?",
                  hide_needles(params, units, asked, others), asked.size(), asked[0].key)};
  c.answer_prefix = fmt::format("The access codes of the {} are", asked[0].key);
  for (const Needle& n : asked) c.expected.push_back(n.value);
  c.max_tokens = 16 + 12 * params.values;
  return c;
}

CaseText make_multi_query(const TaskParams& params, int64_t units) {
  const std::vector<Needle> all = draw_needles(params, params.values + params.keys, 1);
  const std::vector<Needle> asked(all.begin(), all.begin() + params.values),
      others(all.begin() + params.values, all.end());
  std::vector<std::string> keys;
  for (const Needle& n : asked) keys.push_back("the " + n.key);
  CaseText c;
  c.turns = {
      fmt::format("Some access codes are mentioned in the text below. Remember them.\n\n{}\n\nWhat are the access "
                  "codes of {}? Name each with its code.",
                  hide_needles(params, units, asked, others), join_words(keys))};
  c.answer_prefix = fmt::format("The access code of the {} is", asked[0].key);
  for (const Needle& n : asked) c.expected.push_back(n.value);
  c.max_tokens = 16 + 24 * params.values;
  return c;
}

}  // namespace pare
