// Layer ranking files: refused or read, and what was read can be written and read again to the same fields.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "io/ranking_file.h"

namespace {

// The checksum keeps nearly every mutation from being a ranking, so the file is signed anew as often as it is read: the
// fields behind it are reached through what print_ranking() makes of the raw bytes.
void check_fields(const uint8_t* data, size_t size) {
  pare::LayerRanking ranking;
  const auto next = [&] { return size > 0 ? (--size, *data++) : uint8_t{0}; };
  ranking.model_hash = next() * 0x0101010101010101u;
  ranking.recommended = static_cast<int8_t>(next());
  const int32_t tokens = next() << 18 | next();
  for (int n = next() % 80; n > 0; --n) ranking.layers.push_back(static_cast<int8_t>(next()));
  const size_t name = size > 0 ? next() % 80 : 0, length = std::min(name, size);
  ranking.min_tokens.emplace_back(std::string(reinterpret_cast<const char*>(data), length), tokens);
  ranking.provenance.assign(reinterpret_cast<const char*>(data) + length, size - length);
  const auto text = pare::print_ranking(ranking);
  if (!text.ok()) return;
  const auto again = pare::parse_ranking(*text);
  if (!again.ok() || again->layers != ranking.layers || again->recommended != ranking.recommended ||
      again->model_hash != ranking.model_hash || again->min_tokens != ranking.min_tokens) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  check_fields(data, size);
  const auto ranking = pare::parse_ranking({reinterpret_cast<const char*>(data), size});
  if (!ranking.ok()) return 0;
  const auto text = pare::print_ranking(*ranking);
  if (!text.ok()) std::abort();
  const auto again = pare::parse_ranking(*text);
  if (!again.ok() || again->layers != ranking->layers || again->min_tokens != ranking->min_tokens ||
      again->provenance != ranking->provenance) {
    std::abort();
  }
  return 0;
}
