// Questions about invented people whose facts stand in prose; with two hops, two facts in different places must be
// joined.
#include <fmt/format.h>

#include <array>

#include "eval/tasks/haystack.h"
#include "eval/tasks/task.h"

namespace pare {
namespace {

constexpr std::array<std::string_view, 20> kGiven = {"Mara",  "Tobias", "Ines",   "Pavel", "Greta", "Oskar", "Lena",
                                                     "Bruno", "Sofia",  "Anton",  "Clara", "Felix", "Hanna", "Jonas",
                                                     "Katja", "Leo",    "Miriam", "Nils",  "Rosa",  "Viktor"};

std::string capital(std::string word) {
  word[0] = static_cast<char>(word[0] - 'a' + 'A');
  return word;
}

struct Person {
  std::string name, company, town;
};

}  // namespace

CaseText make_facts(const TaskParams& params, int64_t units) {
  Philox rng = task_rng(params.seed, TaskStream::kContent), where = task_rng(params.seed, TaskStream::kPlaces);
  std::vector<std::string> used, inserts;
  std::vector<Person> people;
  std::vector<int64_t> places;
  const bool joined = params.hops >= 2;
  for (int32_t i = 0; i <= params.keys; ++i) {
    Person p;
    p.name = fmt::format("{} {}", kGiven[rng.below(kGiven.size())], capital(draw_word(rng, &used)));
    p.company = capital(draw_word(rng, &used));
    p.town = capital(draw_word(rng, &used));
    people.push_back(p);
    const std::vector<int64_t> drawn = draw_places(where, 2, units);
    places.push_back(i == 0 ? place_at(params.depth, units) : drawn[0]);
    if (joined) {
      inserts.push_back(fmt::format("{} has worked for the firm {} for many years.", p.name, p.company));
      inserts.push_back(fmt::format("The firm {} has its only office in the town of {}.", p.company, p.town));
      places.push_back(drawn[1]);
    } else {
      inserts.push_back(fmt::format("{}, who likes to read, was born in the town of {}.", p.name, p.town));
    }
  }
  const std::string text = weave(params.haystack->sentences(params.seed, units), inserts, places);
  const Person& asked = people.front();
  CaseText c;
  c.expected = {asked.town};
  c.max_tokens = 16;
  if (joined) {
    c.turns = {
        fmt::format("Read the text and answer the question about it.\n\n{}\n\nIn which town is the office of the firm "
                    "that {} works for?",
                    text, asked.name)};
    c.answer_prefix = fmt::format("The office of the firm that {} works for is in the town of", asked.name);
  } else {
    c.turns = {fmt::format("Read the text and answer the question about it.\n\n{}\n\nIn which town was {} born?", text,
                           asked.name)};
    c.answer_prefix = fmt::format("{} was born in the town of", asked.name);
  }
  return c;
}

}  // namespace pare
