// A small paged store with one sequence's keys and values, and builders of plans over it, for the attention
// tests. Pages lie shuffled in the pool, and every byte that no test wrote is part of a NaN.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "base/half.h"
#include "kernels/attention.h"
#include "kernels/attention_math.h"

namespace pare::test {

inline float rounded(float x, Codec codec) {
  if (codec == Codec::F16) return half_to_float(float_to_half(x));
  if (codec == Codec::Bf16) return bfloat_to_float(float_to_bfloat(x));
  return x;
}

struct WorldShape {
  int heads = 2, kv_heads = 1, d = 64, rows = 64;
  Codec codec = Codec::F16;
  Order order = Order::Tiles;
  bool tiled_heads = false;  // head map (1, K) instead of (R, 1)
};

// Zones as the kernels see them: full, and whatever a test adds.
class World {
 public:
  explicit World(const WorldShape& s, uint32_t seed = 1) : shape(s), rng_(seed) {
    add_zone(Zone{.page_rows = kPageRows, .span = kSpanRows}, s.rows, s.d);
    const auto row = static_cast<size_t>(s.kv_heads) * s.d;
    k.resize(s.rows * row);
    v.resize(s.rows * row);
    q.resize(static_cast<size_t>(s.rows) * s.heads * s.d);
    for (auto* x : {&k, &v, &q}) fill(*x, 1.0f);
  }

  int group() const { return shape.heads / shape.kv_heads; }
  int kv_head(int h) const { return shape.tiled_heads ? h % shape.kv_heads : h / group(); }
  int random(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi - 1)(rng_); }
  float normal() { return std::normal_distribution<float>()(rng_); }
  void fill(std::vector<float>& x, float sigma) {
    for (float& e : x) e = sigma * normal();
  }

  // A zone of `rows` rows whose K keeps `k_width` channels; returns its index.
  int add_zone(Zone zone, int rows, int k_width, bool log_weights = false, int chan = -1) {
    const int pages = (rows + static_cast<int>(zone.page_rows) - 1) / static_cast<int>(zone.page_rows) + 2;
    const auto bytes = static_cast<uint64_t>(shape.codec == Codec::F32 ? 4 : 2);
    const uint64_t k_bytes = zone.page_rows * static_cast<uint64_t>(k_width) * bytes;
    const uint64_t v_bytes = zone.page_rows * static_cast<uint64_t>(shape.d) * bytes, lw_bytes = zone.page_rows * 4;
    const uint64_t head_bytes = k_bytes + v_bytes + lw_bytes;
    for (int g = 0; g < shape.kv_heads; ++g) {
      RowFormat f;
      f.k = g * head_bytes;
      f.v = f.k + k_bytes;
      if (log_weights) f.lw = f.v + v_bytes;
      f.page_bytes = static_cast<uint32_t>(head_bytes * shape.kv_heads);
      f.k_width = static_cast<uint16_t>(k_width);
      f.v_width = static_cast<uint16_t>(shape.d);
      f.k_codec = f.v_codec = shape.codec;
      f.order = shape.order;
      f.chan = chan;
      f.pool = static_cast<uint8_t>(pools_.size());
      formats.push_back(f);
    }
    add_pages(zone, head_bytes * shape.kv_heads, pages);
    return static_cast<int>(zones_.size()) - 1;
  }

  // A zone whose heads keep rows as `heads` says (k_width, v_width, codecs, groups, order, chan); planes are placed
  // here.
  int add_zone(Zone zone, int rows, std::vector<RowFormat> heads) {
    const int pages = (rows + static_cast<int>(zone.page_rows) - 1) / static_cast<int>(zone.page_rows) + 2;
    uint64_t at = 0;
    const auto take = [&at](uint64_t bytes) {
      const uint64_t begin = at;
      at += (bytes + 15) / 16 * 16;
      return begin;
    };
    for (RowFormat& f : heads) {
      f.k = take(uint64_t{zone.page_rows} * f.k_width * codec_bits(f.k_codec) / 8);
      f.v = take(uint64_t{zone.page_rows} * f.v_width * codec_bits(f.v_codec) / 8);
      f.ks = is_quantized(f.k_codec) ? take(uint64_t{4} * zone.page_rows / f.k_group * f.k_width) : kNoPlane;
      f.vs = is_quantized(f.v_codec) ? take(uint64_t{4} * zone.page_rows * (f.v_width / f.v_group)) : kNoPlane;
      f.pool = static_cast<uint8_t>(pools_.size());
    }
    for (RowFormat& f : heads) f.page_bytes = static_cast<uint32_t>(at);
    formats.insert(formats.end(), heads.begin(), heads.end());
    add_pages(zone, at, pages);
    return static_cast<int>(zones_.size()) - 1;
  }

  // Estimated rows for the heads that zone `mid`, the last one, has no rows of: behind its planes, in its pages.
  int add_sum_zone(int mid) {
    const size_t mid0 = static_cast<size_t>(mid) * shape.kv_heads, pages = page_ids_.size() - page0[mid];
    uint64_t at = formats[mid0].page_bytes;
    std::vector<RowFormat> sums(shape.kv_heads);
    for (int g = 0; g < shape.kv_heads; ++g) {
      if (formats[mid0 + g].v_width != 0) continue;
      RowFormat& f = sums[g];
      f.k = f.v = at;
      at += uint64_t{kSumPageRows} * shape.d * codec_bits(shape.codec) / 8;
      f.lw = at;
      at += kSumPageRows * 4;
      f.v_width = static_cast<uint16_t>(shape.d);
      f.k_codec = f.v_codec = shape.codec;
      f.order = shape.order;
      f.pool = formats[mid0].pool;
    }
    formats.insert(formats.end(), sums.begin(), sums.end());
    for (size_t i = mid0; i < formats.size(); ++i) formats[i].page_bytes = static_cast<uint32_t>(at);
    pools_[formats[mid0].pool].assign(at * pages, std::byte{0xff});
    page0.push_back(page0[mid]);
    zones_.push_back({.page_rows = kSumPageRows, .span = kSpanRows});
    return static_cast<int>(zones_.size()) - 1;
  }

  // Rows [begin, end) of the full zone into the same rows of zone `mid`, and into estimated rows of zone `sum` if there
  // is one.
  void move(const AttentionKernels& kernels, int mid, int begin, int end, int sum = -1) {
    layer();
    std::vector<RowMove> moves;
    for (int row = begin; row < end;) {
      const int page = row / kPageRows, last = std::min(end, (page + 1) * kPageRows);
      moves.push_back({.cls = 0,
                       .src = page_ids_[page0[0] + page],
                       .dst = page_ids_[page0[mid] + page],
                       .row0 = row % kPageRows,
                       .rows = last - row});
      row = last;
    }
    const MoveRowsArgs args{.pools = pool_ptrs_,
                            .full = formats.data(),
                            .mid = formats.data() + mid * shape.kv_heads,
                            .sum = sum < 0 ? nullptr : formats.data() + sum * shape.kv_heads,
                            .channels = channels.data(),
                            .moves = moves.data(),
                            .head_dim = shape.d};
    for (int32_t i = 0; i < static_cast<int32_t>(moves.size()); ++i) {
      for (int32_t g = 0; g < shape.kv_heads; ++g) kernels.move_rows(args, i, g);
    }
  }

  int page_rows(int zone) const { return static_cast<int>(zones_[zone].page_rows); }
  // Where the planes of a zone's row begin, and the row's number in its page.
  const std::byte* page_of(int zone, int g, int row, int* in_page) const {
    const RowFormat& f = formats[zone * shape.kv_heads + g];
    const auto page_rows = static_cast<int>(zones_[zone].page_rows);
    *in_page = row % page_rows;
    return pools_[f.pool].data() + uint64_t{f.page_bytes} * page_ids_[page0[zone] + row / page_rows];
  }

  AttentionLayer layer() {
    AttentionLayer out;
    for (size_t i = 0; i < pools_.size(); ++i) out.kv.pools[i] = pool_ptrs_[i] = pools_[i].data();
    out.kv.formats = formats.data();
    out.kv.zones = zones_.data();
    out.kv.channels = channels.data();
    out.kv.page_ids = page_ids_.data();
    out.kv.n_kv_layers = 1;
    out.kv.n_kv_heads = shape.kv_heads;
    out.kv.head_dim = shape.d;
    out.n_heads = shape.heads;
    out.head_dim = shape.d;
    out.qa = shape.tiled_heads ? 1 : group();
    out.qb = shape.tiled_heads ? shape.kv_heads : 1;
    out.scale = scale;
    out.softcap = softcap;
    out.q = q.data();
    return out;
  }

  // Stores positions [p0, p1) of k and v into the full zone.
  void append(const AttentionKernels& kernels, int p0, int p1) {
    const AttentionLayer l = layer();
    std::vector<int32_t> dst(shape.rows, -1);
    for (int p = p0; p < p1; ++p) dst[p] = l.kv.page_ids[page0[0] + p / kPageRows] * kPageRows + p % kPageRows;
    AppendArgs args{.pools = mutable_pools(),
                    .formats = formats.data(),
                    .k = k.data(),
                    .v = v.data(),
                    .dst = dst.data(),
                    .n_kv_heads = shape.kv_heads,
                    .head_dim = shape.d};
    kernels.append_rows(args, p0, p1);
  }

  // Writes one element of a zone's row (any codec of the tests, Tiles order).
  void put(int zone, int g, int row, const std::vector<float>& key, const std::vector<float>& value, float lw = 0) {
    const RowFormat& f = formats[zone * shape.kv_heads + g];
    const auto page_rows = static_cast<int>(zones_[zone].page_rows);
    const int page = page_ids_[page0[zone] + row / page_rows], r = row % page_rows;
    std::byte* base = pools_[zone].data() + static_cast<uint64_t>(page) * f.page_bytes;
    for (int c = 0; c < f.k_width; ++c) write(f, base + f.k, (r / 16 * f.k_width + c) * 16 + r % 16, key[c]);
    for (int c = 0; c < f.v_width; ++c) write(f, base + f.v, r * f.v_width + c, value[c]);
    if (f.lw != kNoPlane) std::memcpy(base + f.lw + r * 4, &lw, 4);
  }

  // The pool's raw bytes, to compare stores.
  const std::vector<std::byte>& bytes(int zone = 0) const { return pools_[zone]; }

  const float* key(int j, int g) const { return &k[(static_cast<size_t>(j) * shape.kv_heads + g) * shape.d]; }
  const float* value(int j, int g) const { return &v[(static_cast<size_t>(j) * shape.kv_heads + g) * shape.d]; }
  const float* query(int i, int h) const { return &q[(static_cast<size_t>(i) * shape.heads + h) * shape.d]; }

  WorldShape shape;
  float scale = 0.125f, softcap = 0.0f;
  std::vector<float> k, v, q;  // [rows][K][D], [rows][K][D], [rows][H][D], by position
  std::vector<RowFormat> formats;
  std::vector<Channel> channels;
  std::vector<int> page0;

 private:
  void add_pages(const Zone& zone, uint64_t page_bytes, int pages) {
    pools_.emplace_back(page_bytes * pages, std::byte{0xff});
    page0.push_back(static_cast<int>(page_ids_.size()));
    std::vector<int32_t> ids(pages);
    for (int i = 0; i < pages; ++i) ids[i] = i;
    std::shuffle(ids.begin(), ids.end(), rng_);
    page_ids_.insert(page_ids_.end(), ids.begin(), ids.end());
    zones_.push_back(zone);
  }
  void write(const RowFormat& f, std::byte* plane, int index, float x) {
    if (f.k_codec == Codec::F32) {
      std::memcpy(plane + index * 4, &x, 4);
    } else {
      const uint16_t h = float_to_half(x);
      std::memcpy(plane + index * 2, &h, 2);
    }
  }
  std::byte** mutable_pools() { return pool_ptrs_; }

  std::mt19937 rng_;
  std::vector<std::vector<std::byte>> pools_;
  std::byte* pool_ptrs_[8] = {};
  std::vector<Zone> zones_;
  std::vector<int32_t> page_ids_;
};

// One exact or estimated row as the oracle sees it.
struct OracleKey {
  std::vector<float> k, v;
  double lw = 0;
};

// softmax(scale q.k + lw) V in double over the given keys; *tolerance bounds the error of fp32 evaluation in
// any order that sums at most `terms` values in a row: logits are D-long chains, weights follow their
// absolute error, sums their length.
inline std::vector<double> oracle(const std::vector<float>& query, const std::vector<OracleKey>& keys, double scale,
                                  double softcap, int d, double* tolerance) {
  constexpr double u = 0x1p-24;
  std::vector<double> s;
  double logit_error = 0, v_max = 0, best = -std::numeric_limits<double>::infinity();
  for (const OracleKey& key : keys) {
    double dot = 0, magnitude = 0;
    for (size_t c = 0; c < key.k.size(); ++c) {
      dot += static_cast<double>(query[c]) * key.k[c];
      magnitude += std::abs(static_cast<double>(query[c]) * key.k[c]);
    }
    double x = scale * dot;
    if (softcap != 0) x = softcap * std::tanh(x / softcap);
    logit_error = std::max(logit_error, scale * magnitude * u * (static_cast<double>(key.k.size()) + 4));
    logit_error = std::max(logit_error, u * 8 * (std::abs(x) + std::abs(key.lw) + softcap));
    s.push_back(x + key.lw);
    best = std::max(best, s.back());
    for (float e : key.v) v_max = std::max(v_max, std::abs(static_cast<double>(e)));
  }
  std::vector<double> out(d, 0.0);
  double sum = 0;
  for (size_t j = 0; j < keys.size(); ++j) {
    const double p = std::exp(s[j] - best);
    sum += p;
    for (int c = 0; c < d; ++c) out[c] += p * keys[j].v[c];
  }
  for (double& o : out) o = keys.empty() ? 0.0 : o / sum;
  *tolerance = 2 * v_max * (2 * logit_error + u * (64 + 2.0 * static_cast<double>(keys.size()) / 16));
  return out;
}

// Owns what a BlockPlan points at.
struct BlockPlanData {
  std::vector<QTile> tiles;
  std::vector<KeyList> lists;
  std::vector<Range> ranges;
  std::vector<int32_t> cols, row_ids, limit;
  std::vector<uint32_t> bits, claimed;
  int32_t n_tiles = 0;
  uint16_t tile_rows = 16;

  BlockPlan view() {
    n_tiles = static_cast<int32_t>(tiles.size());
    BlockPlan p;
    p.tiles = tiles.data();
    p.n_tiles = &n_tiles;
    p.lists = lists.data();
    p.ranges = ranges.data();
    p.cols = cols.data();
    p.bits = bits.data();
    p.row_ids = row_ids.data();
    p.claimed = claimed.empty() ? nullptr : claimed.data();
    p.limit = limit.empty() ? nullptr : limit.data();
    p.tiles_cap = n_tiles;
    p.tile_rows = tile_rows;
    return p;
  }
};

// Tiles of positions [pos, pos + n) on the absolute grid of tile_rows, all heads, all with list 0.
inline BlockPlanData grid_plan(const World& w, int pos, int n, int tile_rows) {
  BlockPlanData plan;
  plan.tile_rows = static_cast<uint16_t>(tile_rows);
  for (int p = pos; p < pos + n;) {
    const int cell = p / tile_rows * tile_rows, end = std::min(cell + tile_rows, pos + n);
    QTile t;
    t.row0 = p - pos;
    t.pos_lo = cell;
    t.pos_hi = cell + tile_rows;
    t.rows = static_cast<uint16_t>(end - p);
    t.n_heads = static_cast<uint16_t>(w.shape.heads);
    plan.tiles.push_back(t);
    p = end;
  }
  return plan;
}
inline BlockPlanData dense_plan(const World& w, int pos, int n, int tile_rows) {
  BlockPlanData plan = grid_plan(w, pos, n, tile_rows);
  plan.ranges = {{0, INT32_MAX}};
  plan.lists.resize(1);
  plan.lists[0].n_abs = 1;
  return plan;
}

// out [n][H][D] of the rows at positions [pos, pos + n); unwritten rows stay NaN.
inline std::vector<float> run_prefill(World& w, const AttentionKernels& kernels, BlockPlanData& data, int pos, int n,
                                      AttentionCounters* counters = nullptr) {
  AttentionLayer layer = w.layer();
  const size_t row = static_cast<size_t>(w.shape.heads) * w.shape.d;
  std::vector<float> out(n * row, std::numeric_limits<float>::quiet_NaN());
  SeqStep seq{.q_row = 0, .n_q = n, .pos = pos, .prompt_len = pos + n, .page0 = w.page0[0]};
  seq.heads = static_cast<uint16_t>(w.shape.heads);
  layer.seqs = &seq;
  layer.q = w.q.data() + pos * row;
  layer.out = out.data();
  layer.n_rows = n;
  const BlockPlan plan = data.view();
  std::vector<std::byte> block(kernels.prefill_workspace_bytes(plan.tile_rows, w.group(), w.shape.d) + 64);
  auto* workspace = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(block.data()) + 63) / 64 * 64);
  AttentionCounters local;
  for (int32_t t = 0; t < *plan.n_tiles; ++t) {
    for (int32_t g = 0; g < w.shape.kv_heads; ++g) {
      kernels.prefill_tile(layer, plan, t, g, workspace, counters ? counters : &local);
    }
  }
  return out;
}

// Owns what a SegmentPlan points at, for sequences that all read the world's pages.
struct SegmentPlanData {
  std::vector<SeqStep> seqs;
  std::vector<Run> runs;
  std::vector<int32_t> item_prefix{0}, pick_n;
  std::vector<Member> members;
  std::vector<std::vector<Fold>> folds_of;
  std::vector<Fold> folds;
  std::vector<Range> picks;
  std::vector<float> scores, parts;
  int32_t n_runs = 0, n_parts = 0, window = INT32_MAX;

  // A sequence with query rows [q_row, q_row + n_q) at positions pos...
  void add_seq(int q_row, int n_q, int pos, int heads) {
    SeqStep s{.q_row = q_row, .n_q = n_q, .pos = pos};
    s.heads = static_cast<uint16_t>(heads);
    seqs.push_back(s);
    folds_of.emplace_back();
  }
  void add_run(Run run, int span_size, bool picked, const std::vector<int>& of, int section) {
    run.member0 = static_cast<int32_t>(members.size());
    run.n_members = static_cast<uint16_t>(of.size());
    const int per_unit = spans_of_unit(run.item_spans), per_item = units_of_item(run.item_spans);
    const int first = picked ? 0 : run.row0 / span_size;
    const int end = ((picked ? run.pick_cap : run.row0 + run.rows) + span_size - 1) / span_size;
    const int unit0 = first / per_unit, units = (end + per_unit - 1) / per_unit - unit0;
    for (int seq : of) {
      members.push_back({seq, n_parts});
      Fold f{.part0 = n_parts, .n_parts = units, .span0 = first};
      f.unit = static_cast<uint16_t>(per_unit);
      f.section = static_cast<uint16_t>(section);
      folds_of[seq].push_back(f);
      n_parts += units * seqs[seq].n_q;
    }
    item_prefix.push_back(item_prefix.back() + (unit0 + units + per_item - 1) / per_item - unit0 / per_item);
    runs.push_back(run);
  }
  // The folds of all sequences side by side; SeqStep says which are whose.
  void place_folds() {
    folds.clear();
    for (size_t s = 0; s < seqs.size(); ++s) {
      seqs[s].fold0 = static_cast<int32_t>(folds.size());
      seqs[s].n_folds = static_cast<uint16_t>(folds_of[s].size());
      folds.insert(folds.end(), folds_of[s].begin(), folds_of[s].end());
    }
    n_runs = static_cast<int32_t>(runs.size());
  }
  // The plan on the host, its parts NaN. Points into this.
  SegmentPlan view(int heads, int d) {
    place_folds();
    parts.assign(static_cast<size_t>(n_parts) * heads * (d + 2), std::numeric_limits<float>::quiet_NaN());
    SegmentPlan plan;
    plan.runs = runs.data();
    plan.n_runs = &n_runs;
    plan.item_prefix = item_prefix.data();
    plan.members = members.data();
    plan.folds = folds.data();
    plan.picks = picks.data();
    plan.pick_n = pick_n.data();
    plan.scores = scores.data();
    plan.parts = parts.data();
    plan.window = window;
    return plan;
  }
};

// out [total query rows][H][D]; q rows are taken from position `q_pos0` of the world on.
inline std::vector<float> run_decode(World& w, const AttentionKernels& kernels, SegmentPlanData data, int q_pos0,
                                     AttentionCounters* counters = nullptr) {
  AttentionLayer layer = w.layer();
  const size_t row = static_cast<size_t>(w.shape.heads) * w.shape.d;
  int n_rows = 0;
  for (const SeqStep& seq : data.seqs) n_rows = std::max(n_rows, seq.q_row + seq.n_q);
  const SegmentPlan plan = data.view(w.shape.heads, w.shape.d);
  std::vector<float> out(n_rows * row, std::numeric_limits<float>::quiet_NaN());
  layer.seqs = data.seqs.data();
  layer.q = w.q.data() + q_pos0 * row;
  layer.out = out.data();
  layer.n_rows = n_rows;
  std::vector<std::byte> block(kernels.decode_workspace_bytes(kDecodeRowsMax * w.group(), w.shape.d) + 64);
  auto* workspace = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(block.data()) + 63) / 64 * 64);
  AttentionCounters local;
  for (int32_t item = data.item_prefix.back() - 1; item >= 0; --item) {
    for (int32_t g = 0; g < w.shape.kv_heads; ++g) {
      kernels.decode_item(layer, plan, item, g, workspace, counters ? counters : &local);
    }
  }
  for (size_t s = 0; s < data.seqs.size(); ++s) {
    for (int32_t g = 0; g < w.shape.kv_heads; ++g) {
      kernels.decode_fold(layer, plan, static_cast<int32_t>(s), g);
    }
  }
  return out;
}

inline bool same_bits(const float* a, const float* b, size_t n) { return std::memcmp(a, b, n * sizeof(float)) == 0; }
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
}

}  // namespace pare::test
