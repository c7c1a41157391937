// One number in a haystack, at a depth, among numbers of other keys.
#include <fmt/format.h>

#include "eval/tasks/needles.h"

namespace pare {

CaseText make_needle(const TaskParams& params, int64_t units) {
  const std::vector<Needle> all = draw_needles(params, 1 + params.keys, 1);
  const Needle& asked = all.front();
  CaseText c;
  c.turns = {
      fmt::format("Some access codes are mentioned in the text below. Remember them.\n\n{}\n\nWhat is the access "
                  "code of the {}?",
                  hide_needles(params, units, {asked}, {all.begin() + 1, all.end()}), asked.key)};
  c.answer_prefix = fmt::format("The access code of the {} is", asked.key);
  c.expected = {asked.value};
  c.max_tokens = 16;
  return c;
}

}  // namespace pare
