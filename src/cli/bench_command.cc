#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/machine.h"
#include "cli/peer.h"
#include "cli/version.h"
#include "eval/bandwidth.h"
#include "eval/model_bench.h"
#include "io/store.h"

namespace pare::cli {
namespace {

struct BenchOptions {
  ModelOptions model;
  BenchConfig config;
  int repetitions = 5;
  std::string peer, format = "md";
};

struct Series {
  std::vector<double> prefill, decode;
};

nlohmann::ordered_json spread(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  return {{"median", median(values)},
          {"min", *std::min_element(values.begin(), values.end())},
          {"max", *std::max_element(values.begin(), values.end())}};
}

std::string figure(const std::vector<double>& values) {
  if (values.empty()) return "-";
  return fmt::format("{:.1f} ({:.1f}-{:.1f})", median(values), *std::min_element(values.begin(), values.end()),
                     *std::max_element(values.begin(), values.end()));
}

Status bench(BenchOptions o, bool json) {
  if (o.config.prompt == 0 && o.config.generate == 0) {
    return invalid_argument("nothing to measure: --prompt and --gen are both 0");
  }
  o.config.threads = o.model.threads > 0 ? o.model.threads : usable_cpus();
  o.config.attn = o.model.attn;
  o.config.kv = o.model.kv;
  PARE_ASSIGN_OR_RETURN(const auto path, resolve_model(o.model.model));
  PARE_ASSIGN_OR_RETURN(const auto model, load_by_name(o.model.model, o.config.threads, o.model.device));
  PARE_RETURN_IF_ERROR(check_context(*model, "--prompt and one token", int64_t{o.config.prompt} + 1));
  PARE_RETURN_IF_ERROR(check_context(*model, "--depth, --gen and one token",
                                     std::max<int64_t>(1, o.config.depth) + o.config.generate + 1));
  PARE_ASSIGN_OR_RETURN(const auto runner, ModelBench::create(model, o.config));
  arm_interrupt();
  Progress progress;
  Series ours, peer;
  PARE_RETURN_IF_ERROR(runner->run().status());  // warm-up
  for (int r = 0; r < o.repetitions && !interrupted(); ++r) {
    PARE_ASSIGN_OR_RETURN(const BenchSample sample, runner->run());
    if (o.config.prompt > 0) ours.prefill.push_back(sample.prefill_tps);
    if (o.config.generate > 0) ours.decode.push_back(sample.decode_tps);
    if (!o.peer.empty()) {
      PARE_ASSIGN_OR_RETURN(const BenchSample theirs, run_llama_bench(o.peer, path, o.config));
      if (theirs.prefill_tps > 0) peer.prefill.push_back(theirs.prefill_tps);
      if (theirs.decode_tps > 0) peer.decode.push_back(theirs.decode_tps);
    }
    progress.update("benchmark", r + 1, o.repetitions, "runs");
  }
  progress.finish();
  if (interrupted()) return cancelled("interrupted");

  // Peaks are measured after the peak of resident memory was read: their buffer is not the model's.
  const int64_t rss = peak_rss_bytes();
  const double bandwidth = read_bandwidth_bytes_per_s(o.config.threads);
  const BenchFloor floor = runner->floor();
  const double steps_per_s = ours.decode.empty() ? 0.0 : median(ours.decode) / o.config.parallel;
  const double floor_steps_per_s = bandwidth / floor.decode_bytes_per_step;
  const double ratio = floor_steps_per_s > 0 ? steps_per_s / floor_steps_per_s : 0.0;
  const double gmacs = ours.prefill.empty() ? 0.0 : median(ours.prefill) * floor.prefill_macs_per_token * 1e-9;
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  const EngineStats stats = runner->engine().stats();

  if (json || o.format == "json") {
    nlohmann::ordered_json object{{"model", o.model.model},
                                  {"tensor_bytes", model->file_bytes},
                                  {"commit", commit()},
                                  {"cpu_level", cpu_level_name(level)},
                                  {"threads", o.config.threads},
                                  {"attn", runner->engine().attn_spec()},
                                  {"kv", runner->engine().kv_spec()},
                                  {"prompt", o.config.prompt},
                                  {"gen", o.config.generate},
                                  {"depth", o.config.depth},
                                  {"parallel", o.config.parallel},
                                  {"repetitions", o.repetitions},
                                  {"prefill_tps", ours.prefill.empty() ? 0.0 : median(ours.prefill)},
                                  {"decode_tps", ours.decode.empty() ? 0.0 : median(ours.decode)},
                                  {"decode_floor_ratio", ratio},
                                  {"prefill_spread", spread(ours.prefill)},
                                  {"decode_spread", spread(ours.decode)},
                                  {"prefill_gmacs_per_s", gmacs},
                                  {"decode_bytes_per_step", floor.decode_bytes_per_step},
                                  {"read_bandwidth_bytes_per_s", bandwidth},
                                  {"peak_rss_bytes", rss},
                                  {"weight_bytes", stats.weight_bytes},
                                  {"workspace_bytes", stats.workspace_bytes},
                                  {"kv_bytes_allocated", stats.kv_bytes_allocated},
                                  {"kv_bytes_per_token", stats.kv_bytes_per_token}};
    if (!o.peer.empty()) {
      object["peer"] = {{"prefill_spread", spread(peer.prefill)}, {"decode_spread", spread(peer.decode)}};
      if (!peer.prefill.empty()) object["prefill_ratio"] = median(ours.prefill) / median(peer.prefill);
      if (!peer.decode.empty()) object["decode_ratio"] = median(ours.decode) / median(peer.decode);
    }
    print_json(object);
    return ok_status();
  }
  fmt::print("{}, {} threads, CPU level {}, attn={}, kv={}\n", version_text(), o.config.threads, cpu_level_name(level),
             runner->engine().attn_spec(), runner->engine().kv_spec());
  fmt::print(
      "read bandwidth {:.1f} GB/s; decode floor {:.1f} MB per step = {:.1f} steps/s; medians (min-max) of {}\n\n",
      bandwidth * 1e-9, floor.decode_bytes_per_step * 1e-6, floor_steps_per_s, o.repetitions);
  fmt::print("| {} | tokens/s | floor ratio | llama.cpp | ratio |\n|---|---|---|---|---|\n", o.model.model);
  const auto against = [](const std::vector<double>& a, const std::vector<double>& b) {
    return a.empty() || b.empty() ? std::string("-") : fmt::format("{:.2f}", median(a) / median(b));
  };
  if (!ours.prefill.empty()) {
    fmt::print("| prefill {} | {} | {:.1f} GMAC/s | {} | {} |\n", o.config.prompt, figure(ours.prefill), gmacs,
               figure(peer.prefill), against(ours.prefill, peer.prefill));
  }
  if (!ours.decode.empty()) {
    fmt::print("| decode {}{}{} | {} | {:.2f} | {} | {} |\n", o.config.generate,
               o.config.depth > 0 ? fmt::format(" at {}", o.config.depth) : "",
               o.config.parallel > 1 ? fmt::format(", {} sequences", o.config.parallel) : "", figure(ours.decode),
               ratio, figure(peer.decode), against(ours.decode, peer.decode));
  }
  fmt::print("\npeak RSS {}, weights {}, workspace {}, KV {} ({} a token)\n", format_bytes(rss),
             format_bytes(stats.weight_bytes), format_bytes(stats.workspace_bytes),
             format_bytes(stats.kv_bytes_allocated), format_bytes(stats.kv_bytes_per_token));
  return ok_status();
}

}  // namespace

void add_bench_command(Commands* commands) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* app = commands->add("bench", "Measure speed beside the machine's floor and a peer",
                                [o, commands] { return bench(*o, commands->json()); });
  o->model.add_to(app, false);
  const auto add = [&](const char* name, int32_t& value, int low, int high, const char* description) {
    app->add_option(name, value, description)->type_name("N")->check(CLI::Range(low, high));
  };
  add("--prompt", o->config.prompt, 0, 1 << 20, "Tokens of the prefill run; 0 leaves it out");
  add("--gen", o->config.generate, 0, 1 << 20,
      "Tokens that each sequence of the decode run generates; 0 leaves it out");
  add("--depth", o->config.depth, 0, 1 << 20, "Tokens in the cache before the decode run");
  add("--parallel", o->config.parallel, 1, 1024, "Sequences that decode together; the rate is that of all of them");
  add("--repetitions", o->repetitions, 1, 1000, "Runs after one warm-up; medians are reported");
  app->add_option("--peer", o->peer, "A llama-bench (tools/build_llama_cpp.sh) to run interleaved on the same file")
      ->type_name("PROGRAM");
  app->add_option("--format", o->format, "md: a table for a page; json: as --json")
      ->check(CLI::IsMember({"md", "json"}));
  app->footer(
      "Prefill and decode are separate runs over random tokens, as in llama-bench; decode starts at --depth. Rates "
      "are\n"
      "tokens per second. The floor of a decode step is the time to read what it must (every weight matrix once, one\n"
      "embedding row a sequence, the KV that it attends) at the read bandwidth that this process measures with the "
      "same\n"
      "threads; the floor ratio is floor over time: 1 is as fast as memory allows. Peak RSS is taken before that\n"
      "measurement, whose buffer is not the model's.\n"
      "TTFT, time to first token: from the submission of a request to its first token; here --prompt over the prefill\n"
      "rate. ITL, inter-token latency: mean time between the tokens after the first; here --parallel over the decode\n"
      "rate. TPOT, time per output token: the same as ITL, since the first token never counts.\n\n"
      "  pare bench smollm2-135m-instruct\n"
      "  pare bench smollm2-135m-instruct --prompt 0 --gen 128 --depth 2048 --kv \"streaming(sink=4,recent=256)\"\n"
      "  pare bench model.gguf --parallel 8 --json");
}

}  // namespace pare::cli
