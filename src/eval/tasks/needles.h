// Sentences with a key and a number, the needles of several families.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "eval/tasks/task.h"

namespace pare {

struct Needle {
  std::string key, value;  // value: 7 digits
};

// "The access code of the amber-lantern is 4821937."
std::string needle_sentence(const Needle& needle);
// `n` needles with distinct keys and values, none of them in `n_values` more values of the first key.
std::vector<Needle> draw_needles(const TaskParams& params, int64_t n, int64_t values_of_first);

// The haystack of `units` sentences with `asked` needles at the depth of the parameters and around it (the first at the
// depth itself) and the others at drawn places. No value stands anywhere else: a haystack of numbers loses those
// sentences.
std::string hide_needles(const TaskParams& params, int64_t units, const std::vector<Needle>& asked,
                         const std::vector<Needle>& others);

// Names joined as English does: "a, b and c".
std::string join_words(const std::vector<std::string>& words);

}  // namespace pare
