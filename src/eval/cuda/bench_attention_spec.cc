// bench_attention on a card: the plan of a selector spec beside the dense one, length by length.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "attention/selector.h"
#include "eval/cuda/prefill_bench.h"
#include "eval/model_bench.h"
#include "plan/causal_plan.h"
#include "runtime/policy_files.h"

namespace pare {
namespace cuda {
namespace {

constexpr const char* kGroup = "attention";

// What a selector builds for a whole prompt, out of its arena.
Expected<HostPlan> host_plan(const SelectorSet& selectors, const AttentionShape& shape, int32_t tokens) {
  const size_t bytes = selectors.max_bytes(tokens, 1, kPrefillTileRows);
  PARE_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::allocate(std::max<size_t>(bytes, 64)));
  Arena arena(std::move(buffer));
  SeqStep seq{.q_row = 0, .n_q = tokens, .pos = 0, .prompt_len = tokens};
  seq.heads = static_cast<uint16_t>(shape.heads);
  StepPlans plans;
  PARE_RETURN_IF_ERROR(
      selectors.build({.seqs = {&seq, 1}, .n_heads = shape.heads, .tile_rows = kPrefillTileRows}, arena, plans));
  const BlockPlan& plan = plans.block(0);
  HostPlan host;
  host.tiles.assign(plan.tiles, plan.tiles + *plan.n_tiles);
  int32_t lists = 0, ranges = 0, cols = 0;
  for (const QTile& tile : host.tiles) {
    lists = std::max(lists, tile.list0 + (tile.list_heads == 0 ? 1 : (tile.n_heads - 1) / tile.list_heads + 1));
  }
  host.lists.assign(plan.lists, plan.lists + lists);
  for (const KeyList& list : host.lists) {
    if (list.bit_keys > 0) return unsupported("bitmaps in a bench of one plan");
    ranges = std::max({ranges, list.abs0 + list.n_abs, list.rel0 + list.n_rel});
    cols = std::max(cols, list.col0 + list.n_col);
  }
  if (ranges > 0) host.ranges.assign(plan.ranges, plan.ranges + ranges);
  if (cols > 0) host.cols.assign(plan.cols, plan.cols + cols);
  host.pairs = attended_pairs(plan, {&seq, 1});
  return host;
}

}  // namespace
}  // namespace cuda

Expected<AttentionBench> bench_attention_cuda(const AttentionBenchOptions& o) {
  PARE_ASSIGN_OR_RETURN(const auto card, ops::open_accelerator(o.device));
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec(o.attn, "attn"));
  PARE_ASSIGN_OR_RETURN(const Spec dense_spec, parse_spec("dense", "attn"));
  const std::string device = device_class(card->info());
  PolicyContext context;
  context.device_class = device;
  PARE_ASSIGN_OR_RETURN(const SelectorSet selectors, SelectorSet::make(spec, uniform_layer_map(1), context));
  PARE_ASSIGN_OR_RETURN(const SelectorSet dense, SelectorSet::make(dense_spec, uniform_layer_map(1)));
  PARE_RETURN_IF_ERROR(check_gate_options(o, selectors));
  AttentionBench bench;
  bench.device_class = device;
  bench.attn = selectors.canonical();
  bench.machine = card->info().name;
  bench.shape = o.shape;
  bench.repetitions = o.repetitions;
  KernelReport report;
  report.read_rate = report.copy_rate = 1e15;  // these lines are about arithmetic
  PARE_ASSIGN_OR_RETURN(report.gemm_rate, cuda::measure_gemm_rate());
  bench.gemm_rate = report.gemm_rate;
  KernelBenchOptions kernel_options;
  kernel_options.device = o.device;
  kernel_options.next = o.next;
  PARE_ASSIGN_OR_RETURN(cuda::KernelRun run, cuda::KernelRun::create(kernel_options, &report));
  std::optional<cuda::CudnnAttention> cudnn;
  if ((selectors.plan_flags() & kPlanCudnn) != 0) {
    cuda::CudnnAttention::Limits limits;
    limits.heads = o.shape.heads;
    limits.kv_heads = o.shape.kv_heads;
    limits.head_dim = o.shape.head_dim;
    limits.max_keys = o.lengths.back();
    PARE_ASSIGN_OR_RETURN(cudnn, cuda::CudnnAttention::create(limits));
  }
  for (const int32_t tokens : o.lengths) {
    AttentionBenchLine line;
    line.tokens = tokens;
    line.dense_pairs = 0.5 * tokens * (tokens + 1.0) * o.shape.heads;
    PARE_ASSIGN_OR_RETURN(cuda::HostPlan sparse_plan, cuda::host_plan(selectors, o.shape, tokens));
    if (cudnn) sparse_plan.cudnn = &*cudnn;
    cuda::HostPlan dense_plan;
    if (tokens <= o.dense_max) {
      PARE_ASSIGN_OR_RETURN(dense_plan, cuda::host_plan(dense, o.shape, tokens));
    }
    line.pairs = sparse_plan.pairs;
    const auto seconds = [&](const cuda::HostPlan& plan, const char* what) -> Expected<double> {
      PARE_RETURN_IF_ERROR(cuda::measure_prefill(
          run, cuda::kGroup, fmt::format("{}, {}", what, cuda::tokens_text(tokens)), plan, o.shape, tokens));
      return report.lines.back().seconds;
    };
    std::vector<double> sparse_times, dense_times, ratios;
    for (int32_t r = 0; r < o.repetitions; ++r) {
      PARE_ASSIGN_OR_RETURN(const double once, seconds(sparse_plan, "selector"));
      sparse_times.push_back(once);
      if (tokens > o.dense_max) continue;
      PARE_ASSIGN_OR_RETURN(const double dense_once, seconds(dense_plan, "dense"));
      dense_times.push_back(dense_once);
      ratios.push_back(once / dense_once);
    }
    line.seconds = median(sparse_times);
    if (!ratios.empty()) {
      line.dense_seconds = median(dense_times);
      line.ratio = median(ratios);
    }
    bench.lines.push_back(line);
  }
  fit_slopes(&bench);
  return bench;
}

}  // namespace pare
