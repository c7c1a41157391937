// The value of one key of a long JSON object of random identifiers: nothing but the context can tell it.
#include <fmt/format.h>

#include <algorithm>

#include "eval/tasks/haystack.h"
#include "eval/tasks/task.h"

namespace pare {

CaseText make_key_value(const TaskParams& params, int64_t units) {
  Philox content = task_rng(params.seed, TaskStream::kContent), filler = task_rng(params.seed, TaskStream::kFiller);
  const std::string key = draw_uuid(content), value = draw_uuid(content);
  const int64_t place = place_at(params.depth, units);
  std::string object = "{";
  for (int64_t i = 0; i <= units; ++i) {
    const std::string other_key = draw_uuid(filler), other_value = draw_uuid(filler);
    if (i == place) object += fmt::format("\"{}\": \"{}\",\n ", key, value);
    if (i < units) object += fmt::format("\"{}\": \"{}\"{}", other_key, other_value, i + 1 < units ? ",\n " : "");
  }
  if (object.ends_with(",\n ")) object.resize(object.size() - 3);
  object += "}";
  CaseText c;
  c.turns = {fmt::format("Here is a JSON object.\n\n{}\n\nWhich value does the key \"{}\" have?", object, key)};
  c.answer_prefix = fmt::format("\"{}\": \"", key);
  c.expected = {value};
  c.max_tokens = 48;
  return c;
}

}  // namespace pare
