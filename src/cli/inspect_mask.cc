#include "cli/inspect_mask.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "cli/console.h"
#include "eval/plot/plot.h"
#include "io/atomic_file.h"
#include "io/gate_table.h"
#include "io/mask_file.h"
#include "plan/mask_statistics.h"

namespace pare::cli {

using Json = nlohmann::ordered_json;

namespace {

Status write_figure(const ChannelMask& mask, const std::string& name, const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) return invalid_argument(path + " exists");
  const MaskStatistics s = mask_statistics(mask);
  plot::LinePlot figure;
  figure.title = fmt::format("Key channels kept, {}", name);
  figure.x = {.label = "RoPE frequency, fast to slow", .log = false, .min = 0.0, .max = {}};
  figure.y = {.label = "share of heads and pair members", .log = false, .min = 0.0, .max = 1.0};
  plot::Series kept{.name = fmt::format("{:.1f} % in all", 100.0 * s.kept_fraction()), .points = {}};
  for (size_t f = 0; f < s.frequency_keep_rate.size(); ++f) {
    kept.points.push_back({.x = static_cast<double>(f), .y = s.frequency_keep_rate[f]});
  }
  figure.series.push_back(std::move(kept));
  PARE_ASSIGN_OR_RETURN(const std::string svg, plot::to_svg(figure));
  PARE_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  PARE_RETURN_IF_ERROR(file.write(std::string_view(svg)));
  return file.commit();
}

}  // namespace

nlohmann::ordered_json mask_json(const ChannelMask& mask) {
  const MaskStatistics s = mask_statistics(mask);
  Json json{{"layers", mask.n_layers}, {"kv_heads", mask.n_kv_heads}, {"head_dim", mask.head_dim}};
  json["model_hash"] = mask.model_hash == 0 ? Json(nullptr) : Json(fmt::format("{:016x}", mask.model_hash));
  json["min_tokens"] = json_of_gates(mask.min_tokens);
  const auto counts = [](const auto& map) {
    Json object = Json::object();
    for (const auto& [key, n] : map) object[std::to_string(key)] = n;
    return object;
  };
  json["widths"] = counts(s.widths);
  json["layers_by_distinct_widths"] = counts(s.layers_by_widths);
  json["kept_fraction"] = s.kept_fraction();
  json["empty_head_fraction"] = static_cast<double>(s.heads_empty) / static_cast<double>(s.heads);
  json["full_heads"] = s.heads_full;
  json["keep_rate_by_frequency_quartile"] = s.quartile_keep_rate;
  json["keep_rate_by_frequency"] = s.frequency_keep_rate;
  json["pairs_kept_both"] = s.pairs_both;
  json["pairs_kept_one"] = s.pairs_one;
  json["kept_fraction_if_paired"] = s.kept_fraction_paired();
  json["alphas_not_one"] = s.alphas_not_one;
  json["provenance"] = mask.provenance;
  return json;
}

void print_mask(const ChannelMask& mask) {
  const MaskStatistics s = mask_statistics(mask);
  fmt::print("{} layers, {} KV heads, head dimension {}; model {}\n", mask.n_layers, mask.n_kv_heads, mask.head_dim,
             mask.model_hash == 0 ? "not named" : fmt::format("{:016x}", mask.model_hash));
  for (const auto& [device, tokens] : mask.min_tokens) {
    fmt::print("rows stay whole below {} tokens on {}\n", tokens, device);
  }
  fmt::print("{}\n\n{:>8} {:>8}\n", mask.provenance, "width", "heads");
  for (const auto& [width, heads] : s.widths) fmt::print("{:>8} {:>8}\n", width, heads);
  fmt::print("\nkeys kept {:.2f} %, heads without any {} of {} (their values go too)\n", 100.0 * s.kept_fraction(),
             s.heads_empty, s.heads);
  fmt::print("by frequency, fast to slow: {:.1f} / {:.1f} / {:.1f} / {:.1f} %\n", 100.0 * s.quartile_keep_rate[0],
             100.0 * s.quartile_keep_rate[1], 100.0 * s.quartile_keep_rate[2], 100.0 * s.quartile_keep_rate[3]);
  fmt::print("RoPE pairs kept whole {}, one member only {}; {:.2f} % if pairs were kept whole\n", s.pairs_both,
             s.pairs_one, 100.0 * s.kept_fraction_paired());
}

Status inspect_mask(const std::string& path, const std::string& svg, bool json) {
  PARE_ASSIGN_OR_RETURN(const ChannelMask mask, read_channel_mask(std::filesystem::path(path)));
  if (!svg.empty()) {
    PARE_RETURN_IF_ERROR(write_figure(mask, std::filesystem::path(path).filename().string(), svg));
  }
  if (json) {
    print_json(mask_json(mask));
  } else {
    print_mask(mask);
  }
  return ok_status();
}

}  // namespace pare::cli
