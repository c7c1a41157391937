#include "cli/kv_bench_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/attention_report.h"
#include "cli/console.h"
#include "cli/gate_report.h"
#include "cli/version.h"
#include "eval/attention_bench.h"
#include "eval/kv_bench.h"
#include "kernels/cpu_level.h"
#include "runtime/policy_files.h"

namespace pare::cli {
namespace {

constexpr const char* kUsualLengths = "4096,8192,32768";
constexpr const char* kCardGateLengths = "1K,2K,4K,8K,16K,32K,64K,128K";
constexpr const char* kCpuGateLengths = "1K,2K,4K,8K,16K,32K";

nlohmann::ordered_json side_json(const KvBenchSide& s) {
  return {{"seconds", s.seconds},
          {"spread", s.spread},
          {"bytes_read", s.bytes_read},
          {"bytes_per_second", s.rate()},
          {"bytes_used", s.bytes_used},
          {"bytes_allocated", s.bytes_allocated},
          {"bytes_by_formula", s.bytes_by_formula}};
}

void print_report(const KvBenchReport& r, const KvBenchConfig& c, const GateReport& gate, std::string_view where) {
  fmt::print(
      "{}, {}, {} layers of {}/{} heads of {}, {} sequences; reading {:.1f} GB/s\nkv={} beside dense, {} steps "
      "each, alternating\n\n",
      version_text(), where, c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim, c.batch, r.read_rate * 1e-9, r.kv,
      c.repetitions);
  fmt::print(
      "| rows | dense ms | GB/s | {0} ms | GB/s | spread | speed-up | by bytes | of it | bytes held | of dense | "
      "formula | verdict |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
      r.kv.substr(0, r.kv.find('(')));
  for (const KvBenchLine& l : r.lines) {
    const double speedup = l.dense.seconds / l.policy.seconds;
    const double by_bytes = static_cast<double>(l.dense.bytes_read) / static_cast<double>(l.policy.bytes_read);
    fmt::print(
        "| {} | {:.3f} | {:.1f} | {:.3f} | {:.1f} | {:.1f} % | {:.2f} | {:.2f} | {:.0f} % | {} | {:.3f} | {} | {} |\n",
        l.length, l.dense.seconds * 1e3, l.dense.rate() * 1e-9, l.policy.seconds * 1e3, l.policy.rate() * 1e-9,
        100 * std::max(l.dense.spread, l.policy.spread), speedup, by_bytes, 100 * speedup / by_bytes,
        format_bytes(l.policy.bytes_used),
        static_cast<double>(l.policy.bytes_used) / static_cast<double>(l.dense.bytes_used),
        format_bytes(l.policy.bytes_by_formula), verdict_text(l.ratio, gate.allowance));
  }
  print_gate(gate, r.kv.substr(0, r.kv.find('(')));
}

}  // namespace

Status bench_kv_command(const KvBenchOptions& o, bool json) {
  KvBenchConfig config;
  PARE_ASSIGN_OR_RETURN(const AttentionShape shape, parse_attention_shape(o.shape));
  config.n_heads = shape.heads;
  config.n_kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.n_layers = o.layers;
  config.batch = o.batch;
  config.repetitions = o.repetitions;
  config.kv = o.kv;
  config.threads = o.threads > 0 ? o.threads : usable_cpus();
  PARE_ASSIGN_OR_RETURN(config.accelerator, ops::accelerator_by_name(o.device));
  const char* const lengths = o.write_gate.empty() ? kUsualLengths
                              : config.accelerator ? kCardGateLengths
                                                   : kCpuGateLengths;
  PARE_ASSIGN_OR_RETURN(config.lengths, parse_lengths(o.lengths.empty() ? lengths : o.lengths));
  for (const int32_t length : config.lengths) {
    if (length < 1 || length >= kMaxContext) {
      return invalid_argument(fmt::format("--lengths: {} rows, 1 to {} are possible", length, kMaxContext - 1));
    }
  }
  DiskPolicyFiles files;
  config.files = &files;
  GateReport gate{.file = o.write_gate};
  ChannelMask gated;
  if (!o.write_gate.empty()) {
    PARE_ASSIGN_OR_RETURN(gated, read_gated_mask(o.write_gate));
    config.gated = &gated;
    gate.model_hash = gated.model_hash;
  }
  arm_interrupt();
  Progress progress;
  config.next = [&](int64_t done, int64_t total) {
    progress.update("attention", done, total, "groups of layers");
    return !interrupted();
  };
  PARE_ASSIGN_OR_RETURN(const KvBenchReport report, bench_kv(config));
  progress.finish();
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  const std::string where = config.accelerator ? config.accelerator->info().name
                                               : fmt::format("{} threads, {}", config.threads, cpu_level_name(level));
  gate.device_class = report.device_class;
  gate.allowance = config.accelerator ? kCardAllowance : kCpuAllowance;
  for (const KvBenchLine& l : report.lines) gate.points.push_back({l.length, l.ratio});
  if (!o.write_gate.empty()) {
    gate.written = gate_of_report(
        gate, fmt::format("pare bench kv, {} layers of {}/{}/{}, {} sequences, {} pairs of steps a length; {}",
                          config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.batch,
                          config.repetitions, report.kv));
    PARE_RETURN_IF_ERROR(write_mask_gate(o.write_gate, *gate.written));
  }
  if (!json) {
    print_report(report, config, gate, where);
    return ok_status();
  }
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const KvBenchLine& l : report.lines) {
    lines.push_back({{"rows", l.length},
                     {"dense", side_json(l.dense)},
                     {"policy", side_json(l.policy)},
                     {"ratio", l.ratio},
                     {"verdict", verdict_json(l.ratio, gate.allowance)}});
  }
  nlohmann::ordered_json object{{"commit", commit()},
                                {"where", where},
                                {"kv", report.kv},
                                {"layers", config.n_layers},
                                {"heads", config.n_heads},
                                {"kv_heads", config.n_kv_heads},
                                {"head_dim", config.head_dim},
                                {"batch", config.batch},
                                {"read_bytes_per_s", report.read_rate},
                                {"lines", lines}};
  add_gate_json(gate, &object);
  print_json(object);
  return ok_status();
}

}  // namespace pare::cli
