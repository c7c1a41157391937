#include "cli/attention_report.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "cli/console.h"
#include "cli/gate_report.h"
#include "cli/version.h"
#include "eval/attention_bench.h"
#include "io/ranking_file.h"
#include "ops/accelerator.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kCardGateLengths = "1K,2K,4K,8K,16K,32K,64K,128K";

std::string length_text(int32_t n) {
  if (n % (1 << 20) == 0) return fmt::format("{}M", n >> 20);
  return n % 1024 == 0 ? fmt::format("{}K", n >> 10) : fmt::format("{}", n);
}

Json bench_json(const AttentionBench& b, const GateReport& gate) {
  Json lines = Json::array();
  for (size_t i = 0; i < b.lines.size(); ++i) {
    const AttentionBenchLine& l = b.lines[i];
    const bool dense = l.dense_seconds > 0;
    lines.push_back({{"tokens", l.tokens},
                     {"seconds", l.seconds},
                     {"dense_seconds", dense ? Json(l.dense_seconds) : Json(nullptr)},
                     {"pairs", l.pairs},
                     {"dense_pairs", l.dense_pairs},
                     {"pair_share", l.pair_share()},
                     {"time_share", dense ? Json(l.time_share()) : Json(nullptr)},
                     {"cost_of_pair", dense ? Json(l.cost_of_pair()) : Json(nullptr)},
                     {"slope", i > 0 ? Json(b.slopes[i - 1]) : Json(nullptr)},
                     {"ratio", dense ? Json(l.ratio) : Json(nullptr)},
                     {"verdict", verdict_json(l.ratio, gate.allowance)}});
  }
  Json object{{"commit", commit()},
              {"machine", b.machine},
              {"attn", b.attn},
              {"heads", b.shape.heads},
              {"kv_heads", b.shape.kv_heads},
              {"head_dim", b.shape.head_dim},
              {"repetitions", b.repetitions},
              {"gemm_flop_per_s", b.gemm_rate > 0 ? Json(b.gemm_rate) : Json(nullptr)},
              {"slope", b.slope},
              {"lines", std::move(lines)}};
  add_gate_json(gate, &object);
  return object;
}

void print_bench(const AttentionBench& b, const GateReport& gate) {
  fmt::print("{}, {}, heads {}/{} of {}, medians of {}\n{}\n\n", version_text(), b.machine, b.shape.heads,
             b.shape.kv_heads, b.shape.head_dim, b.repetitions, b.attn);
  fmt::print(
      "| tokens | selector ms | dense ms | speed-up | pairs kept | time / pairs | TFLOP/s | slope | verdict |\n");
  fmt::print("|---|---|---|---|---|---|---|---|---|\n");
  for (size_t i = 0; i < b.lines.size(); ++i) {
    const AttentionBenchLine& l = b.lines[i];
    const bool dense = l.dense_seconds > 0;
    fmt::print("| {} | {:.3f} | {} | {} | {:.2f} % | {} | {:.3f} | {} | {} |\n", length_text(l.tokens), l.seconds * 1e3,
               dense ? fmt::format("{:.3f}", l.dense_seconds * 1e3) : "-",
               dense ? fmt::format("{:.2f}", l.dense_seconds / l.seconds) : "-", 100.0 * l.pair_share(),
               dense ? fmt::format("{:.2f}", l.cost_of_pair()) : "-",
               4.0 * b.shape.head_dim * l.pairs / l.seconds * 1e-12,
               i > 0 ? fmt::format("{:.2f}", b.slopes[i - 1]) : "-", verdict_text(l.ratio, gate.allowance));
  }
  if (b.lines.size() > 1) fmt::print("\nslope of log time over log tokens, all lengths: {:.2f}\n", b.slope);
  if (b.gemm_rate > 0) fmt::print("bf16 GEMM {:.0f} TFLOP/s\n", b.gemm_rate * 1e-12);
  print_gate(gate, b.attn.substr(0, b.attn.find('(')));
}

}  // namespace

Expected<std::vector<int32_t>> parse_lengths(std::string_view text) {
  std::vector<int32_t> lengths;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  for (;;) {
    int32_t n = 0;
    const auto [rest, error] = std::from_chars(at, end, n);
    at = rest;
    int shift = 0;
    if (error == std::errc() && at != end && (*at == 'K' || *at == 'M')) shift = *at++ == 'K' ? 10 : 20;
    if (error != std::errc() || n < 0 || n > INT32_MAX >> shift || (at != end && *at != ',')) {
      return invalid_argument(fmt::format("--lengths '{}': expected numbers as in 1024,4K,1M", text));
    }
    lengths.push_back(n << shift);
    if (at == end) return lengths;
    ++at;
  }
}

Status bench_attention_command(const AttentionReportOptions& o, bool json) {
  AttentionBenchOptions options;
  PARE_ASSIGN_OR_RETURN(const auto card, ops::accelerator_by_name(o.device));
  if (card) options.device = card->info().device;
  options.attn = o.attn;
  options.threads = o.threads;
  options.repetitions = o.repetitions;
  options.gate = !o.write_gate.empty();
  GateReport gate{.allowance = card ? kCardAllowance : kCpuAllowance, .file = o.write_gate};
  if (options.gate) {
    PARE_ASSIGN_OR_RETURN(const LayerRanking ranking, read_ranking_file(o.write_gate));
    gate.model_hash = ranking.model_hash;
  }
  // A card reads 128K densely in a second; a CPU needs that for 4K.
  options.dense_max = card ? 128 << 10 : INT32_MAX;
  PARE_ASSIGN_OR_RETURN(options.shape, parse_attention_shape(!o.shape.empty() ? o.shape
                                                             : card           ? "32/8/128"
                                                                              : "14/2/64"));
  const char* const card_lengths = options.gate ? kCardGateLengths : "8K,16K,32K,64K,128K,256K,512K,1M";
  PARE_ASSIGN_OR_RETURN(options.lengths, parse_lengths(!o.lengths.empty() ? o.lengths
                                                       : card             ? card_lengths
                                                                          : "1K,2K,4K,8K"));
  arm_interrupt();
  Progress progress;
  options.next = [&](std::string_view name) {
    progress.update(name, 0, 0, "");
    return !interrupted();
  };
  const auto bench = bench_attention(options);
  progress.finish();
  if (!bench.ok()) return bench.status().code() == StatusCode::kCancelled ? cancelled("interrupted") : bench.status();
  gate.device_class = bench->device_class;
  for (const AttentionBenchLine& l : bench->lines) {
    if (l.dense_seconds > 0) gate.points.push_back({l.tokens, l.ratio});
  }
  if (options.gate) {
    const AttentionShape& s = bench->shape;
    gate.written = gate_of_report(gate, fmt::format("pare bench attention, {}/{}/{}, {} pairs a length; {}", s.heads,
                                                    s.kv_heads, s.head_dim, bench->repetitions, bench->attn));
    PARE_RETURN_IF_ERROR(write_ranking_gate(o.write_gate, *gate.written));
  }
  if (json) {
    print_json(bench_json(*bench, gate));
  } else {
    print_bench(*bench, gate);
  }
  return ok_status();
}

}  // namespace pare::cli
