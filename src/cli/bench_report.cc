#include "cli/bench_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/console.h"
#include "cli/version.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

double median_or_zero(const std::vector<double>& values) { return values.empty() ? 0.0 : median(values); }

Json spread(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  return {{"median", median(values)},
          {"min", *std::min_element(values.begin(), values.end())},
          {"max", *std::max_element(values.begin(), values.end())}};
}

Json spread(const TimeSpread& s) {
  if (s.n == 0) return nullptr;
  return {{"median", s.median}, {"p90", s.p90}, {"max", s.max}, {"n", s.n}};
}

std::string figure(const std::vector<double>& values) {
  if (values.empty()) return "-";
  return fmt::format("{:.1f} ({:.1f}-{:.1f})", median(values), *std::min_element(values.begin(), values.end()),
                     *std::max_element(values.begin(), values.end()));
}

std::string against(const std::vector<double>& a, const std::vector<double>& b) {
  return a.empty() || b.empty() ? std::string("-") : fmt::format("{:.2f}", median(a) / median(b));
}

double prefill_gmacs(const BenchReport& r) {
  return median_or_zero(r.ours.prefill) * r.floor.prefill_macs_per_token * 1e-9;
}

std::string cuda_version(int32_t v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

// How a card's memory is divided.
struct CardMemory {
  int64_t allocated = 0, rest = 0;  // by the allocator; of that, what is neither weights nor KV nor workspace
  int64_t beyond = 0;               // taken since the card was opened beside the allocator
  int64_t before = 0;               // in use when the card had been opened
};
CardMemory card_memory(const BenchReport& r) {
  const CardFacts& card = *r.card;
  CardMemory m;
  m.allocated = card.memory.bytes;
  m.rest = m.allocated - r.stats.weight_bytes - r.stats.kv_bytes_allocated - r.stats.workspace_bytes;
  m.beyond = card.info.memory_free_bytes - card.memory.free_bytes - m.allocated;
  m.before = card.info.memory_bytes - card.info.memory_free_bytes;
  return m;
}

Json card_json(const BenchReport& r) {
  const ops::AcceleratorInfo& info = r.card->info;
  const CardMemory m = card_memory(r);
  return {{"name", info.name},
          {"compute", fmt::format("{}.{}", info.major, info.minor)},
          {"multiprocessors", info.multiprocessors},
          {"driver", cuda_version(info.driver_version)},
          {"runtime", cuda_version(info.runtime_version)},
          {"memory_bytes", info.memory_bytes},
          {"memory_free_bytes", r.card->memory.free_bytes},
          {"allocated_bytes", m.allocated},
          {"allocated_bytes_peak", r.card->memory.bytes_peak},
          {"pinned_bytes", r.card->memory.pinned_bytes},
          {"other_allocated_bytes", m.rest},
          {"beyond_allocator_bytes", m.beyond},
          {"in_use_when_opened_bytes", m.before}};
}

void print_steps(const BenchReport& r) {
  if (!r.steps || r.steps->step_us.n == 0) return;
  const TimeSpread &step = r.steps->step_us, &gap = r.steps->gap_us;
  fmt::print("\ndecode step on the card: median {:.1f} us, p90 {:.1f}, max {:.1f}, {} steps\n", step.median, step.p90,
             step.max, step.n);
  if (gap.n > 0) {
    fmt::print("gap to the next step: median {:.2f} us, p90 {:.2f}, max {:.2f}, {} gaps; the clock moves by {} ns\n",
               gap.median, gap.p90, gap.max, gap.n, r.steps->resolution_ns);
  }
}

void print_memory(const BenchReport& r) {
  const EngineStats& s = r.stats;
  if (!r.card) {
    fmt::print("\npeak RSS {}, weights {}, workspace {}, KV {} ({} a token)\n", format_bytes(r.peak_rss_bytes),
               format_bytes(s.weight_bytes), format_bytes(s.workspace_bytes), format_bytes(s.kv_bytes_allocated),
               format_bytes(s.kv_bytes_per_token));
    return;
  }
  const CardMemory m = card_memory(r);
  fmt::print("\ncard: {} allocated: weights {}, KV {} ({} a token), workspace {}, the rest {}\n",
             format_bytes(m.allocated), format_bytes(s.weight_bytes), format_bytes(s.kv_bytes_allocated),
             format_bytes(s.kv_bytes_per_token), format_bytes(s.workspace_bytes), format_bytes(m.rest));
  fmt::print("free memory of the card fell by {}: {} beyond the allocator (modules, graphs, libraries)\n",
             format_bytes(m.allocated + m.beyond), format_bytes(m.beyond));
  fmt::print("in use once the card was open: {} of {} (context, driver, other processes)\n", format_bytes(m.before),
             format_bytes(r.card->info.memory_bytes));
  fmt::print("host: peak RSS {}, pinned {}\n", format_bytes(r.peak_rss_bytes),
             format_bytes(r.card->memory.pinned_bytes));
}

}  // namespace

double BenchReport::decode_floor_ratio() const {
  const double steps_per_s = median_or_zero(ours.decode) / config.parallel;
  return floor_steps_per_s() > 0.0 ? steps_per_s / floor_steps_per_s() : 0.0;
}

double BenchReport::prefill_flop_per_s() const {
  if (ours.prefill.empty()) return 0.0;
  return median(ours.prefill) * (2.0 * floor.prefill_macs_per_token + floor.prefill_attention_flop / config.prompt);
}

Json bench_json(const BenchReport& r) {
  Json object{{"model", r.model},
              {"weights", r.random_weights ? "random" : "file"},
              {"tensor_bytes", r.tensor_bytes},
              {"commit", commit()},
              {"device", r.card ? fmt::format("cuda:{}", r.card->info.device.index) : "cpu"},
              {"cpu_level", r.cpu_level},
              {"threads", r.config.threads},
              {"attn", r.attn},
              {"kv", r.kv},
              {"strict", r.config.strict},
              {"prompt", r.config.prompt},
              {"gen", r.config.generate},
              {"depth", r.config.depth},
              {"parallel", r.config.parallel},
              {"repetitions", r.repetitions},
              {"prefill_tps", median_or_zero(r.ours.prefill)},
              {"decode_tps", median_or_zero(r.ours.decode)},
              {"decode_floor_ratio", r.decode_floor_ratio()},
              {"prefill_spread", spread(r.ours.prefill)},
              {"decode_spread", spread(r.ours.decode)},
              {"prefill_gmacs_per_s", prefill_gmacs(r)},
              {"prefill_flop_per_s", r.prefill_flop_per_s()},
              {"step_us", r.steps ? spread(r.steps->step_us) : Json(nullptr)},
              {"step_gap_us", r.steps ? spread(r.steps->gap_us) : Json(nullptr)},
              {"step_clock_resolution_ns", r.steps ? Json(r.steps->resolution_ns) : Json(nullptr)},
              {"decode_bytes_per_step", r.floor.decode_bytes_per_step},
              {"read_bandwidth_bytes_per_s", r.read_bandwidth},
              {"peak_rss_bytes", r.peak_rss_bytes},
              {"weight_bytes", r.stats.weight_bytes},
              {"workspace_bytes", r.stats.workspace_bytes},
              {"kv_bytes_allocated", r.stats.kv_bytes_allocated},
              {"kv_bytes_per_token", r.stats.kv_bytes_per_token}};
  if (r.random_weights) object["dtype"] = r.dtype;
  if (r.card) {
    object["card"] = card_json(r);
    object["gemm_flop_per_s"] = r.gemm_rate;
    object["prefill_gemm_ratio"] = r.gemm_rate > 0.0 ? r.prefill_flop_per_s() / r.gemm_rate : 0.0;
  }
  if (r.has_peer) {
    object["peer"] = {{"prefill_spread", spread(r.peer.prefill)}, {"decode_spread", spread(r.peer.decode)}};
    if (!r.peer.prefill.empty()) object["prefill_ratio"] = median(r.ours.prefill) / median(r.peer.prefill);
    if (!r.peer.decode.empty()) object["decode_ratio"] = median(r.ours.decode) / median(r.peer.decode);
  }
  return object;
}

void print_bench_table(const BenchReport& r) {
  const std::string label = r.random_weights ? fmt::format("{}, random weights, {}", r.model, r.dtype) : r.model;
  const std::string policies = fmt::format("attn={}, kv={}{}", r.attn, r.kv, r.config.strict ? ", strict" : "");
  if (r.card) {
    const ops::AcceleratorInfo& info = r.card->info;
    fmt::print("{}, {} (cuda:{}, {} multiprocessors, driver for CUDA {}), {}\n", version_text(), info.name,
               info.device.index, info.multiprocessors, cuda_version(info.driver_version), policies);
    fmt::print("bf16 GEMM {:.0f} TFLOP/s; ", r.gemm_rate * 1e-12);
  } else {
    fmt::print("{}, {} threads, CPU level {}, {}\n", version_text(), r.config.threads, r.cpu_level, policies);
  }
  fmt::print("read bandwidth {:.1f} GB/s; decode floor {:.1f} MB per step = {:.1f} steps/s; medians (min-max) of {}\n",
             r.read_bandwidth * 1e-9, r.floor.decode_bytes_per_step * 1e-6, r.floor_steps_per_s(), r.repetitions);
  if (r.random_weights) fmt::print("random weights: speed only, what they generate means nothing\n");

  fmt::print("\n| {} | tokens/s | floor ratio | llama.cpp | ratio |\n|---|---|---|---|---|\n", label);
  if (!r.ours.prefill.empty()) {
    std::string rate = fmt::format("{:.1f} GMAC/s", prefill_gmacs(r));
    if (r.card) {
      rate = fmt::format("{:.1f} TFLOP/s{}, {:.2f} of GEMM", r.prefill_flop_per_s() * 1e-12,
                         r.floor.prefill_attention_flop > 0.0 ? "" : " without attention",
                         r.prefill_flop_per_s() / r.gemm_rate);
    }
    fmt::print("| prefill {} | {} | {} | {} | {} |\n", r.config.prompt, figure(r.ours.prefill), rate,
               figure(r.peer.prefill), against(r.ours.prefill, r.peer.prefill));
  }
  if (!r.ours.decode.empty()) {
    fmt::print("| decode {}{}{} | {} | {:.2f} | {} | {} |\n", r.config.generate,
               r.config.depth > 0 ? fmt::format(" at {}", r.config.depth) : "",
               r.config.parallel > 1 ? fmt::format(", {} sequences", r.config.parallel) : "", figure(r.ours.decode),
               r.decode_floor_ratio(), figure(r.peer.decode), against(r.ours.decode, r.peer.decode));
  }
  print_steps(r);
  print_memory(r);
}

}  // namespace pare::cli
