#include "kernels/ref/attention_ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention_math.h"
#include "kernels/attention_walk.h"
#include "kernels/ref/stored_rows.h"

namespace pare::ref {
namespace {

using attn::kMaxStateDim;
using attn::kNegInf;
using attn::QueryRow;

float exp2_poly(float x) {
  if (x < attn::kExp2Min) return 0.0f;
  const float shifted = x + attn::kRoundToInt;
  const float f = x - (shifted - attn::kRoundToInt);
  float p = attn::kExp2Poly[5];
  for (int i = 4; i >= 0; --i) p = std::fma(p, f, attn::kExp2Poly[i]);
  p = std::fma(p, f, 1.0f);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}

float larger(float a, float b) { return a > b ? a : b; }

void merge_state(float* dst, const float* src, int32_t d) {
  if (src[1] == 0.0f) return;
  if (dst[1] == 0.0f) {
    std::memcpy(dst, src, sizeof(float) * (d + 2));
    return;
  }
  const float m = larger(dst[0], src[0]);
  const float a = exp2_poly(dst[0] - m), b = exp2_poly(src[0] - m);
  dst[0] = m;
  for (int32_t i = 1; i < d + 2; ++i) dst[i] = std::fma(src[i], b, dst[i] * a);
}

void finish_state(const float* state, float* out, int32_t d) {
  const float inverse = state[1] == 0.0f ? 0.0f : 1.0f / state[1];
  for (int32_t c = 0; c < d; ++c) out[c] = state[1] == 0.0f ? 0.0f : state[2 + c] * inverse;
}

// One query row reading one zone.
struct Reader {
  const AttentionLayer& layer;
  const RowFormat& format;
  const Zone& zone;
  const int32_t* pages;
  float q[kMaxStateDim];

  void load_query(const QueryRow& row) {
    const float* src = layer.q + (static_cast<int64_t>(row.t) * layer.n_heads + row.head) * layer.head_dim;
    const float factor = attn::query_factor(layer, attn::kLog2e);
    for (int32_t c = 0; c < format.k_width; ++c) {
      if (format.chan < 0) {
        q[c] = src[c] * factor;
      } else {
        const Channel& channel = layer.kv.channels[format.chan + c];
        q[c] = (src[channel.id] * channel.alpha) * factor;
      }
    }
  }

  const std::byte* page(int32_t row) const {
    return attn::page_base(layer.kv, format, pages[row / static_cast<int32_t>(zone.page_rows)]);
  }

  float logit(int32_t row) const {
    const int32_t in_page = row % static_cast<int32_t>(zone.page_rows);
    float s = 0.0f;
    for (int32_t c = 0; c < format.k_width; ++c) {
      s = std::fma(q[c], load_k(format, page(row), in_page, c), s);
    }
    if (layer.softcap != 0.0f) {
      const float bounded = larger(attn::kExp2Min, s > -attn::kExp2Min ? -attn::kExp2Min : s);
      s = (layer.softcap * attn::kLog2e) * (1.0f - 2.0f / (exp2_poly(bounded) + 1.0f));
    }
    if (format.lw != kNoPlane) s = std::fma(load_plain(Codec::F32, page(row) + format.lw, in_page), attn::kLog2e, s);
    return s;
  }

  float value(int32_t row, int32_t c) const {
    return load_v(format, zone.page_rows, page(row), row % static_cast<int32_t>(zone.page_rows), c);
  }
};

struct Key {
  int32_t row = -1;  // zone row; -1: masked
  float s = kNegInf;
};

// One block of 64 slots.
void attend_block(const Reader& reader, const Key (&keys)[kBlockKeys], float* state, int32_t d) {
  float m = state[0], p[kBlockKeys], lanes[16];
  for (const Key& key : keys) {
    if (key.row >= 0) m = larger(key.s, m);
  }
#ifdef PARE_FAULT_ATTENTION_ORACLE_RESCALE
  const float a = 1.0f;
#else
  const float a = m == state[0] ? 1.0f : exp2_poly(state[0] - m);
#endif
  const float base = m == kNegInf ? 0.0f : m;
  for (int32_t j = 0; j < kBlockKeys; ++j) p[j] = keys[j].row < 0 ? 0.0f : exp2_poly(keys[j].s - base);
  for (int32_t lane = 0; lane < 16; ++lane) lanes[lane] = ((p[lane] + p[lane + 16]) + p[lane + 32]) + p[lane + 48];
  for (int32_t half = 8; half > 0; half /= 2) {
    for (int32_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  state[0] = m;
  state[1] = std::fma(state[1], a, lanes[0]);
  for (int32_t c = 0; c < d; ++c) {
    float o = state[2 + c] * a + 0.0f;
    for (int32_t j = 0; j < kBlockKeys; ++j) {
      if (keys[j].row >= 0) o = std::fma(p[j], reader.value(keys[j].row, c), o);
    }
    state[2 + c] = o;
  }
}

void clear_state(float* state, int32_t d) {
  state[0] = kNegInf;
  std::fill(state + 1, state + d + 2, 0.0f);
}

// Folds blocks into spans, octets and sections as they come, in ascending order within a section.
class SectionFold {
 public:
  explicit SectionFold(int32_t d) : d_(d) {
    clear_state(span_, d);
    clear_state(octet_, d);
    clear_state(section_, d);
  }
  float* span_state(int64_t span) {
    if (span != at_) {
      end_span();
      if (at_ >= 0 && span / kOctetSpans != at_ / kOctetSpans) end_octet();
      at_ = span;
    }
    return span_;
  }
  void end(float* row) {
    end_span();
    end_octet();
    merge_state(row, section_, d_);
  }

 private:
  void end_span() {
    merge_state(octet_, span_, d_);
    clear_state(span_, d_);
  }
  void end_octet() {
    merge_state(section_, octet_, d_);
    clear_state(octet_, d_);
  }
  int32_t d_;
  int64_t at_ = -1;
  float span_[kMaxStateDim + 2], octet_[kMaxStateDim + 2], section_[kMaxStateDim + 2];
};

void count_rows(const RowFormat& format, uint64_t rows, AttentionCounters* counters) {
  counters->keys_visited += rows;
  counters->rows_read += rows;
  counters->bytes_read += attn::row_bytes(format, rows);
}

void prefill_row(const AttentionLayer& layer, const BlockPlan& plan, const QTile& tile, const KeyList& list,
                 const QueryRow& row, Reader& reader, AttentionCounters* counters) {
  const int32_t d = layer.head_dim;
  const attn::Visibility vis{.lo = 0, .sink = list.sink, .window = list.window, .dense_from = list.dense_from};
  reader.load_query(row);
  float total[kMaxStateDim + 2];
  clear_state(total, d);
  uint64_t attended = 0;

  SectionFold full(d);
  attn::KeyWalk walk(plan, list, tile, row.limit);
  int32_t block;
  uint32_t granules;
  while (walk.next(&block, &granules)) {
    Key keys[kBlockKeys];
    for (int32_t k = 0; k < kBlockKeys; ++k) {
      const int32_t j = block * kBlockKeys + k;
      if (((granules >> (k / kGranuleKeys)) & 1u) == 0 || !attn::sees(vis, row, j)) continue;
      keys[k] = {j, reader.logit(j)};
      ++attended;
    }
    attend_block(reader, keys, full.span_state(block / (kSpanRows / kBlockKeys)), d);
  }
  full.end(total);

  SectionFold columns(d);
  for (int32_t first = 0; first < list.n_col; first += kBlockKeys) {
    Key keys[kBlockKeys];
    for (int32_t k = 0; k < std::min(kBlockKeys, list.n_col - first); ++k) {
      const int32_t j = plan.cols[list.col0 + first + k];
      if (!attn::sees(vis, row, j) || walk.visits(j / kGranuleKeys)) continue;
      keys[k] = {j, reader.logit(j)};
      ++attended;
    }
    attend_block(reader, keys, columns.span_state(first / kSpanRows), d);
  }
  columns.end(total);
  count_rows(reader.format, attended, counters);
  finish_state(total, layer.out + (static_cast<int64_t>(row.t) * layer.n_heads + row.head) * d, d);
}

void prefill_tile(const AttentionLayer& layer, const BlockPlan& plan, int32_t tile_index, int32_t g,
                  std::byte* workspace, AttentionCounters* counters) {
  const QTile& tile = plan.tiles[tile_index];
  const Zone& zone = layer.kv.zones[kZoneFull];
  Reader reader{layer,
                layer.kv.format(kZoneFull, layer.kv_layer, g),
                zone,
                attn::zone_pages(layer.kv, zone, layer.seqs[tile.seq].page0, layer.kv_layer),
                {}};
  auto* rows = reinterpret_cast<QueryRow*>(workspace);
  attn::HeadRun heads;
  while (attn::next_head_run(layer, tile, g, heads.r_end, &heads)) {
    attn::RowBounds bounds;
    const int32_t n = attn::collect_rows(layer, plan, tile, g, heads, rows, &bounds);
    for (int32_t i = 0; i < n; ++i) {
      prefill_row(layer, plan, tile, plan.lists[heads.list], rows[i], reader, counters);
    }
  }
}

size_t prefill_workspace_bytes(int32_t tile_rows, int32_t group, int32_t) {
  return sizeof(QueryRow) * static_cast<size_t>(tile_rows) * group;
}

// The picks and scores of one query row.
struct RowPicks {
  const Range* picks = nullptr;
  int32_t n = 0;
  const float* scores = nullptr;
};
RowPicks row_picks(const AttentionLayer& layer, const SegmentPlan& plan, const Run& run, const QueryRow& row,
                   int32_t g) {
  RowPicks out;
  const int64_t index = static_cast<int64_t>(row.t) * layer.kv.n_kv_heads + g;
  if (layer.kv.zones[run.zone].picked != 0) {
    const int64_t first = run.pick0 + index * run.pick_cap;
    out.picks = plan.picks + first;
    out.n = plan.pick_n[first];
  }
  if ((run.flags & kRunScored) != 0) {
    out.scores = plan.scores + (static_cast<int64_t>(row.t) * layer.n_heads + row.head) * run.rows;
  }
  return out;
}

void decode_row(const AttentionLayer& layer, const SegmentPlan& plan, const attn::DecodeItem& item, int32_t g,
                const QueryRow& row, Reader& reader, AttentionCounters* counters) {
  const int32_t d = layer.head_dim;
  const Run& run = *item.run;
  const attn::Visibility vis = attn::run_visibility(plan, run);
  const RowPicks picks = row_picks(layer, plan, run, row, g);
  uint64_t attended = 0;
  reader.load_query(row);
  const auto block = [&](int32_t lo, int32_t hi, float* state) {  // zone rows [lo, hi) of one aligned 64
    Key keys[kBlockKeys];
    for (int32_t j = lo; j < hi; ++j) {
      if (!attn::sees(vis, row, j)) continue;
      keys[j % kBlockKeys] = {j, picks.scores ? picks.scores[j - run.row0] : reader.logit(j)};
      ++attended;
    }
    attend_block(reader, keys, state, d);
  };
  const auto rows = [&](int32_t lo, int32_t hi, float* state) {
    for (int32_t j = lo; j < hi; j = (j / kBlockKeys + 1) * kBlockKeys) {
      block(j, std::min(hi, (j / kBlockKeys + 1) * kBlockKeys), state);
    }
  };
  for (int32_t unit = item.unit_begin; unit < item.unit_end; ++unit) {
    float part[kMaxStateDim + 2];
    clear_state(part, d);
    const int32_t last = std::min((unit + 1) * item.unit_spans, item.span_end);
    for (int32_t span = std::max(unit * item.unit_spans, item.span_begin); span < last; ++span) {
      float state[kMaxStateDim + 2];
      clear_state(state, d);
      const auto size = static_cast<int32_t>(item.zone->span);
      if (item.picked) {
        for (int32_t p = span * size; p < std::min((span + 1) * size, picks.n); ++p) {
          rows(picks.picks[p].lo, picks.picks[p].hi, state);
        }
      } else {
        rows(std::max(span * size, run.row0), std::min((span + 1) * size, run.row0 + run.rows), state);
      }
      merge_state(part, state, d);
    }
    std::memcpy(row.part + (unit - item.unit0) * row.part_stride, part, sizeof(float) * (d + 2));
  }
  count_rows(reader.format, attended, counters);
}

void decode_item(const AttentionLayer& layer, const SegmentPlan& plan, int32_t item_index, int32_t g,
                 std::byte* workspace, AttentionCounters* counters) {
  const attn::DecodeItem item = attn::resolve_item(layer, plan, item_index, g);
  Reader reader{layer, *item.format, *item.zone, item.pages, {}};
  auto* rows = reinterpret_cast<QueryRow*>(workspace);
  for (int32_t begin = 0; begin < item.n_query_rows; begin += kDecodeRowsMax) {
    attn::RowBounds bounds;
    const int32_t end = std::min(begin + kDecodeRowsMax, item.n_query_rows);
    const int32_t n = attn::collect_rows(layer, plan, item, g, begin, end, rows, &bounds);
    for (int32_t i = 0; i < n; ++i) {
      if (item.format->v_width == 0) {
        for (int32_t unit = item.unit_begin; unit < item.unit_end; ++unit) {
          clear_state(rows[i].part + (unit - item.unit0) * rows[i].part_stride, layer.head_dim);
        }
      } else {
        decode_row(layer, plan, item, g, rows[i], reader, counters);
      }
    }
  }
}

void decode_fold(const AttentionLayer& layer, const SegmentPlan& plan, int32_t seq, int32_t g) {
  attn::fold_sequence(layer, plan, seq, g, merge_state, finish_state);
}

size_t decode_workspace_bytes(int32_t max_query_rows, int32_t) {
  return sizeof(QueryRow) * static_cast<size_t>(max_query_rows);
}

void append_rows(const AppendArgs& args, int64_t t0, int64_t t1) {
  const int32_t d = args.head_dim;
  for (int64_t t = t0; t < t1; ++t) {
    if (args.dst[t] < 0) continue;
    const int64_t page = args.dst[t] / kPageRows, row = args.dst[t] % kPageRows;
    for (int32_t g = 0; g < args.n_kv_heads; ++g) {
      const RowFormat& f = args.formats[g];
      std::byte* base = args.pools[f.pool] + static_cast<uint64_t>(page) * f.page_bytes;
      const float* k = args.k + (t * args.n_kv_heads + g) * d;
      const float* v = args.v + (t * args.n_kv_heads + g) * d;
      for (int32_t c = 0; c < f.k_width; ++c) store_plain(f.k_codec, base + f.k, k_index(f, row, c), k[c]);
      for (int32_t c = 0; c < f.v_width; ++c) store_plain(f.v_codec, base + f.v, v_index(f, kPageRows, row, c), v[c]);
    }
  }
}

bool supports(const RowFormat& f, int32_t head_dim) {
  return attn::valid_scales(f) && f.k_width <= head_dim && (f.v_width == 0 || f.v_width == head_dim) &&
         head_dim <= kMaxStateDim;
}

}  // namespace

const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kTable = {
      .supports = supports,
      .append_rows = append_rows,
      .move_rows = move_rows,
      .prefill_tile = prefill_tile,
      .prefill_workspace_bytes = prefill_workspace_bytes,
      .decode_item = decode_item,
      .decode_fold = decode_fold,
      .decode_workspace_bytes = decode_workspace_bytes,
  };
  return kTable;
}

}  // namespace pare::ref
