#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "cli/attention_report.h"
#include "cli/bench_report.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/kernel_report.h"
#include "cli/kv_bench_report.h"
#include "cli/machine.h"
#include "cli/peer.h"
#include "eval/bandwidth.h"
#include "eval/model_bench.h"
#include "eval/random_model.h"
#include "io/store.h"
#include "kernels/cpu_level.h"

namespace pare::cli {
namespace {

struct BenchOptions {
  ModelOptions model;
  std::string shape, dtype = "bf16";
  BenchConfig config;
  int repetitions = 5;
  std::string peer, format = "md", lengths, write_gate;
  bool no_stamps = false;
  KernelsOptions kernels;
  KvBenchOptions kv;
};

// What MODEL is called when no model is measured.
constexpr std::string_view kKernels = "kernels", kAttention = "attention", kKv = "kv";

Status check_options(const BenchOptions& o) {
  if (o.config.prompt == 0 && o.config.generate == 0) {
    return invalid_argument("nothing to measure: --prompt and --gen are both 0");
  }
  if (o.model.model.empty() == o.shape.empty()) {
    return invalid_argument("MODEL or --shape: one of the two says what is measured");
  }
  if (!o.shape.empty() && !o.peer.empty()) {
    return invalid_argument("--peer reads a model file, which --shape has not");
  }
  return ok_status();
}

Expected<std::shared_ptr<const LoadedModel>> load_random(const BenchOptions& o) {
  PARE_ASSIGN_OR_RETURN(const ModelShape shape, find_shape(o.shape));
  PARE_ASSIGN_OR_RETURN(auto accelerator, ops::accelerator_by_name(o.model.device));
  const Waiting waiting("making random weights of " + o.shape);
  PARE_ASSIGN_OR_RETURN(const ModelFile file, random_model(shape, *dtype_from_name(o.dtype)));
  ThreadPool pool(o.config.threads);
  return load(file, o.shape, &pool, std::move(accelerator));
}

// The peaks are measured last: their buffers are not the model's.
Status measure_peaks(const LoadedModel& model, BenchReport* report) {
  if (!model.accelerator) {
    report->read_bandwidth = read_bandwidth_bytes_per_s(report->config.threads);
    return ok_status();
  }
  report->card = CardFacts{model.accelerator->info(), model.accelerator->memory()};
  PARE_ASSIGN_OR_RETURN(report->read_bandwidth, model.accelerator->read_bandwidth());
  PARE_ASSIGN_OR_RETURN(report->gemm_rate, model.accelerator->gemm_rate());
  PARE_ASSIGN_OR_RETURN(report->steps->resolution_ns, model.accelerator->clock_step_ns());
  return ok_status();
}

Status bench_model(BenchOptions o, bool json) {
  PARE_RETURN_IF_ERROR(check_options(o));
  o.config.threads = o.model.threads > 0 ? o.model.threads : usable_cpus();
  o.config.attn = o.model.attn;
  o.config.kv = o.model.kv;
  o.config.strict = o.model.strict;
  o.config.step_stamps = !o.no_stamps;
  BenchReport report;
  std::filesystem::path path;
  std::shared_ptr<const LoadedModel> model;
  if (o.shape.empty()) {
    PARE_ASSIGN_OR_RETURN(path, resolve_model(o.model.model));
    PARE_ASSIGN_OR_RETURN(model, load_by_name(o.model.model, o.config.threads, o.model.device));
    report.model = o.model.model;
  } else {
    PARE_ASSIGN_OR_RETURN(model, load_random(o));
    report.model = o.shape;
    report.random_weights = true;
    report.dtype = dtype_name(*dtype_from_name(o.dtype));
  }
  PARE_RETURN_IF_ERROR(check_context(*model, "--prompt and one token", int64_t{o.config.prompt} + 1));
  PARE_RETURN_IF_ERROR(check_context(*model, "--depth, --gen and one token",
                                     std::max<int64_t>(1, o.config.depth) + o.config.generate + 1));
  PARE_ASSIGN_OR_RETURN(const auto runner, ModelBench::create(model, o.config));
  StepTimes steps;
  arm_interrupt();
  Progress progress;
  PARE_RETURN_IF_ERROR(runner->run().status());  // warm-up
  for (int r = 0; r < o.repetitions && !interrupted(); ++r) {
    PARE_ASSIGN_OR_RETURN(const BenchSample sample, runner->run());
    if (o.config.prompt > 0) report.ours.prefill.push_back(sample.prefill_tps);
    if (o.config.generate > 0) report.ours.decode.push_back(sample.decode_tps);
    steps.step_us.insert(steps.step_us.end(), sample.steps.step_us.begin(), sample.steps.step_us.end());
    steps.gap_us.insert(steps.gap_us.end(), sample.steps.gap_us.begin(), sample.steps.gap_us.end());
    if (!o.peer.empty()) {
      PARE_ASSIGN_OR_RETURN(const BenchSample theirs,
                            run_llama_bench(o.peer, path, o.config, model->accelerator != nullptr));
      if (theirs.prefill_tps > 0) report.peer.prefill.push_back(theirs.prefill_tps);
      if (theirs.decode_tps > 0) report.peer.decode.push_back(theirs.decode_tps);
    }
    progress.update("benchmark", r + 1, o.repetitions, "runs");
  }
  progress.finish();
  if (interrupted()) return cancelled("interrupted");

  report.config = o.config;
  report.repetitions = o.repetitions;
  report.has_peer = !o.peer.empty();
  report.attn = runner->engine().attn_spec();
  report.kv = runner->engine().kv_spec();
  report.floor = runner->floor();
  if (model->accelerator) report.steps = StepFigures{spread_of(steps.step_us), spread_of(steps.gap_us)};
  report.stats = runner->engine().stats();
  report.tensor_bytes = model->file_bytes;
  report.peak_rss_bytes = peak_rss_bytes();
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  report.cpu_level = cpu_level_name(level);
  PARE_RETURN_IF_ERROR(measure_peaks(*model, &report));
  if (json) {
    print_json(bench_json(report));
  } else {
    print_bench_table(report);
  }
  return ok_status();
}

Status bench(const BenchOptions& o, bool json) {
  json = json || o.format == "json";
  if (o.model.model == kAttention) {
    if (!o.peer.empty()) return invalid_argument("bench attention measures no model: it takes no --peer");
    return bench_attention_command({.attn = o.model.attn,
                                    .shape = o.shape,
                                    .lengths = o.lengths,
                                    .device = o.model.device,
                                    .threads = o.model.threads,
                                    .repetitions = o.repetitions,
                                    .write_gate = o.write_gate},
                                   json);
  }
  if (o.model.model == kKv) {
    if (!o.peer.empty()) return invalid_argument("bench kv measures no model: it takes no --peer");
    KvBenchOptions kv = o.kv;
    kv.device = o.model.device;
    kv.kv = o.model.kv;
    kv.threads = o.model.threads;
    kv.batch = o.config.parallel;
    if (!o.shape.empty()) kv.shape = o.shape;
    kv.lengths = o.lengths;
    kv.write_gate = o.write_gate;
    return bench_kv_command(kv, json);
  }
  if (!o.lengths.empty()) return invalid_argument("--lengths belongs to `pare bench attention` and `pare bench kv`");
  if (!o.write_gate.empty()) {
    return invalid_argument("--write-gate belongs to `pare bench attention` and `pare bench kv`");
  }
  if (o.model.model != kKernels) {
    if (!o.kernels.only.empty() || !o.kernels.peer_file.empty()) {
      return invalid_argument("--only and --peer-json belong to `pare bench kernels`");
    }
    return bench_model(o, json);
  }
  if (!o.shape.empty() || !o.peer.empty()) {
    return invalid_argument("bench kernels measures no model: it takes neither --shape nor --peer");
  }
  KernelsOptions kernels = o.kernels;
  kernels.device = o.model.device;
  return bench_kernels_command(kernels, json);
}

}  // namespace

void add_bench_command(Commands* commands) {
  auto o = std::make_shared<BenchOptions>();
  CLI::App* app = commands->add("bench", "Measure speed beside the machine's floor and a peer",
                                [o, commands] { return bench(*o, commands->json()); });
  o->model.add_to(app, false);
  app->get_option("MODEL")->required(false);
  std::string shapes;
  for (const ModelShape& s : published_shapes()) shapes += fmt::format("{}{}", shapes.empty() ? "" : ", ", s.name);
  CLI::Option* shape =
      app->add_option("--shape", o->shape, "Instead of MODEL: random weights of a published shape: " + shapes)
          ->type_name("NAME");
  app->add_option("--dtype", o->dtype, "With --shape: the format of every matrix")
      ->check(CLI::IsMember({"bf16", "q4_0", "q4_K", "q8_0"}, CLI::ignore_case))
      ->needs(shape);
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
  app->add_flag("--no-stamps", o->no_stamps, "On a card: steps do not write its clock, to see what that costs");
  app->add_option("--format", o->format, "md: a table for a page; json: as --json")
      ->check(CLI::IsMember({"md", "json"}));
  app->add_option("--lengths", o->lengths, "Lengths to measure, as 1024,4K,1M; --shape is then heads/kv_heads/head_dim")
      ->type_name("LIST")
      ->group("bench attention, bench kv");
  app->add_option("--write-gate", o->write_gate,
                  "A ranking (attention) or mask (kv) file that gets the crossover as min_tokens of this device class")
      ->type_name("FILE")
      ->group("bench attention, bench kv");
  app->add_option("--only", o->kernels.only, "Lines whose \"group: name\" contains this")
      ->type_name("TEXT")
      ->group("bench kernels --device cuda");
  app->add_option("--peer-json", o->kernels.peer_file, "What tools/bench_cudnn.py printed: a column of its times")
      ->type_name("FILE")
      ->group("bench kernels --device cuda");
  app->add_option("--layers", o->kv.layers, "Layers; a mask that --kv names must have as many")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, kMaxLayers))
      ->group("bench kv");
  app->add_option("--rounds", o->kv.repetitions, "Steps of each side, alternating; medians are reported")
      ->type_name("N")
      ->check(CLI::Range(3, 10'000))
      ->group("bench kv");
  app->footer(
      "Prefill and decode are separate runs over random tokens, as in llama-bench; decode starts at --depth. Rates "
      "are\n"
      "tokens per second. The floor of a decode step is the time to read what it must (every weight matrix once, one\n"
      "embedding row a sequence, the KV that it attends) at the read bandwidth that this process measures with the "
      "same\n"
      "threads; the floor ratio is floor over time: 1 is as fast as memory allows. Peak RSS is taken before that\n"
      "measurement, whose buffer is not the model's. On a card, bandwidth and the rate of large bf16 products are the\n"
      "card's, and the prefill line has the share of that rate which products and attention reach.\n"
      "`bench kernels` measures the CUDA kernels one by one: each beside the time that its bytes or products take at "
      "the\n"
      "rates measured in the same run.\n"
      "`bench attention --attn SPEC` measures one layer's attention under the selector and densely, in turn: the "
      "share\n"
      "of query-key pairs kept, and what a pair costs beside one of dense attention (time over pairs; 1: as much).\n"
      "--shape measures without a file: the speed is that of the shape, the weights are random.\n"
      "On a card, decode steps are timed by its own clock too: from a step's first thread to its last draw, and the "
      "gap\n"
      "from there to the next step's first thread.\n"
      "TTFT, time to first token: from the submission of a request to its first token; here --prompt over the prefill\n"
      "rate. ITL, inter-token latency: mean time between the tokens after the first; here --parallel over the decode\n"
      "rate. TPOT, time per output token: the same as ITL, since the first token never counts.\n\n"
      "  pare bench smollm2-135m-instruct\n"
      "  pare bench smollm2-135m-instruct --prompt 0 --gen 128 --depth 2048 --kv \"streaming(sink=4,recent=256)\"\n"
      "  pare bench model.gguf --parallel 8 --json\n"
      "  pare bench --shape llama-3.1-8b --dtype q4_0 --device cuda --depth 32768 --parallel 8\n"
      "  pare bench kernels --device cuda --only prefill\n"
      "  pare bench kv --kv \"leank(mask=mask.json)\" --shape 14/2/64 --layers 24 --lengths 8192,32768\n"
      "  pare bench attention --attn triangle --shape 14/2/64 --lengths 2K,4K,8K");
}

}  // namespace pare::cli
