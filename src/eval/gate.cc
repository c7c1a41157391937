#include "eval/gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/mask_file.h"
#include "io/ranking_file.h"

namespace pare {
namespace {

constexpr const char* kMeasuredField = "min_tokens_measured";

// The line of a mask's provenance that tells of a class's gate begins with this.
std::string line_head(std::string_view device_class) { return fmt::format("min_tokens of {}: ", device_class); }

// `text` without the lines that begin with `head`.
std::string without_lines(std::string_view text, std::string_view head) {
  std::string kept;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (const std::string_view line = text.substr(0, end); !line.starts_with(head)) {
      if (!kept.empty()) kept += '\n';
      kept += line;
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return kept;
}

}  // namespace

std::string_view gate_verdict(double ratio, double allowance) {
  return ratio <= 1.0 ? "pays" : ratio <= 1.0 + allowance ? "even" : "slower";
}

std::optional<int32_t> find_crossover(std::span<const GatePoint> points, double allowance) {
  std::vector<GatePoint> sorted(points.begin(), points.end());
  // Longest first; of one length the slowest first.
  std::sort(sorted.begin(), sorted.end(), [](const GatePoint& a, const GatePoint& b) {
    return a.tokens != b.tokens ? a.tokens > b.tokens : a.ratio > b.ratio;
  });
  std::optional<int32_t> crossover;
  for (const GatePoint& p : sorted) {
    if (!(p.ratio <= 1.0 + allowance)) break;
    crossover = p.tokens;
  }
  return crossover;
}

MeasuredGate make_gate(std::string_view device_class, std::span<const GatePoint> points, double allowance,
                       std::string_view measured) {
  MeasuredGate gate{.device_class = std::string(device_class)};
  gate.min_tokens = find_crossover(points, allowance).value_or(static_cast<int32_t>(kMaxContext));
  gate.provenance = fmt::format("{}; allowance {:.0f} %; time over dense", measured, 100 * allowance);
  for (const GatePoint& p : points) gate.provenance += fmt::format(", {}: {:.3f}", p.tokens, p.ratio);
  return gate;
}

Status write_ranking_gate(const std::filesystem::path& path, const MeasuredGate& gate) {
  PARE_ASSIGN_OR_RETURN(LayerRanking ranking, read_ranking_file(path));
  set_gate(&ranking.min_tokens, gate.device_class, gate.min_tokens);
  auto provenance = parse_json(ranking.provenance);
  if (!provenance.ok()) return provenance.status().with_context(path.string() + ": provenance");
  nlohmann::ordered_json& measured = (*provenance)[kMeasuredField];
  // Whatever else stands there is not ours to keep as a table.
  if (!measured.is_object()) measured = nlohmann::ordered_json::object();
  measured[gate.device_class] = gate.provenance;
  ranking.provenance = provenance->dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return write_ranking_file(path, ranking);
}

Expected<ChannelMask> read_gated_mask(const std::filesystem::path& path) {
  PARE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() >= 2 && bytes[0] == std::byte{'P'} && bytes[1] == std::byte{'K'}) {
    return invalid_argument(path.string() + ": a .pth mask has no place for min_tokens; only pare's JSON form has");
  }
  auto mask = read_channel_mask(bytes, path.filename().string());
  if (!mask.ok()) return mask.status().with_context(path.string());
  return mask;
}

Status write_mask_gate(const std::filesystem::path& path, const MeasuredGate& gate) {
  PARE_ASSIGN_OR_RETURN(ChannelMask mask, read_gated_mask(path));
  set_gate(&mask.min_tokens, gate.device_class, gate.min_tokens);
  const std::string head = line_head(gate.device_class);
  mask.provenance = without_lines(mask.provenance, head);
  if (!mask.provenance.empty()) mask.provenance += '\n';
  mask.provenance += head + gate.provenance;
  return write_channel_mask(path, mask).with_context(path.string());
}

}  // namespace pare
