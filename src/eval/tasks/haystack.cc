#include "eval/tasks/haystack.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "io/sha256.h"
#include "text/utf8.h"

namespace pare {
namespace {

constexpr size_t kSentenceBytes = 600, kSentencesMin = 8;

constexpr std::array<std::string_view, 32> kPeople = {
    "gardener",  "baker", "teacher", "sailor",  "painter", "farmer",    "tailor",  "miller",
    "neighbour", "cook",  "visitor", "student", "mason",   "porter",    "singer",  "clerk",
    "carpenter", "nurse", "driver",  "fisher",  "weaver",  "printer",   "potter",  "shepherd",
    "librarian", "smith", "grocer",  "captain", "mayor",   "beekeeper", "cobbler", "innkeeper"};
constexpr std::array<std::string_view, 24> kVerbs = {
    "carried", "cleaned", "repaired", "admired", "moved",   "covered",  "painted",  "borrowed",
    "opened",  "watched", "sold",     "found",   "lifted",  "measured", "sketched", "polished",
    "weighed", "sorted",  "wrapped",  "praised", "emptied", "mended",   "counted",  "described"};
constexpr std::array<std::string_view, 32> kThings = {
    "basket", "chair",  "kettle", "blanket", "wagon",  "mirror", "bench",  "carpet", "bottle", "hammer", "drum",
    "coat",   "ladder", "bucket", "clock",   "barrel", "boat",   "fence",  "stove",  "teapot", "shovel", "curtain",
    "candle", "anchor", "saddle", "shelf",   "rope",   "lamp",   "violin", "oven",   "crate",  "map"};
constexpr std::array<std::string_view, 24> kAdjectives = {
    "old",  "heavy", "green", "quiet",   "broken", "small",  "wooden", "bright",  "plain", "narrow", "round", "dusty",
    "grey", "wide",  "warm",  "crooked", "simple", "copper", "hollow", "painted", "soft",  "tall",   "faded", "sturdy"};
constexpr std::array<std::string_view, 24> kPlaces = {
    "near the river",      "behind the market",    "in the long hall",     "beside the mill",
    "at the harbour",      "under the bridge",     "in the garden",        "outside the school",
    "by the well",         "on the square",        "next to the orchard",  "in the cellar",
    "along the canal",     "above the workshop",   "at the crossing",      "in the courtyard",
    "close to the forest", "before the town gate", "in the stable",        "at the ferry landing",
    "on the upper floor",  "behind the chapel",    "in the small kitchen", "at the edge of the field"};
constexpr std::array<std::string_view, 16> kTimes = {"after the rain",
                                                     "before sunrise",
                                                     "on a cold morning",
                                                     "during the fair",
                                                     "in early spring",
                                                     "late in the evening",
                                                     "at noon",
                                                     "on market day",
                                                     "when the bell rang",
                                                     "in the last week of autumn",
                                                     "without any hurry",
                                                     "for the first time",
                                                     "as usual",
                                                     "while it was snowing",
                                                     "before the guests came",
                                                     "during the long winter"};
constexpr std::array<std::string_view, 40> kKeyFirst = {
    "amber",   "silent", "crimson", "northern", "velvet", "frozen", "golden", "distant", "marble",  "rapid",
    "hidden",  "ivory",  "cobalt",  "gentle",   "rusty",  "lunar",  "misty",  "proud",   "scarlet", "tidal",
    "urban",   "violet", "wicked",  "yellow",   "azure",  "brave",  "clever", "dapper",  "eager",   "fabled",
    "granite", "humble", "jolly",   "keen",     "lively", "mellow", "noble",  "opal",    "patient", "quaint"};
constexpr std::array<std::string_view, 40> kKeySecond = {
    "lantern", "falcon",  "harbor", "compass", "orchid", "beacon", "glacier", "temple",  "meadow", "rocket",
    "tunnel",  "whisper", "anvil",  "badger",  "cactus", "dragon", "engine",  "feather", "goblet", "hammock",
    "island",  "jungle",  "kernel", "ledger",  "magnet", "needle", "obelisk", "pebble",  "quarry", "raven",
    "saddle",  "turbine", "valley", "walnut",  "zephyr", "bridge", "canyon",  "ember",   "fossil", "garnet"};

template <size_t N>
std::string_view pick(Philox& rng, const std::array<std::string_view, N>& words) {
  return words[rng.below(static_cast<uint32_t>(N))];
}

std::string plain_sentence(Philox& rng) {
  const auto who = pick(rng, kPeople), verb = pick(rng, kVerbs), how = pick(rng, kAdjectives);
  const auto what = pick(rng, kThings), where = pick(rng, kPlaces), when = pick(rng, kTimes);
  switch (rng.below(5)) {
    case 0: return fmt::format("The {} {} the {} {} {}.", who, verb, how, what, where);
    case 1: return fmt::format("The {} {} a {} {} {}.", who, verb, how, what, when);
    case 2: return fmt::format("There was a {} {} {}, and the {} {} it.", how, what, where, who, verb);
    case 3: return fmt::format("{} the {} {} the {}.", when == "as usual" ? "As ever" : "One day", who, verb, what);
    default: return fmt::format("The {} {} {} belonged to the {}.", how, what, where, who);
  }
}

template <typename Draw>
std::string distinct(std::vector<std::string>* used, Draw draw) {
  for (;;) {
    std::string name = draw();
    if (std::find(used->begin(), used->end(), name) != used->end()) continue;
    used->push_back(name);
    return name;
  }
}

// Cuts `text` into sentences, runs of white space becoming one space.
std::vector<std::string> split_sentences(std::string_view text) {
  std::vector<std::string> out;
  std::string current;
  const auto end = [&] {
    while (!current.empty() && current.back() == ' ') current.pop_back();
    if (!current.empty()) out.push_back(current);
    current.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
    if (c == '\n' && i + 1 < text.size() && text[i + 1] == '\n') {
      end();
    } else if (space) {
      const char last = current.empty() ? ' ' : current.back();
      if (last == '.' || last == '!' || last == '?' || current.size() >= kSentenceBytes) {
        end();
      } else if (last != ' ') {
        current += ' ';
      }
    } else {
      current += c;
    }
  }
  end();
  return out;
}

}  // namespace

Philox task_rng(uint64_t seed, TaskStream stream) { return Philox(seed, static_cast<uint64_t>(stream)); }

Expected<Haystack> Haystack::from_text(std::string_view text) {
  if (!utf8_valid(text)) return invalid_argument("the haystack is not UTF-8");
  Haystack h;
  h.sentences_ = split_sentences(text);
  if (h.sentences_.size() < kSentencesMin) {
    return invalid_argument(
        fmt::format("the haystack has {} sentences, at least {} are needed", h.sentences_.size(), kSentencesMin));
  }
  Sha256 sha;
  sha.update(text);
  PARE_ASSIGN_OR_RETURN(const std::string hex, sha.finish_hex());
  h.identity_ = hex.substr(0, 16);
  return h;
}

std::vector<std::string> Haystack::sentences(uint64_t seed, int64_t n) const {
  std::vector<std::string> out;
  out.reserve(static_cast<size_t>(n));
  Philox rng = task_rng(seed, TaskStream::kFiller);
  if (sentences_.empty()) {
    for (int64_t i = 0; i < n; ++i) out.push_back(plain_sentence(rng));
    return out;
  }
  const uint32_t start = rng.below(static_cast<uint32_t>(sentences_.size()));
  for (int64_t i = 0; i < n; ++i) out.push_back(sentences_[(start + static_cast<size_t>(i)) % sentences_.size()]);
  return out;
}

std::string draw_key(Philox& rng, std::vector<std::string>* used) {
  return distinct(used, [&] { return fmt::format("{}-{}", pick(rng, kKeyFirst), pick(rng, kKeySecond)); });
}

std::string draw_number(Philox& rng, int digits, std::vector<std::string>* used) {
  return distinct(used, [&] {
    std::string number(1, static_cast<char>('1' + rng.below(9)));
    while (static_cast<int>(number.size()) < digits) number += static_cast<char>('0' + rng.below(10));
    return number;
  });
}

std::string draw_word(Philox& rng, std::vector<std::string>* used) {
  constexpr std::string_view kConsonants = "bdfgklmnprstvz", kVowels = "aeiou";
  return distinct(used, [&] {
    std::string word;
    const uint32_t syllables = 2 + rng.below(3);
    for (uint32_t i = 0; i < syllables; ++i) {
      word += kConsonants[rng.below(static_cast<uint32_t>(kConsonants.size()))];
      word += kVowels[rng.below(static_cast<uint32_t>(kVowels.size()))];
    }
    return word;
  });
}

std::string draw_uuid(Philox& rng) {
  const uint32_t a = rng(), b = rng(), c = rng(), d = rng();
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:04x}{:08x}", a, b >> 16, b & 0xFFFF, c >> 16, c & 0xFFFF, d);
}

std::string weave(const std::vector<std::string>& filler, const std::vector<std::string>& inserts,
                  const std::vector<int64_t>& places) {
  std::vector<size_t> order(inserts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return places[a] < places[b]; });
  std::string text;
  const auto add = [&](std::string_view sentence) {
    if (!text.empty()) text += ' ';
    text += sentence;
  };
  size_t next = 0;
  for (size_t i = 0; i <= filler.size(); ++i) {
    for (; next < order.size() && places[order[next]] <= static_cast<int64_t>(i); ++next) add(inserts[order[next]]);
    if (i < filler.size()) add(filler[i]);
  }
  return text;
}

int64_t place_at(int32_t depth, int64_t n) { return (n * depth + 50) / 100; }

std::vector<int64_t> draw_places(Philox& rng, int64_t n, int64_t units) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < n; ++i) {
    places.push_back(static_cast<int64_t>(static_cast<double>(rng.uniform()) * static_cast<double>(units + 1)));
  }
  return places;
}

}  // namespace pare
