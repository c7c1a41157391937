// Decode attention over pruned rows, layer by layer (kernel_run.h).
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "base/checked.h"
#include "eval/cuda/kernel_run.h"
#include "kernels/attention_walk.h"
#include "kernels/cuda/decode_attention.h"

namespace pare::cuda {
namespace {

constexpr int kHeads = 32, kHeadDim = 128, kSinkRows = 128, kRecentRows = 768, kGroup = 32;
constexpr int kOctetRows = kSpanRows * kOctetSpans;
constexpr const char* kGroupName = "pruned decode attention";

// Formats of both zones for one layer, planes side by side in pages of 64 rows.
struct LayerFormats {
  std::vector<RowFormat> formats;  // [zone full, zone mid][K]
  std::vector<Channel> channels;
  uint32_t page_bytes[2] = {};
};
LayerFormats layer_formats(const std::vector<int>& widths, Codec codec) {
  LayerFormats out;
  for (int zone = 0; zone < 2; ++zone) {
    uint64_t at = 0;
    const auto take = [&at](int64_t bytes) { return std::exchange(at, at + static_cast<uint64_t>(bytes)); };
    for (const int width : widths) {
      RowFormat f;
      f.pool = static_cast<uint8_t>(zone);
      f.order = Order::Rows;
      f.k_width = static_cast<uint16_t>(zone == 0 ? kHeadDim : width);
      f.v_width = f.k_width == 0 ? 0 : kHeadDim;
      f.k_codec = f.v_codec = zone == 0 ? Codec::Bf16 : codec;
      f.k_group = f.v_group = kGroup;
      f.k = take(attn::plane_bytes(f.k_codec, int64_t{kPageRows} * f.k_width));
      f.v = take(attn::plane_bytes(f.v_codec, int64_t{kPageRows} * f.v_width));
      if (is_quantized(f.k_codec)) f.ks = take(int64_t{4} * kPageRows / kGroup * f.k_width);
      if (is_quantized(f.v_codec)) f.vs = take(int64_t{4} * kPageRows * f.v_width / kGroup);
      if (f.k_width > 0 && f.k_width < kHeadDim) {
        f.chan = static_cast<int32_t>(out.channels.size());
        for (int c = 0; c < f.k_width; ++c) {
          out.channels.push_back({static_cast<uint16_t>(c * kHeadDim / f.k_width), 1.0f});
        }
      }
      out.formats.push_back(f);
    }
    out.page_bytes[zone] = static_cast<uint32_t>(std::max<uint64_t>(at, 16));
    for (size_t g = 0; g < widths.size(); ++g) out.formats[zone * widths.size() + g].page_bytes = out.page_bytes[zone];
  }
  return out;
}

// The plan of one decode step: three runs a sequence.
struct Plan {
  std::vector<SeqStep> seqs;
  std::vector<Run> runs;
  std::vector<Member> members;
  std::vector<Fold> folds;
  std::vector<int32_t> prefix{0}, ids;
  int32_t n_parts = 0;

  void add_run(int seq, uint8_t zone, int64_t page0, int row0, int rows, int item_spans) {
    Run run{.zone = zone, .page0 = static_cast<uint32_t>(page0), .row0 = row0, .rows = rows, .pos0 = row0};
    run.item_spans = static_cast<uint16_t>(item_spans);
    run.member0 = static_cast<int32_t>(members.size());
    const int unit_rows = item_spans == 1 ? kSpanRows : kOctetRows, item_rows = kSpanRows * item_spans;
    Fold fold{
        .part0 = n_parts, .n_parts = ceil_div(row0 + rows, unit_rows) - row0 / unit_rows, .span0 = row0 / kSpanRows};
    fold.unit = static_cast<uint16_t>(unit_rows / kSpanRows);
    fold.section = zone == kZoneFull ? 0 : 2;
    members.push_back({seq, n_parts});
    folds.push_back(fold);
    n_parts += fold.n_parts;
    prefix.push_back(prefix.back() + ceil_div(row0 + rows, item_rows) - row0 / item_rows);
    runs.push_back(run);
  }
};

// `pages` of each zone exist, of which every sequence has its own.
Plan three_runs(int sequences, int context, int32_t pages_of_full, int32_t pages_of_mid) {
  Plan plan;
  const int from = context - kRecentRows, list = context / kPageRows;
  std::mt19937 random(1);
  std::vector<int32_t> full(pages_of_full), mid(pages_of_mid);
  std::iota(full.begin(), full.end(), 0);
  std::iota(mid.begin(), mid.end(), 0);
  std::shuffle(full.begin(), full.end(), random);
  std::shuffle(mid.begin(), mid.end(), random);
  size_t next_full = 0, next_mid = 0;
  for (int s = 0; s < sequences; ++s) {
    SeqStep seq{
        .q_row = s, .n_q = 1, .pos = context - 1, .prompt_len = 1, .fold0 = static_cast<int32_t>(plan.folds.size())};
    seq.n_folds = 3;
    seq.flags = kSeqDecode;
    plan.seqs.push_back(seq);
    const auto full0 = static_cast<int64_t>(plan.ids.size()), mid0 = full0 + list;
    plan.ids.resize(plan.ids.size() + 2 * static_cast<size_t>(list), 0);
    for (int page = 0; page < list; ++page) {
      const int row = page * kPageRows;
      if (row < kSinkRows || row >= from) plan.ids[full0 + page] = full[next_full++];
      if (row >= kSinkRows && row < from) plan.ids[mid0 + page] = mid[next_mid++];
    }
    plan.add_run(s, kZoneFull, full0, 0, kSinkRows, 1);
    plan.add_run(s, kZoneFull, full0, from, kRecentRows, 1);
    plan.add_run(s, kZoneMid, mid0, kSinkRows, from - kSinkRows, 4 * kOctetSpans);
  }
  return plan;
}

Status measure_layer(KernelRun& run, const PrunedDecode& shape, const std::string& name,
                     const std::vector<int>& widths) {
  const auto kv_heads = static_cast<int32_t>(widths.size());
  const int middle = shape.context - kRecentRows - kSinkRows;
  const int32_t full_pages = shape.sequences * (kSinkRows + kRecentRows) / kPageRows;
  const int32_t mid_pages = shape.sequences * middle / kPageRows;
  const LayerFormats layout = layer_formats(widths, shape.codec);
  const Plan host = three_runs(shape.sequences, shape.context, full_pages, mid_pages);
  // Any bits do as codes and as scales: random bf16 between -1 and 1 are finite fp16 too.
  const auto pool = [&](int zone, int32_t pages) {
    return random_bf16(ceil_div<int64_t>(int64_t{pages} * layout.page_bytes[zone], 2));
  };
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer full, pool(0, full_pages));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer mid, pool(1, mid_pages));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer formats, uploaded(layout.formats));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer channels, uploaded(layout.channels));
  const Zone zone{.page_rows = kPageRows, .span = kSpanRows};
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer zones, uploaded(std::vector<Zone>{zone, zone}));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer ids, uploaded(host.ids));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer seqs, uploaded(host.seqs));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer runs, uploaded(host.runs));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer n_runs,
                        uploaded(std::vector<int32_t>{static_cast<int32_t>(host.runs.size())}));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer prefix, uploaded(host.prefix));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer members, uploaded(host.members));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer folds, uploaded(host.folds));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer parts,
                        zeros(static_cast<size_t>(host.n_parts) * kHeads * (kHeadDim + 2) * 4));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer done, zeros(sizeof(uint32_t) * shape.sequences * kv_heads));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer octet_done,
                        zeros(sizeof(uint32_t) * (host.n_parts / kOctetSpans + 1) * kv_heads));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer q, random_bf16(int64_t{shape.sequences} * kHeads * kHeadDim));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer out, zeros(q.size()));
  SegmentPlan plan;
  plan.runs = runs.as<Run>();
  plan.n_runs = n_runs.as<int32_t>();
  plan.item_prefix = prefix.as<int32_t>();
  plan.members = members.as<Member>();
  plan.folds = folds.as<Fold>();
  plan.parts = parts.as<float>();
  plan.done = done.as<uint32_t>();
  plan.octet_done = octet_done.as<uint32_t>();
  plan.runs_cap = static_cast<int32_t>(host.runs.size());
  plan.items_cap = host.prefix.back();
  plan.parts_cap = host.n_parts;
  AttentionLayer layer;
  layer.kv.pools[0] = full.data();
  layer.kv.pools[1] = mid.data();
  layer.kv.formats = formats.as<RowFormat>();
  layer.kv.zones = zones.as<Zone>();
  layer.kv.channels = layout.channels.empty() ? nullptr : channels.as<Channel>();
  layer.kv.page_ids = ids.as<int32_t>();
  layer.kv.n_kv_layers = 1;
  layer.kv.n_kv_heads = kv_heads;
  layer.kv.head_dim = layer.head_dim = kHeadDim;
  layer.host_formats = layout.formats.data();
  layer.host_mid = layout.formats.data() + kv_heads;
  layer.n_heads = kHeads;
  layer.qa = kHeads / kv_heads;
  layer.scale = 0.1f;
  layer.seqs = seqs.as<SeqStep>();
  layer.n_seqs = layer.n_rows = shape.sequences;
  layer.q = q.data();
  layer.out = out.data();
  double bytes = 0;
  for (int32_t g = 0; g < kv_heads; ++g) {
    bytes += static_cast<double>(attn::row_bytes(layout.formats[g], kSinkRows + kRecentRows));
    if (widths[g] > 0) bytes += static_cast<double>(attn::row_bytes(layout.formats[kv_heads + g], middle));
  }
  return run.measure_in_graph(kGroupName, name, {.read_bytes = bytes * shape.sequences}, 4, [&] {
    return decode_attention(layer, plan, {.query_rows = 1, .overlap_launch = true, .rows_settled = true}, run.stream());
  });
}

}  // namespace

Status bench_pruned_decode(KernelRun& run, const PrunedDecode& shape) {
  const auto name = [&](std::string_view what) {
    return fmt::format("{}, {} x {}: {}", shape.name, shape.sequences, tokens_text(shape.context), what);
  };
  if (!run.wants(kGroupName, name(""))) return ok_status();
  if (shape.context % kPageRows != 0 || shape.context <= kSinkRows + kRecentRows) {
    return invalid_argument(fmt::format("pruned decode: a context of {}", shape.context));
  }
  for (size_t layer = 0; layer < shape.widths.size(); ++layer) {
    PARE_RETURN_IF_ERROR(measure_layer(run, shape, name(fmt::format("layer {}", layer)), shape.widths[layer]));
  }
  run.add_sum(kGroupName, name("all layers"), shape.widths.size());
  PrunedDecode dense = shape;
  dense.codec = Codec::Bf16;
  const size_t kv_heads = shape.widths.empty() ? 8 : shape.widths[0].size();
  return measure_layer(run, dense, name("a dense layer"), std::vector<int>(kv_heads, kHeadDim));
}

}  // namespace pare::cuda
