#include "cli/kernel_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/console.h"
#include "cli/version.h"
#include "eval/kernel_bench.h"

namespace pare::cli {
namespace {

std::string time_text(double seconds) {
  return seconds >= 1e-3 ? fmt::format("{:.3f} ms", seconds * 1e3) : fmt::format("{:.2f} us", seconds * 1e6);
}

nlohmann::ordered_json kernels_json(const KernelReport& r) {
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const KernelLine& l : r.lines) {
    nlohmann::ordered_json line{{"group", l.group},     {"name", l.name},
                                {"seconds", l.seconds}, {"floor_seconds", l.floor_seconds},
                                {"bound", l.bound},     {"ratio", l.ratio()}};
    if (l.peer_seconds > 0.0) line["peer_seconds"] = l.peer_seconds;
    lines.push_back(std::move(line));
  }
  nlohmann::ordered_json out{{"commit", commit()}, {"card", r.card.name}};
  if (!r.peer.empty()) out["peer"] = r.peer;
  out.update({{"multiprocessors", r.card.multiprocessors},
              {"driver", r.card.driver_version},
              {"read_bytes_per_s", r.read_rate},
              {"copy_bytes_per_s", r.copy_rate},
              {"gemm_flop_per_s", r.gemm_rate},
              {"lines", lines}});
  return out;
}

void print_kernels(const KernelReport& r) {
  const bool has_peer =
      std::any_of(r.lines.begin(), r.lines.end(), [](const KernelLine& l) { return l.peer_seconds > 0.0; });
  fmt::print("{}, {}, {} multiprocessors, driver for CUDA {}.{}\n", version_text(), r.card.name, r.card.multiprocessors,
             r.card.driver_version / 1000, r.card.driver_version % 1000 / 10);
  fmt::print("reading {:.0f} GB/s, copying {:.0f} GB/s (read and written), bf16 GEMM {:.0f} TFLOP/s\n",
             r.read_rate * 1e-9, r.copy_rate * 1e-9, r.gemm_rate * 1e-12);
  if (!r.peer.empty()) fmt::print("beside our own: {}, in this process\n", r.peer);
  std::string group;
  for (const KernelLine& l : r.lines) {
    if (l.group != group) {
      group = l.group;
      fmt::print("\n| {} | time | floor | of | ratio |{}\n|---|---|---|---|---|{}\n", group,
                 has_peer ? " cuDNN | ours / cuDNN |" : "", has_peer ? "---|---|" : "");
    }
    fmt::print("| {} | {} | {} | {} | {:.2f} |", l.name, time_text(l.seconds), time_text(l.floor_seconds), l.bound,
               l.ratio());
    if (has_peer && l.peer_seconds > 0.0) {
      fmt::print(" {} | {:.2f} |", time_text(l.peer_seconds), l.seconds / l.peer_seconds);
    } else if (has_peer) {
      fmt::print(" - | - |");
    }
    fmt::print("\n");
  }
}

}  // namespace

Status bench_kernels_command(const KernelsOptions& o, bool json) {
  std::string peer;
  if (!o.peer_file.empty()) {
    PARE_ASSIGN_OR_RETURN(peer, read_text_file(o.peer_file, kMaxJsonBytes));
  }
  PARE_ASSIGN_OR_RETURN(const auto card, ops::accelerator_by_name(o.device));
  if (!card) return invalid_argument("bench kernels measures a card: --device cuda");
  arm_interrupt();
  Progress progress;
  KernelBenchOptions options;
  options.device = card->info().device;
  options.only = o.only;
  int64_t done = 0;
  constexpr int64_t kAbout = 110;  // lines of all groups
  options.next = [&](std::string_view) {
    progress.update("kernels", std::min(++done, kAbout), kAbout, "lines");
    return !interrupted();
  };
  PARE_ASSIGN_OR_RETURN(KernelReport report, bench_kernels(options));
  progress.finish();
  if (report.lines.empty()) {
    return invalid_argument(fmt::format(
        "--only '{}' is in no line (groups: prefill attention, decode attention, small linear, row ops, sampler)",
        o.only));
  }
  if (!peer.empty()) {
    if (Status status = read_peer_kernels(peer, &report); !status.ok()) return at_path(status, o.peer_file);
  }
  if (json) {
    print_json(kernels_json(report));
  } else {
    print_kernels(report);
  }
  return ok_status();
}

}  // namespace pare::cli
