// Attention kernels, one thread. Prefill counts the multiply-adds of visible (row, key) pairs, 2 D each; the
// ceiling is the core's fp32 FMA rate (clock x lanes x pipes). Decode counts K and V bytes; `peak` is their
// ratio to the read bandwidth of one core, measured in the same process.
// Triangle compares a layer that reads its prompt through sink and window with a dense one, tile by tile in turn, on
// random keys: `promised` is the speed-up as a part of what the pairs promise, 1 if a pair costs the same in both.
//   bench_attention [--benchmark_filter=Prefill|Decode|Triangle]
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <vector>

#include "base/arena.h"
#include "base/half.h"
#include "base/rng.h"
#include "kernels/attention.h"

namespace pare {
namespace {

// Processor seconds, as the library's rates use: on a shared machine both sides of a ratio lose the same
// share.
double seconds(const auto& body) {
  const std::clock_t start = std::clock();
  body();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// Bytes per second that one core reads from memory: the best of five sums over 512 MiB, four streams at once.
double read_bandwidth() {
  static const double rate = [] {
    constexpr size_t kStreams = 4, kWords = (size_t{64} << 20) / kStreams;
    std::vector<uint64_t> data(kStreams * kWords, 1);
    double best = 0;
    for (int pass = 0; pass < 5; ++pass) {
      uint64_t sums[kStreams][8] = {};
      const double t = seconds([&] {
        for (size_t i = 0; i < kWords; i += 8) {
          for (size_t s = 0; s < kStreams; ++s) {
            for (size_t k = 0; k < 8; ++k) sums[s][k] += data[s * kWords + i + k];
          }
        }
      });
      benchmark::DoNotOptimize(sums);
      best = std::max(best, static_cast<double>(data.size()) * 8 / t);
    }
    return best;
  }();
  return rate;
}

// How a store keeps its rows. k_width below D: every second channel, or as many as fit.
struct Kept {
  int k_width = 0;  // 0: all D, without a channel list
  Codec k = Codec::F16, v = Codec::F16;
};

// A store of one sequence: grouped heads, tiles, pages in order.
struct Store {
  Store(int rows_, int group_, int kv_heads_, int d_, const Kept& kept = {})
      : rows(rows_), group(group_), kv_heads(kv_heads_), d(d_) {
    constexpr int kScaleRows = 32, kScaleChannels = 32;
    const int pages = (rows + kPageRows - 1) / kPageRows, k_width = kept.k_width == 0 ? d : kept.k_width;
    const auto plane = [](int width, Codec codec) { return uint64_t{kPageRows} * width * codec_bits(codec) / 8; };
    const uint64_t k_bytes = plane(k_width, kept.k), v_bytes = plane(d, kept.v);
    const uint64_t ks_bytes = is_quantized(kept.k) ? uint64_t{4} * kPageRows / kScaleRows * k_width : 0;
    const uint64_t vs_bytes = is_quantized(kept.v) ? uint64_t{4} * kPageRows * d / kScaleChannels : 0;
    const uint64_t head_bytes = k_bytes + v_bytes + ks_bytes + vs_bytes;
    for (int g = 0; g < kv_heads; ++g) {
      RowFormat f;
      f.k = g * head_bytes;
      f.v = f.k + k_bytes;
      f.ks = f.v + v_bytes;
      f.vs = f.ks + ks_bytes;
      f.page_bytes = static_cast<uint32_t>(head_bytes * kv_heads);
      f.k_width = static_cast<uint16_t>(k_width);
      f.v_width = static_cast<uint16_t>(d);
      f.k_group = kScaleRows;
      f.v_group = kScaleChannels;
      f.k_codec = kept.k;
      f.v_codec = kept.v;
      f.chan = kept.k_width == 0 ? -1 : 0;
      formats.push_back(f);
    }
    for (int c = 0; c < k_width; ++c) channels.push_back({static_cast<uint16_t>(c * d / k_width), 1.0f});
    pool.assign(head_bytes * kv_heads * pages, std::byte{0x1c});  // every fp16 is 0.00401
    for (int i = 0; i < pages; ++i) page_ids.push_back(i);
    q.resize(static_cast<size_t>(rows) * group * kv_heads * d);
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(i * 2654435761u % 1000) * 1e-3f;
    out.resize(q.size());
    layer.kv.pools[0] = pool.data();
    layer.kv.formats = formats.data();
    layer.kv.zones = &zone;
    layer.kv.channels = channels.data();
    layer.kv.page_ids = page_ids.data();
    layer.kv.n_kv_layers = 1;
    layer.kv.n_kv_heads = kv_heads;
    layer.kv.head_dim = d;
    layer.n_heads = group * kv_heads;
    layer.head_dim = d;
    layer.qa = group;
    layer.scale = 0.125f;
    layer.seqs = &seq;
    layer.q = q.data();
    layer.out = out.data();
  }
  int rows, group, kv_heads, d;
  Zone zone;
  SeqStep seq;
  AttentionLayer layer;
  std::vector<RowFormat> formats;
  std::vector<Channel> channels;
  std::vector<std::byte> pool;
  std::vector<int32_t> page_ids;
  std::vector<float> q, out;
};

CpuLevel level_of(int64_t arg) { return static_cast<CpuLevel>(arg); }

// Dense causal prefill of one prompt. Arguments: level, tokens, R, D, tile rows (0: preferred).
void Prefill(benchmark::State& state) {
  const CpuLevel level = level_of(state.range(0));
  if (level > detected_cpu_level()) return state.SkipWithError("no such CPU level here");
  const int tokens = static_cast<int>(state.range(1)), group = static_cast<int>(state.range(2));
  const int d = static_cast<int>(state.range(3));
  const int tile_rows = state.range(4) ? static_cast<int>(state.range(4)) : preferred_tile_rows(level, group, d);
  Store store(tokens, group, 1, d);
  store.seq = {.q_row = 0, .n_q = tokens, .pos = 0, .prompt_len = tokens};
  const Range all{0, INT32_MAX};
  KeyList list;
  list.n_abs = 1;
  std::vector<QTile> tiles;
  for (int p = 0; p < tokens; p += tile_rows) {
    QTile t{.row0 = p, .pos_lo = p, .pos_hi = p + tile_rows};
    t.rows = static_cast<uint16_t>(std::min(tile_rows, tokens - p));
    t.n_heads = static_cast<uint16_t>(group);
    tiles.push_back(t);
  }
  const auto n_tiles = static_cast<int32_t>(tiles.size());
  BlockPlan plan;
  plan.tiles = tiles.data();
  plan.n_tiles = &n_tiles;
  plan.lists = &list;
  plan.ranges = &all;
  plan.tile_rows = static_cast<uint16_t>(tile_rows);
  const AttentionKernels& kernels = attention_kernels(level);
  auto workspace = AlignedBuffer::allocate(kernels.prefill_workspace_bytes(tile_rows, group, d));
  AttentionCounters counters;
  for (auto _ : state) {
    for (int32_t t = 0; t < n_tiles; ++t) kernels.prefill_tile(store.layer, plan, t, 0, workspace->data(), &counters);
  }
  state.counters["GMAC/s"] =
      benchmark::Counter(2.0 * d * static_cast<double>(counters.keys_visited) * 1e-9, benchmark::Counter::kIsRate);
}

// Prefill of one prompt as triangle(sink=8,window=512,last=128) and, in turn, of an even sample of its tiles densely.
// Arguments: level, tokens, R, D.
void Triangle(benchmark::State& state) {
  const CpuLevel level = level_of(state.range(0));
  if (level > detected_cpu_level()) return state.SkipWithError("no such CPU level here");
  constexpr int kSink = 8, kWindow = 512, kLast = 128, kSample = 2048;
  const int tokens = static_cast<int>(state.range(1)), group = static_cast<int>(state.range(2));
  const int d = static_cast<int>(state.range(3)), tile_rows = preferred_tile_rows(level, group, d);
  Store store(tokens, group, 1, d);
  store.seq = {.q_row = 0, .n_q = tokens, .pos = 0, .prompt_len = tokens};
  Philox rng(1);
  for (float& x : store.q) x = rng.normal();
  for (size_t i = 0; i + 1 < store.pool.size(); i += 2) {
    const uint16_t half = float_to_half(rng.normal());
    std::memcpy(&store.pool[i], &half, 2);
  }
  const Range ranges[] = {{0, INT32_MAX}, {0, kSink}, {0, kWindow}};
  const KeyList dense{.n_abs = 1};
  const KeyList lists[] = {dense, {.abs0 = 1, .n_abs = 1, .rel0 = 2, .n_rel = 1, .sink = kSink, .window = kWindow}};
  std::vector<QTile> tiles[2];  // all dense; those before the last rows not
  for (int p = 0; p < tokens; p += tile_rows) {
    QTile t{.row0 = p, .pos_lo = p, .pos_hi = p + tile_rows};
    t.rows = static_cast<uint16_t>(std::min(tile_rows, tokens - p));
    t.n_heads = static_cast<uint16_t>(group);
    tiles[0].push_back(t);
    t.list0 = p + tile_rows <= tokens - kLast ? 1 : 0;
    tiles[1].push_back(t);
  }
  const auto n_tiles = static_cast<int32_t>(tiles[0].size());
  const int every = std::max(1, tokens / kSample);
  BlockPlan plan[2];
  for (int i = 0; i < 2; ++i) {
    plan[i].tiles = tiles[i].data();
    plan[i].n_tiles = &n_tiles;
    plan[i].lists = lists;
    plan[i].ranges = ranges;
    plan[i].tile_rows = static_cast<uint16_t>(tile_rows);
  }
  const AttentionKernels& kernels = attention_kernels(level);
  auto workspace = AlignedBuffer::allocate(kernels.prefill_workspace_bytes(tile_rows, group, d));
  AttentionCounters counters[2];
  double time[2] = {};
  int round = 0;
  for (auto _ : state) {
    for (int32_t t = 0; t < n_tiles; ++t) {
      for (int i = 0; i < 2; ++i) {
        if (i == 0 && (t + round) % every != 0) continue;
        time[i] += seconds([&] { kernels.prefill_tile(store.layer, plan[i], t, 0, workspace->data(), &counters[i]); });
      }
    }
    ++round;
  }
  double pair[2];
  for (int i = 0; i < 2; ++i) pair[i] = time[i] / static_cast<double>(counters[i].keys_visited);
  state.counters["dense ns"] = pair[0] * 1e9;
  state.counters["triangle ns"] = pair[1] * 1e9;
  state.counters["promised"] = pair[0] / pair[1];
}

// One decode step of one sequence, cold: the store is larger than the caches. Arguments: level, rows, R, D,
// items' spans.
void decode(benchmark::State& state, const Kept& kept) {
  const CpuLevel level = level_of(state.range(0));
  if (level > detected_cpu_level()) return state.SkipWithError("no such CPU level here");
  const int rows = static_cast<int>(state.range(1)), group = static_cast<int>(state.range(2));
  const int d = static_cast<int>(state.range(3)), item_spans = static_cast<int>(state.range(4));
  const int kv_heads = std::max<int>(1, static_cast<int>((int64_t{256} << 20) / (int64_t{4} * d * rows)));
  Store store(rows, group, kv_heads, d, kept);
  store.seq = {.q_row = 0, .n_q = 1, .pos = rows - 1};
  Run run{.rows = rows};
  run.item_spans = static_cast<uint16_t>(item_spans);
  const int per_item = kSpanRows * item_spans, unit_rows = item_spans == 1 ? kSpanRows : kSpanRows * kOctetSpans;
  const int32_t n_runs = 1, items[] = {0, (rows + per_item - 1) / per_item};
  const Member member{0, 0};
  Fold fold{.n_parts = (rows + unit_rows - 1) / unit_rows};
  fold.unit = static_cast<uint16_t>(unit_rows / kSpanRows);
  store.seq.n_folds = 1;
  std::vector<float> parts(static_cast<size_t>(fold.n_parts) * kv_heads * group * (d + 2));
  SegmentPlan plan;
  plan.runs = &run;
  plan.n_runs = &n_runs;
  plan.item_prefix = items;
  plan.members = &member;
  plan.folds = &fold;
  plan.parts = parts.data();
  const AttentionKernels& kernels = attention_kernels(level);
  auto workspace = AlignedBuffer::allocate(kernels.decode_workspace_bytes(kDecodeRowsMax * group, d));
  AttentionCounters counters;
  for (auto _ : state) {
    for (int32_t item = 0; item < items[1]; ++item) {
      for (int32_t g = 0; g < kv_heads; ++g) {
        kernels.decode_item(store.layer, plan, item, g, workspace->data(), &counters);
      }
    }
    for (int32_t g = 0; g < kv_heads; ++g) kernels.decode_fold(store.layer, plan, 0, g);
  }
  const double bytes = static_cast<double>(counters.bytes_read);
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsRate);
  state.counters["peak"] = benchmark::Counter(bytes / read_bandwidth(), benchmark::Counter::kIsRate);
}

void Decode(benchmark::State& state) { decode(state, {}); }
// As Decode, with kept K channels (0: all), K codec and V codec after the other arguments. Compare times, best with
// --benchmark_enable_random_interleaving=true --benchmark_repetitions=9.
void KeptRows(benchmark::State& state) {
  decode(state, {.k_width = static_cast<int>(state.range(5)),
                 .k = static_cast<Codec>(state.range(6)),
                 .v = static_cast<Codec>(state.range(7))});
}

constexpr int64_t kAvx2 = static_cast<int64_t>(CpuLevel::kAvx2), kAvx512 = static_cast<int64_t>(CpuLevel::kAvx512);

void prefill_shapes(benchmark::internal::Benchmark* b) {
  for (int64_t level : {kAvx2, kAvx512}) {
    for (int64_t tokens : {512, 4096}) {
      b->Args({level, tokens, 3, 64, 0})->Args({level, tokens, 7, 64, 0});
      b->Args({level, tokens, 6, 128, 0})->Args({level, tokens, 4, 256, 0});
    }
  }
  for (int64_t tile_rows : {16, 32, 64, 128}) {
    for (int64_t level : {kAvx2, kAvx512}) {
      b->Args({level, 1024, 3, 64, tile_rows})->Args({level, 1024, 6, 128, tile_rows});
      b->Args({level, 1024, 1, 64, tile_rows})->Args({level, 1024, 4, 256, tile_rows});
    }
  }
}
BENCHMARK(Prefill)->Apply(prefill_shapes)->Unit(benchmark::kMillisecond);

void triangle_shapes(benchmark::internal::Benchmark* b) {
  for (int64_t level : {kAvx2, kAvx512}) {
    for (int64_t tokens : {8192, 16'384, 32'768}) b->Args({level, tokens, 7, 64});
  }
}
BENCHMARK(Triangle)->Apply(triangle_shapes)->Unit(benchmark::kMillisecond);

void decode_shapes(benchmark::internal::Benchmark* b) {
  for (int64_t level : {kAvx2, kAvx512}) {
    for (int64_t spans : {1, 8}) {
      b->Args({level, 4096, 1, 64, spans})->Args({level, 4096, 3, 64, spans})->Args({level, 4096, 7, 64, spans});
      b->Args({level, 4096, 6, 128, spans})->Args({level, 4096, 4, 256, spans});
    }
  }
}
BENCHMARK(Decode)->Apply(decode_shapes)->Unit(benchmark::kMillisecond);

void kept_shapes(benchmark::internal::Benchmark* b) {
  constexpr auto kF16 = static_cast<int64_t>(Codec::F16), kI8 = static_cast<int64_t>(Codec::I8);
  constexpr auto kI4 = static_cast<int64_t>(Codec::I4), kI2 = static_cast<int64_t>(Codec::I2);
  for (int64_t level : {kAvx2, kAvx512}) {
    for (const auto& [group, d] : {std::pair{6, 128}, {3, 64}}) {
      for (int64_t eighths : {0, 1, 2, 4, 6}) {
        const int64_t width = d * eighths / 8;
        if (width % 16 == 0) b->Args({level, 4096, group, d, 8, width, kF16, kF16});
      }
      for (int64_t codec : {kI8, kI4, kI2}) b->Args({level, 4096, group, d, 8, 0, codec, codec});
      b->Args({level, 4096, group, d, 8, d / 4, kI4, kI4});
      b->Args({level, 4096, group, d, 8, d / 4, kF16, kI4});
    }
  }
}
BENCHMARK(KeptRows)->Apply(kept_shapes)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace pare

BENCHMARK_MAIN();
