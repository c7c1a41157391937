// What needles are hidden in: sentences of a text, or of a generator that needs no file. And the words that keys and
// names are drawn from.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "pare/status.h"

namespace pare {

class Haystack {
 public:
  // Plain sentences about everyday things, without digits; no two cases begin alike.
  Haystack() = default;
  // The sentences of `text` (UTF-8): cut after ". ", "! ", "? " and at empty lines; longer ones than 600 bytes are cut
  // at a space. kInvalidArgument with fewer than 8 sentences.
  static Expected<Haystack> from_text(std::string_view text);

  // `n` sentences in order. A file is read from a place that the seed decides, and from its start again at its end.
  std::vector<std::string> sentences(uint64_t seed, int64_t n) const;
  // "builtin", or the first 16 hexadecimal digits of the text's SHA-256: a part of what identifies a case.
  const std::string& identity() const { return identity_; }

 private:
  std::vector<std::string> sentences_;  // empty: generated
  std::string identity_ = "builtin";
};

// Streams of the generator, so that what is asked does not change with the amount of filler.
enum class TaskStream : uint64_t { kFiller = 1, kContent = 2, kPlaces = 3, kMoreFiller = 4 };
Philox task_rng(uint64_t seed, TaskStream stream);

// "amber-lantern": distinct from every name in `used`, to which it is added.
std::string draw_key(Philox& rng, std::vector<std::string>* used);
// `digits` decimal digits, the first not 0; distinct likewise.
std::string draw_number(Philox& rng, int digits, std::vector<std::string>* used);
// A pronounceable word that no language has: "tomarive"; distinct likewise.
std::string draw_word(Philox& rng, std::vector<std::string>* used);
// 8-4-4-4-12 lower-case hexadecimal digits.
std::string draw_uuid(Philox& rng);

// `filler` with inserts[i] before its sentence number places[i] (0 to filler.size()), joined by spaces; equal places
// keep the order of the inserts.
std::string weave(const std::vector<std::string>& filler, const std::vector<std::string>& inserts,
                  const std::vector<int64_t>& places);
// The place at `depth` percent of `n`.
int64_t place_at(int32_t depth, int64_t n);
// `n` places drawn from [0, units], the same share of the way at every number of units.
std::vector<int64_t> draw_places(Philox& rng, int64_t n, int64_t units);

}  // namespace pare
