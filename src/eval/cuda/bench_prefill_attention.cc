// Prefill attention of one layer over one prompt: dense causal, half of the key blocks, sinks and a window.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/checked.h"
#include "eval/cuda/prefill_bench.h"
#include "kernels/cuda/prefill_attention.h"

namespace pare::cuda {
namespace {

constexpr int kHeads = 32, kKvHeads = 8, kTileRows = kPrefillTileRows;
constexpr const char* kGroup = "prefill attention";

// Longest tiles first, all heads, list 0.
HostPlan grid(int rows) {
  HostPlan plan;
  for (int pos = (rows - 1) / kTileRows * kTileRows; pos >= 0; pos -= kTileRows) {
    QTile tile;
    tile.row0 = tile.pos_lo = pos;
    tile.pos_hi = pos + kTileRows;
    tile.rows = kTileRows;
    tile.n_heads = kHeads;
    plan.tiles.push_back(tile);
  }
  return plan;
}

HostPlan dense(int rows) {
  HostPlan plan = grid(rows);
  plan.ranges = {{0, INT32_MAX}};
  plan.lists[0].n_abs = 1;
  plan.pairs = 0.5 * rows * (rows + 1.0) * kHeads;
  return plan;
}

// Blocks of 128 keys, each kept with probability 1/2 for a tile and head; the tile's own always.
HostPlan half_of_blocks(int rows) {
  HostPlan plan = grid(rows);
  plan.lists.clear();
  std::mt19937 rng(7);
  for (QTile& tile : plan.tiles) {
    tile.list0 = static_cast<int32_t>(plan.lists.size());
    tile.list_heads = 1;
    const int own = tile.pos_lo / kTileRows;
    for (int h = 0; h < kHeads; ++h) {
      KeyList list;
      list.bit0 = static_cast<int32_t>(plan.bits.size());
      list.bit_keys = kTileRows;
      plan.bits.resize(plan.bits.size() + own / 32 + 1, 0u);
      uint32_t* words = plan.bits.data() + list.bit0;
      for (int b = 0; b <= own; ++b) {
        if (b < own && rng() % 2 != 0) continue;
        words[b / 32] |= 1u << (b % 32);
        plan.pairs += b < own ? kTileRows * kTileRows : kTileRows * (kTileRows + 1) / 2;
      }
      plan.lists.push_back(list);
    }
  }
  return plan;
}

// The last rows, which decide what is answered, attend everything.
HostPlan sinks_and_window(int rows) {
  constexpr int kSink = 8, kWindow = 512, kLast = 128;
  HostPlan plan = grid(rows);
  plan.ranges = {{0, kSink}, {0, kWindow}, {0, INT32_MAX}};
  KeyList list{.abs0 = 0, .n_abs = 1, .rel0 = 1, .n_rel = 1, .sink = kSink, .window = kWindow};
  list.dense_from = rows - kLast;
  plan.lists = {list, list};
  plan.lists[1].abs0 = 2;
  plan.lists[1].n_rel = 0;
  for (QTile& tile : plan.tiles) tile.list0 = tile.pos_hi > list.dense_from ? 1 : 0;
  for (int i = 0; i < rows; ++i) {
    plan.pairs += kHeads * (i >= list.dense_from ? i + 1.0 : std::min(i + 1.0, double{kSink} + kWindow));
  }
  return plan;
}

Status measure(KernelRun& run, const char* what, HostPlan (*make_plan)(int rows), int rows, int d) {
  const std::string name = fmt::format("{}, {}/{} heads of {}, {}", what, kHeads, kKvHeads, d, tokens_text(rows));
  if (!run.wants(kGroup, name)) return ok_status();
  return measure_prefill(run, kGroup, name, make_plan(rows), {kHeads, kKvHeads, d}, rows);
}

// cuDNN for the last line's dense attention, on rows that are no pages: what any other user of it has. Nothing where it
// has no such kernel.
Status measure_cudnn(KernelRun& run, CudnnGraphs& graphs, int rows, int d) {
  CudnnShape shape{DType::BF16, kHeads, kKvHeads, d, rows, rows};
  shape.scale = 1.0f / std::sqrt(static_cast<float>(d));
  if (const Status made = graphs.prepare(shape); made.code() == StatusCode::kUnsupported) return ok_status();
  const int64_t items = int64_t{rows} * d;
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer q, random_bf16(items * kHeads));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer k, random_bf16(items * kKvHeads));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer v, random_bf16(items * kKvHeads));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer out, zeros(items * kHeads * sizeof(uint16_t)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer workspace, zeros(CudnnGraphs::kWorkspaceBytes));
  return run.measure_peer(fmt::format("cuDNN {}", graphs.version()), [&] {
    return graphs.run(shape, {q.data(), k.data(), v.data(), out.data()}, workspace.data(), run.stream());
  });
}

}  // namespace

Status measure_prefill(KernelRun& run, const std::string& group, const std::string& name, const HostPlan& host,
                       const AttentionShape& shape, int rows) {
  const int d = shape.head_dim, kv_heads = shape.kv_heads;
  const int pages = ceil_div<int>(rows, kPageRows);
  const size_t plane = size_t{kPageRows} * d, page = 2 * plane * kv_heads, row = size_t(shape.heads) * d;
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer pool, random_bf16(static_cast<int64_t>(pages * page)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer q, random_bf16(static_cast<int64_t>(rows * row)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer out, zeros(rows * row * sizeof(uint16_t)));
  std::vector<RowFormat> formats(kv_heads);
  for (int g = 0; g < kv_heads; ++g) {
    RowFormat& f = formats[g];
    f.k = 4 * g * plane;
    f.v = f.k + 2 * plane;
    f.page_bytes = static_cast<uint32_t>(2 * page);
    f.k_width = f.v_width = static_cast<uint16_t>(d);
    f.k_codec = f.v_codec = Codec::Bf16;
    f.order = Order::Rows;
  }
  std::vector<int32_t> ids(pages);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
  const SeqStep seq{.q_row = 0, .n_q = rows, .pos = 0, .prompt_len = rows};
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer formats_device, uploaded(formats));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer ids_device, uploaded(ids));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer seqs, uploaded(std::vector{seq}));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer zones, uploaded(std::vector<Zone>(1)));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer tiles, uploaded(host.tiles));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer n_tiles, uploaded(std::vector{static_cast<int32_t>(host.tiles.size())}));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer lists, uploaded(host.lists));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer ranges, uploaded(host.ranges));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer cols, uploaded(host.cols));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer bits, uploaded(host.bits));
  PARE_ASSIGN_OR_RETURN(const DeviceBuffer workspace, zeros(kPrefillWorkspaceBytes));
  BlockPlan plan;
  plan.tiles = tiles.as<QTile>();
  plan.n_tiles = n_tiles.as<int32_t>();
  plan.lists = lists.as<KeyList>();
  plan.ranges = ranges.as<Range>();
  plan.cols = cols.as<int32_t>();
  plan.bits = bits.as<uint32_t>();
  plan.tiles_cap = static_cast<int32_t>(host.tiles.size());
  plan.tile_rows = kTileRows;
  AttentionLayer layer;
  layer.kv.pools[0] = pool.data();
  layer.kv.formats = formats_device.as<RowFormat>();
  layer.kv.zones = zones.as<Zone>();
  layer.kv.page_ids = ids_device.as<int32_t>();
  layer.kv.n_kv_layers = 1;
  layer.kv.n_kv_heads = kv_heads;
  layer.kv.head_dim = layer.head_dim = d;
  layer.host_formats = formats.data();
  layer.n_heads = shape.heads;
  layer.qa = shape.heads / kv_heads;
  layer.scale = 1.0f / std::sqrt(static_cast<float>(d));
  layer.seqs = seqs.as<SeqStep>();
  layer.n_seqs = 1;
  layer.n_rows = rows;
  layer.q = q.data();
  layer.out = out.data();
  if (host.cudnn != nullptr) {
    return run.measure(group, name, {.flop = 4.0 * d * host.pairs}, [&] {
      return host.cudnn->attend(layer, {&seq, 1}, run.stream());
    });
  }
  // Cards before Hopper have no maps and run the plain kernel.
  const auto map = make_kv_tensor_map(pool.data(), pool.size(), d, DType::BF16);
  if (!map.ok() && map.status().code() != StatusCode::kUnsupported) return map.status();
  return run.measure(group, name, {.flop = 4.0 * d * host.pairs}, [&] {
    return prefill_attention(layer, plan, map.ok() ? &*map : nullptr, workspace.data(), {.plain = !map.ok()},
                             run.stream());
  });
}

Status bench_prefill_attention(KernelRun& run) {
  const auto cudnn = CudnnGraphs::open();
  if (!cudnn.ok() && cudnn.status().code() != StatusCode::kUnsupported) return cudnn.status();
  for (const int d : {128, 64}) {
    for (const int rows : {8192, 32768, 65536, 131072}) {
      const size_t lines = run.lines();
      PARE_RETURN_IF_ERROR(measure(run, "dense", dense, rows, d));
      if (cudnn.ok() && run.lines() > lines) PARE_RETURN_IF_ERROR(measure_cudnn(run, **cudnn, rows, d));
      PARE_RETURN_IF_ERROR(measure(run, "half of the blocks", half_of_blocks, rows, d));
      PARE_RETURN_IF_ERROR(measure(run, "sinks and window", sinks_and_window, rows, d));
    }
  }
  return ok_status();
}

}  // namespace pare::cuda
