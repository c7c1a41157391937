// Layer rankings as files (docs/formats/ranking.md): JSON with a version, the weights' hash and a checksum.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "pare/status.h"
#include "plan/layer_ranking.h"

namespace pare {

// Every layer once, counts in range, the checksum that of the contents: else kDataLoss names the field; kUnsupported
// for another version; kLimitExceeded beyond kMaxRankingFileBytes. Messages do not name the file.
Expected<LayerRanking> parse_ranking(std::string_view text);

// The file's text. `provenance` is kept as an object when it is one, else as {"note": provenance}. Errors: a ranking
// that parse_ranking would refuse.
Expected<std::string> print_ranking(const LayerRanking& ranking);

// Errors name the file.
Expected<LayerRanking> read_ranking_file(const std::filesystem::path& path);
// Appears whole or not at all; replaces what is there.
Status write_ranking_file(const std::filesystem::path& path, const LayerRanking& ranking);

}  // namespace pare
