// Decode attention of one layer, planned as the engine plans it. Layers are rotated, each with pages of its own.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "base/checked.h"
#include "eval/cuda/kernel_run.h"
#include "kernels/cuda/decode_attention.h"
#include "kv/policy.h"
#include "kv/segment_planner.h"
#include "plan/reach.h"
#include "plan/spec.h"

namespace pare::cuda {
namespace {

constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 128;
constexpr const char* kGroup = "decode attention";

// The device's copy of something in a host block that was uploaded as a whole.
template <typename T>
T* on_device(T* host, const AlignedBuffer& block, const DeviceBuffer& copy) {
  if (!host) return nullptr;
  return reinterpret_cast<T*>(copy.data() + (reinterpret_cast<const std::byte*>(host) - block.data()));
}

Status measure(KernelRun& run, int sequences, int context, int32_t multiprocessors) {
  const std::string name =
      fmt::format("{} x {}, {}/{} heads of {}", sequences, tokens_text(context), kHeads, kKvHeads, kHeadDim);
  if (!run.wants(kGroup, name)) return ok_status();
  const int pages = context / kPageRows;
  const size_t plane = size_t{kPageRows} * kHeadDim * sizeof(uint16_t);
  const size_t layer_bytes = 2 * plane * kKvHeads * pages * sequences;
  const int layers = static_cast<int>(std::clamp<size_t>(kRotatedBytes / layer_bytes, 1, 64));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer pool,
                        random_bf16(static_cast<int64_t>(layer_bytes * layers / sizeof(uint16_t))));
  std::vector<RowFormat> formats;
  for (int layer = 0; layer < layers; ++layer) {
    for (int g = 0; g < kKvHeads; ++g) {
      RowFormat f;
      f.k = layer * layer_bytes + 2 * g * plane;
      f.v = f.k + plane;
      f.page_bytes = static_cast<uint32_t>(2 * plane * kKvHeads);
      f.k_width = f.v_width = kHeadDim;
      f.k_codec = f.v_codec = Codec::Bf16;
      f.order = Order::Rows;
      formats.push_back(f);
    }
  }
  std::vector<int32_t> ids(static_cast<size_t>(pages) * sequences);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(1));

  std::vector<SeqStep> seqs;
  for (int s = 0; s < sequences; ++s) {
    SeqStep seq{.q_row = s, .n_q = 1, .pos = context - 1, .prompt_len = 1, .page0 = s * pages};
    seq.flags = kSeqDecode;
    seqs.push_back(seq);
  }
  PARE_ASSIGN_OR_RETURN(const Spec dense, parse_spec("dense", "kv"));
  PARE_ASSIGN_OR_RETURN(const KvPolicyChoice policy, make_kv_policy(dense));
  // Cut as an engine cuts it (runtime/placement.h).
  const SegmentShape shape{kHeads, kKvHeads, kHeadDim, multiprocessors, kCardItemOverhead};
  const PlanBytes bytes = segment_plan_max_bytes(*policy.policy, shape, sequences, sequences, context);
  PARE_ASSIGN_OR_RETURN(AlignedBuffer block, AlignedBuffer::allocate(bytes.tables + 4096));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer parts, zeros(bytes.workspace + 4096));
  Arena tables(block.data(), block.size()), workspace(parts.data(), parts.size());
  SegmentPlan plan;
  PARE_RETURN_IF_ERROR(build_segment_plan(*policy.policy, kNoWindow, shape, seqs, {}, tables, workspace, plan));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer copy, uploaded_bytes(block.data(), block.size()));
  plan.runs = on_device(plan.runs, block, copy);
  plan.n_runs = on_device(plan.n_runs, block, copy);
  plan.item_prefix = on_device(plan.item_prefix, block, copy);
  plan.members = on_device(plan.members, block, copy);
  plan.folds = on_device(plan.folds, block, copy);
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer done, zeros(sizeof(uint32_t) * sequences * kKvHeads));
  plan.done = done.as<uint32_t>();
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer octet_done,
                        zeros(sizeof(uint32_t) * (plan.parts_cap / kOctetSpans + 1) * kKvHeads));
  plan.octet_done = octet_done.as<uint32_t>();

  PARE_ASSIGN_OR_RETURN(const DeviceBuffer formats_device, uploaded(formats));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer zones,
                        uploaded(std::vector<Zone>{{.page_rows = kPageRows, .span = kSpanRows}}));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer ids_device, uploaded(ids));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer seqs_device, uploaded(seqs));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer q, random_bf16(int64_t{sequences} * kHeads * kHeadDim));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer out, zeros(q.size()));
  AttentionLayer layer;
  layer.kv.pools[0] = pool.data();
  layer.kv.formats = formats_device.as<RowFormat>();
  layer.kv.zones = zones.as<Zone>();
  layer.kv.page_ids = ids_device.as<int32_t>();
  layer.kv.n_kv_layers = layers;
  layer.kv.n_kv_heads = kKvHeads;
  layer.kv.head_dim = layer.head_dim = kHeadDim;
  layer.host_formats = formats.data();
  layer.n_heads = kHeads;
  layer.qa = kHeads / kKvHeads;
  layer.scale = 0.1f;
  layer.seqs = seqs_device.as<SeqStep>();
  layer.n_seqs = layer.n_rows = sequences;
  layer.q = q.data();
  layer.out = out.data();
  // As an engine does, once a step, beside the step before.
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer first_jobs, zeros(first_jobs_bytes(multiprocessors)));
  PARE_RETURN_IF_ERROR(resolve_first_jobs(layer, plan, first_jobs.data(), multiprocessors, run.stream()));
  const double kv_bytes = 2.0 * kHeadDim * sizeof(uint16_t) * kKvHeads * context * sequences;
  return run.measure_in_graph(kGroup, name, {.read_bytes = kv_bytes}, std::max(layers, 4), [&] {
    layer.kv_layer = (layer.kv_layer + 1) % layers;
    layer.host_formats = formats.data() + static_cast<size_t>(layer.kv_layer) * kKvHeads;
    return decode_attention(
        layer, plan, {.query_rows = 1, .overlap_launch = true, .rows_settled = true, .first_jobs = first_jobs.data()},
        run.stream());
  });
}

}  // namespace

Status bench_decode_attention(KernelRun& run, int32_t multiprocessors) {
  for (const auto& [sequences, context] : {std::pair{8, 32768}, {8, 131072}, {1, 32768}, {1, 131072}}) {
    PARE_RETURN_IF_ERROR(measure(run, sequences, context, multiprocessors));
  }
  // Widths as masks have them: a few heads whole, many narrow, some gone.
  PrunedDecode pruned{.name = "example mask",
                      .widths = {{128, 0, 32, 16, 64, 0, 32, 48}, {0, 0, 16, 128, 32, 32, 96, 16}}};
  PARE_RETURN_IF_ERROR(bench_pruned_decode(run, pruned));
  pruned.name = "example mask, 4 bits";
  pruned.codec = Codec::I4;
  return bench_pruned_decode(run, pruned);
}

}  // namespace pare::cuda
