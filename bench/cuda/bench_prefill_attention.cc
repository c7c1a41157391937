// Prefill attention: milliseconds of one layer and TFLOP/s (4 D FLOP an attended pair) of dense causal prompts, of
// plans that keep half of the key blocks, of sink + window plans whose last rows are dense, and of single columns and
// diagonal stripes per query head. 32 query heads, 8 KV heads.
//   bench_prefill_attention [part of a case's name [head dimension [rows]]]
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "kernels/cuda/prefill_attention.h"
#include "tensor/cuda/device_memory.h"
#include "timing.h"

namespace pare::cuda::bench {
namespace {

constexpr int kHeads = 32, kKvHeads = 8, kTileRows = 128;

template <typename T>
DeviceBuffer uploaded(const std::vector<T>& host) {
  auto buffer = DeviceBuffer::allocate(std::max<size_t>(16, host.size() * sizeof(T)));
  require(buffer.status());
  require(buffer->upload(host.data(), host.size() * sizeof(T)));
  return std::move(*buffer);
}

// `count` bf16 normals, from a few million that repeat.
DeviceBuffer normals(size_t count, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> some(3'000'017);
  for (uint16_t& x : some) x = float_to_bfloat(normal(rng));
  auto buffer = DeviceBuffer::allocate(count * 2);
  require(buffer.status());
  for (size_t at = 0; at < count; at += some.size()) {
    require(buffer->upload(some.data(), 2 * std::min(some.size(), count - at), 2 * at));
  }
  return std::move(*buffer);
}

struct HostPlan {
  std::vector<QTile> tiles;
  std::vector<KeyList> lists{1};
  std::vector<Range> ranges;
  std::vector<uint32_t> bits;
  std::vector<int32_t> cols;
  double pairs = 0;  // attended (row, key) pairs of all heads
};

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

// Blocks of 128 keys, each kept with probability 1/2 per (tile, head); the tile's own always.
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

HostPlan triangle(int rows) {
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

// A list per query head, for all tiles: 1000 columns, the last 512 distances, and 16 stripes of 128 distances. Counted
// are visited keys, not masked ones.
HostPlan columns_and_stripes(int rows) {
  constexpr int kColumns = 1000, kStripes = 16, kWidth = 128;
  HostPlan plan = grid(rows);
  plan.lists.clear();
  std::mt19937 rng(9);
  for (int h = 0; h < kHeads; ++h) {
    KeyList list;
    list.col0 = static_cast<int32_t>(plan.cols.size());
    for (int c = 0; c < kColumns; ++c)
      plan.cols.push_back(static_cast<int32_t>((c + rng() % 1000 / 1000.0) * rows / kColumns));
    list.n_col = kColumns;
    list.rel0 = static_cast<int32_t>(plan.ranges.size());
    plan.ranges.push_back({0, 512});
    for (int i = 1; i <= kStripes; ++i) {
      const int at = 512 + (rows - 1024) / kStripes * i - static_cast<int>(rng() % 128);
      plan.ranges.push_back({at, at + kWidth});
    }
    list.n_rel = kStripes + 1;
    for (QTile& tile : plan.tiles) {
      tile.list_heads = 1;
      std::vector<bool> granules(tile.pos_hi / kGranuleKeys, false);
      for (int r = 0; r < list.n_rel; ++r) {
        const Range& d = plan.ranges[list.rel0 + r];
        for (int j = std::max(0, tile.pos_lo - d.hi + 1); j < tile.pos_hi - d.lo; ++j)
          granules[j / kGranuleKeys] = true;
      }
      double keys = kGranuleKeys * static_cast<double>(std::count(granules.begin(), granules.end(), true));
      for (int c = 0; c < kColumns; ++c) {
        const int j = plan.cols[list.col0 + c];
        if (j < tile.pos_hi && !granules[j / kGranuleKeys]) ++keys;
      }
      plan.pairs += keys * kTileRows;
    }
    plan.lists.push_back(list);
  }
  return plan;
}

void run(const char* name, const HostPlan& host, int rows, int d) {
  const int pages = rows / kPageRows;
  const size_t plane = size_t{kPageRows} * d, page = 2 * plane * kKvHeads, row = size_t{kHeads} * d;
  const DeviceBuffer pool = normals(pages * page, 1), q = normals(rows * row, 2);
  auto out = DeviceBuffer::allocate(rows * row * 2);
  require(out.status());
  std::vector<RowFormat> formats(kKvHeads);
  for (int g = 0; g < kKvHeads; ++g) {
    RowFormat& f = formats[g];
    f.k = 4 * g * plane;
    f.v = f.k + 2 * plane;
    f.page_bytes = static_cast<uint32_t>(2 * page);
    f.k_width = f.v_width = static_cast<uint16_t>(d);
    f.k_codec = f.v_codec = Codec::Bf16;
    f.order = Order::Rows;
  }
  std::vector<int32_t> ids(pages);
  for (int i = 0; i < pages; ++i) ids[i] = i;
  std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
  SeqStep seq{.q_row = 0, .n_q = rows, .pos = 0, .prompt_len = rows};

  const DeviceBuffer formats_device = uploaded(formats), ids_device = uploaded(ids), seqs = uploaded(std::vector{seq}),
                     zones = uploaded(std::vector<Zone>(1)), tiles = uploaded(host.tiles), lists = uploaded(host.lists),
                     ranges = uploaded(host.ranges), bits = uploaded(host.bits), cols = uploaded(host.cols),
                     n_tiles = uploaded(std::vector{static_cast<int32_t>(host.tiles.size())}),
                     workspace = uploaded(std::vector<uint8_t>(kPrefillWorkspaceBytes, 0));
  BlockPlan plan;
  plan.tiles = tiles.as<QTile>();
  plan.n_tiles = n_tiles.as<int32_t>();
  plan.lists = lists.as<KeyList>();
  plan.ranges = ranges.as<Range>();
  plan.bits = bits.as<uint32_t>();
  plan.cols = cols.as<int32_t>();
  plan.tiles_cap = static_cast<int32_t>(host.tiles.size());
  plan.tile_rows = kTileRows;
  AttentionLayer layer;
  layer.kv.pools[0] = pool.data();
  layer.kv.formats = formats_device.as<RowFormat>();
  layer.kv.zones = zones.as<Zone>();
  layer.kv.page_ids = ids_device.as<int32_t>();
  layer.kv.n_kv_layers = 1;
  layer.kv.n_kv_heads = kKvHeads;
  layer.kv.head_dim = layer.head_dim = d;
  layer.host_formats = formats.data();
  layer.n_heads = kHeads;
  layer.qa = kHeads / kKvHeads;
  layer.scale = 1.0f / std::sqrt(static_cast<float>(d));
  layer.seqs = seqs.as<SeqStep>();
  layer.n_seqs = 1;
  layer.n_rows = rows;
  layer.q = q.data();
  layer.out = out->data();
  const auto map = make_kv_tensor_map(pool.data(), pool.size(), d, DType::BF16);
  require(map.status());
  const double flop = 4.0 * d * host.pairs;
  const int repeats = flop > 5e13 ? 5 : 21;
  const double seconds = median_seconds(
      nullptr, repeats, [&] { require(prefill_attention(layer, plan, &*map, workspace.data(), {}, nullptr)); });
  std::printf("%-16s D %3d %7d rows %9.3f ms %7.1f TFLOP/s\n", name, d, rows, 1e3 * seconds, 1e-12 * flop / seconds);
  std::fflush(stdout);
}

}  // namespace
}  // namespace pare::cuda::bench

int main(int argc, char** argv) {
  using namespace pare::cuda::bench;
  const std::string only = argc > 1 ? argv[1] : "";
  const int only_d = argc > 2 ? std::atoi(argv[2]) : 0, only_rows = argc > 3 ? std::atoi(argv[3]) : 0;
  for (int d : {128, 64}) {
    for (int rows : {8192, 32768, 65536, 131072}) {
      if ((only_d != 0 && only_d != d) || (only_rows != 0 && only_rows != rows)) continue;
      const std::pair<const char*, HostPlan (*)(int)> cases[] = {{"dense", dense},
                                                                 {"half_of_blocks", half_of_blocks},
                                                                 {"triangle", triangle},
                                                                 {"columns", columns_and_stripes}};
      for (const auto& [name, plan] : cases) {
        if (std::string(name).find(only) != std::string::npos) run(name, plan(rows), rows, d);
      }
    }
  }
  return 0;
}
