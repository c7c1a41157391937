#include "eval/tasks/needles.h"

#include <fmt/format.h>

#include <algorithm>

#include "eval/tasks/haystack.h"

namespace pare {

std::string needle_sentence(const Needle& needle) {
  return fmt::format("The access code of the {} is {}.", needle.key, needle.value);
}

std::vector<Needle> draw_needles(const TaskParams& params, int64_t n, int64_t values_of_first) {
  Philox rng = task_rng(params.seed, TaskStream::kContent);
  std::vector<std::string> keys, values;
  std::vector<Needle> needles;
  for (int64_t i = 0; i < n; ++i) {
    const std::string key = i < values_of_first && i > 0 ? needles[0].key : draw_key(rng, &keys);
    needles.push_back({key, draw_number(rng, 7, &values)});
  }
  return needles;
}

std::string hide_needles(const TaskParams& params, int64_t units, const std::vector<Needle>& asked,
                         const std::vector<Needle>& others) {
  std::vector<std::string> filler = params.haystack->sentences(params.seed, units), inserts;
  std::vector<int64_t> places;
  Philox rng = task_rng(params.seed, TaskStream::kPlaces);
  for (size_t i = 0; i < asked.size(); ++i) {
    inserts.push_back(needle_sentence(asked[i]));
    places.push_back(i == 0 ? place_at(params.depth, units) : draw_places(rng, 1, units)[0]);
  }
  for (const Needle& needle : others) inserts.push_back(needle_sentence(needle));
  const std::vector<int64_t> drawn = draw_places(rng, static_cast<int64_t>(others.size()), units);
  places.insert(places.end(), drawn.begin(), drawn.end());
  for (std::string& sentence : filler) {
    const auto holds = [&](const Needle& n) { return sentence.find(n.value) != std::string::npos; };
    if (std::any_of(asked.begin(), asked.end(), holds)) sentence = "The page was empty.";
  }
  return weave(filler, inserts, places);
}

std::string join_words(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " and " : ", ";
    text += words[i];
  }
  return text;
}

}  // namespace pare
