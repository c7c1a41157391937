#include "io/ranking_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/limits.h"
#include "io/atomic_file.h"
#include "io/gate_table.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/quote_name.h"
#include "io/sha256.h"

namespace pare {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "pare layer ranking";
constexpr int64_t kVersion = 1;

Status wrong(std::string_view field, std::string_view why) { return data_loss(fmt::format("{}: {}", field, why)); }

std::string dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Expected<std::string> checksum_of(const Json& body) {
  Sha256 sha;
  sha.update(dump(body));
  return sha.finish_hex();
}

// What the checksum covers: every field but itself, in the order of the format, without spaces.
Json body_of(const LayerRanking& r, Json provenance) {
  return {{"format", kFormat},
          {"version", kVersion},
          {"model_hash", fmt::format("{:016x}", r.model_hash)},
          {"n_layers", r.layers.size()},
          {"ranking", r.layers},
          {"recommended", r.recommended},
          {"min_tokens", json_of_gates(r.min_tokens)},
          {"provenance", std::move(provenance)}};
}

Status check(const LayerRanking& r) {
  const int64_t n = static_cast<int64_t>(r.layers.size());
  if (n < 1 || n > kMaxLayers) return wrong("ranking", fmt::format("{} layers, 1 to {} are possible", n, kMaxLayers));
  std::vector<uint8_t> seen(r.layers.size(), 0);
  for (const int32_t l : r.layers) {
    if (l < 0 || l >= n) return wrong("ranking", fmt::format("layer {} of {}", l, n));
    if (seen[l]++ != 0) return wrong("ranking", fmt::format("layer {} twice", l));
  }
  if (r.recommended < 0 || r.recommended > n) return wrong("recommended", fmt::format("{} of {}", r.recommended, n));
  return check_gates(r.min_tokens);
}

// Whole numbers only: 1.0 is none.
Expected<int32_t> integer(const Json& value, std::string_view field, int64_t max) {
  if (value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(max)) {
    return static_cast<int32_t>(value.get<uint64_t>());
  }
  return wrong(field, fmt::format("expected an integer from 0 to {}", max));
}

Expected<uint64_t> hash_of(const Json& value) {
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    uint64_t hash = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), hash, 16);
    if (text.size() == 16 && error == std::errc() && end == text.data() + 16) return hash;
  }
  return wrong("model_hash", "expected 16 hex digits");
}

Expected<LayerRanking> fields_of(const Json& file) {
  LayerRanking r;
  PARE_ASSIGN_OR_RETURN(r.model_hash, hash_of(file["model_hash"]));
  PARE_ASSIGN_OR_RETURN(const int32_t n, integer(file["n_layers"], "n_layers", kMaxLayers));
  const Json& layers = file["ranking"];
  if (!layers.is_array() || layers.size() != static_cast<size_t>(n)) {
    return wrong("ranking", fmt::format("expected a list of {} layers", n));
  }
  for (const Json& layer : layers) {
    PARE_ASSIGN_OR_RETURN(const int32_t l, integer(layer, "ranking", kMaxLayers));
    r.layers.push_back(l);
  }
  PARE_ASSIGN_OR_RETURN(r.recommended, integer(file["recommended"], "recommended", kMaxLayers));
  PARE_ASSIGN_OR_RETURN(r.min_tokens, gates_of_json(file["min_tokens"]));
  if (!file["provenance"].is_object()) return wrong("provenance", "expected an object");
  r.provenance = dump(file["provenance"]);
  PARE_RETURN_IF_ERROR(check(r));
  return r;
}

}  // namespace

Expected<LayerRanking> parse_ranking(std::string_view text) {
  if (static_cast<int64_t>(text.size()) > kMaxRankingFileBytes) {
    return limit_exceeded(fmt::format("layer ranking of {} bytes, {} are possible", text.size(), kMaxRankingFileBytes));
  }
  PARE_ASSIGN_OR_RETURN(const Json file, parse_json(text));
  if (!file.is_object() || !file.contains("format") || file["format"] != kFormat) {
    return data_loss("format: not a layer ranking");
  }
  if (!file.contains("version") || file["version"] != kVersion) {
    return unsupported(fmt::format("version: only {} is known", kVersion));
  }
  constexpr std::string_view kFields[] = {"format",      "version",    "model_hash", "n_layers", "ranking",
                                          "recommended", "min_tokens", "provenance", "checksum"};
  for (const std::string_view field : kFields) {
    if (!file.contains(field)) return wrong(field, "is missing");
  }
  for (const auto& [field, value] : file.items()) {
    if (std::find(std::begin(kFields), std::end(kFields), field) == std::end(kFields)) {
      return wrong(quote_name(field), "is no field of a layer ranking");
    }
  }
  PARE_ASSIGN_OR_RETURN(LayerRanking ranking, fields_of(file));
  PARE_ASSIGN_OR_RETURN(const std::string sum, checksum_of(body_of(ranking, file["provenance"])));
#ifndef PARE_FAULT_IO_RANKING_CHECKSUM
  if (file["checksum"] != sum) return wrong("checksum", "is not that of the contents");
#endif
  return ranking;
}

Expected<std::string> print_ranking(const LayerRanking& ranking) {
  PARE_RETURN_IF_ERROR(check(ranking));
  Json provenance;
  if (auto parsed = parse_json(ranking.provenance); parsed.ok() && parsed->is_object()) {
    provenance = std::move(parsed).value();
  } else {
    // Replaced here and not when the whole is printed, so that what is read back has the same checksum.
    provenance = Json{{"note", Json::parse(dump(Json(ranking.provenance)))}};
  }
  Json body = body_of(ranking, std::move(provenance));
  PARE_ASSIGN_OR_RETURN(const std::string sum, checksum_of(body));
  body["checksum"] = sum;
  std::string text = dump(body, 1) + "\n";
  if (static_cast<int64_t>(text.size()) > kMaxRankingFileBytes) {
    return limit_exceeded(fmt::format("layer ranking of {} bytes, {} are possible", text.size(), kMaxRankingFileBytes));
  }
  return text;
}

Expected<LayerRanking> read_ranking_file(const std::filesystem::path& path) {
  PARE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  auto ranking = parse_ranking({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!ranking.ok()) return ranking.status().with_context(path.string());
  return ranking;
}

Status write_ranking_file(const std::filesystem::path& path, const LayerRanking& ranking) {
  auto text = print_ranking(ranking);
  if (!text.ok()) return text.status().with_context(path.string());
  PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  PARE_RETURN_IF_ERROR(file.write(*text));
  return file.commit();
}

}  // namespace pare
