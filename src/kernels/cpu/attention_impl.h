// The attention kernels of the vector levels over register tiles (attention_tile.h): which granules a block
// has, where their bytes lie, spans and sections, and the functions of the table. With more than kInPlaceRows
// query rows a block's fp16 rows are widened once into scratch, quantized rows always.
#pragma once

#include <cstring>
#include <utility>

#include "kernels/cpu/attention_codes.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/ref/attention_ref.h"

namespace pare::attn {

template <class Isa>
struct Attention : AttentionTile<Isa> {
  using Tile = AttentionTile<Isa>;
  using Codes = AttentionCodes<Isa>;
  using Tile::finish, Tile::finish_state, Tile::merge, Tile::merge_state;
  using Tile::kGranules, Tile::kInPlaceRows;
  using typename Tile::Block, typename Tile::Pass, typename Tile::State, typename Tile::V;

  // ---- blocks ----

  // Adds the granule of keys [j0, j0 + 16), of which `valid` exist, unless no row sees any of them.
  static bool add_granule(const Pass& p, Block& b, int32_t slot, int32_t j0, uint32_t valid) {
    const int32_t g = b.n;
    uint32_t seen = 0xffff;
    b.cut[g] = valid != 0xffff || !p.bounds.all_see(p.vis, j0, static_cast<int64_t>(j0) + kGranuleKeys);
    if (b.cut[g]) {
      seen = 0;
      uint32_t mask = 0;
      for (int32_t r = 0; r < p.m_rows; ++r) {
        // The heads of a position see the same keys.
        if (r == 0 || p.rows[r].pos != p.rows[r - 1].pos || p.rows[r].limit != p.rows[r - 1].limit) {
          mask = sees_mask(p.vis, p.rows[r], j0) & valid;
        }
        p.masks[slot * p.m_rows + r] = static_cast<uint16_t>(mask);
        p.counters->keys_visited += static_cast<uint64_t>(__builtin_popcount(mask));
        seen |= mask;
      }
      if (seen == 0) return false;
    } else {
      p.counters->keys_visited += static_cast<uint64_t>(kGranuleKeys) * p.m_rows;
    }
    b.slot[g] = slot;
    b.j0[g] = j0;
    b.seen[g] = static_cast<uint16_t>(seen);
    b.lw[g] = nullptr;
    ++b.n;
    return true;
  }

  // Adds the granule that starts at zone row `row` (a multiple of 16).
  static void add_stored(const Pass& p, Block& b, int32_t row, uint32_t valid) {
    if (!add_granule(p, b, row / kGranuleKeys % kGranules, row, valid)) return;
    const RowFormat& f = *p.format;
    const auto page_rows = static_cast<int32_t>(p.zone->page_rows);
    const std::byte* base = page_base(p.layer->kv, f, p.pages[row / page_rows]);
    const int64_t in_page = row % page_rows;
    const int32_t g = b.n - 1;
    b.k[g] = base + f.k + plane_bytes(f.k_codec, in_page * f.k_width);
    b.v[g] = base + f.v + plane_bytes(f.v_codec, in_page * f.v_width);
    if (is_quantized(f.k_codec)) b.k_scales[g] = base + f.ks + in_page / f.k_group * f.k_width * 4;
    if (is_quantized(f.v_codec)) b.v_scales[g] = base + f.vs + in_page * (f.v_width / f.v_group) * 4;
    b.k_ahead[g] = b.k[g];
    b.v_ahead[g] = b.v[g];
    if (row + kBlockKeys < p.ahead_end) {
      const int32_t ahead = row + kBlockKeys;
      const std::byte* page = page_base(p.layer->kv, f, p.pages[ahead / page_rows]);
      b.k_ahead[g] = page + f.k + plane_bytes(f.k_codec, int64_t{ahead % page_rows} * f.k_width);
      b.v_ahead[g] = page + f.v + plane_bytes(f.v_codec, int64_t{ahead % page_rows} * f.v_width);
    }
    if (f.lw != kNoPlane) b.lw[g] = reinterpret_cast<const float*>(base + f.lw) + in_page;
    const auto rows = static_cast<uint64_t>(__builtin_popcount(b.seen[g]));
    p.counters->rows_read += rows;
    p.counters->bytes_read += row_bytes(f, rows);
  }

  template <class T>
  static void widen(const T* src, float* dst, int32_t n) {
    for (int32_t i = 0; i < n; i += 16) Isa::store(dst + i, Isa::load(src + i));
  }
  static void widen_ahead(const std::byte* src, const std::byte* ahead, float* dst, int32_t n) {
    const auto* half = reinterpret_cast<const uint16_t*>(src);
    for (int32_t i = 0; i < n; i += 16) {
      if (i % 32 == 0) Isa::prefetch(ahead + i * 2);
      Isa::store(dst + i, Isa::load(half + i));
    }
  }

  // Granule g's rows to scratch, in fp32. Value rows that no query sees may hold anything: they become zeros.
  static void widen_values(const Pass& p, Block& b, int32_t g, float* scratch) {
    const std::byte *src = b.v[g], *ahead = b.v_ahead[g];
    float* dst = scratch + static_cast<int64_t>(b.slot[g]) * kGranuleKeys * p.d;
    b.v[g] = reinterpret_cast<const std::byte*>(dst);
    const RowFormat& f = *p.format;
    if (f.v_codec == Codec::F16 && b.seen[g] == 0xffff) return widen_ahead(src, ahead, dst, kGranuleKeys * p.d);
    const int64_t row_codes = plane_bytes(f.v_codec, p.d);
    alignas(64) float scales[kGranuleKeys * 2 * kMaxStateDim / 16];
    const int32_t row_scales = is_quantized(f.v_codec) ? p.d / f.v_group * 2 : 0;
    if (row_scales > 0) Codes::widen_scales(b.v_scales[g], kGranuleKeys * row_scales, scales);
    for (int32_t k = 0; k < kGranuleKeys; ++k, dst += p.d, src += row_codes, ahead += row_codes) {
      if (((b.seen[g] >> k) & 1u) == 0) {
        std::memset(dst, 0, sizeof(float) * static_cast<size_t>(p.d));
        continue;
      }
      const float* row = scales + k * row_scales;
      switch (f.v_codec) {
        case Codec::F32: widen(reinterpret_cast<const float*>(src), dst, p.d); break;
        case Codec::I8: Codes::template widen_values<8>(src, ahead, row, p.d, f.v_group, dst); break;
        case Codec::I4: Codes::template widen_values<4>(src, ahead, row, p.d, f.v_group, dst); break;
        case Codec::I2: Codes::template widen_values<2>(src, ahead, row, p.d, f.v_group, dst); break;
        default: widen(reinterpret_cast<const uint16_t*>(src), dst, p.d); break;
      }
    }
  }
  static void widen_keys(const Pass& p, Block& b, int32_t g) {
    const std::byte *src = b.k[g], *ahead = b.k_ahead[g];
    float* dst = p.k_scratch + static_cast<int64_t>(b.slot[g]) * kGranuleKeys * p.kw;
    b.k[g] = reinterpret_cast<const std::byte*>(dst);
    switch (p.format->k_codec) {
      case Codec::I8: return Codes::template widen_keys<8>(src, ahead, b.k_scales[g], p.kw, dst);
      case Codec::I4: return Codes::template widen_keys<4>(src, ahead, b.k_scales[g], p.kw, dst);
      case Codec::I2: return Codes::template widen_keys<2>(src, ahead, b.k_scales[g], p.kw, dst);
      default: return widen_ahead(src, ahead, dst, kGranuleKeys * p.kw);
    }
  }

  static void attend_stored(Pass& p, Block& b) {
    if (b.n == 0) return;
    p.span.empty = false;
    const RowFormat& f = *p.format;
    bool clean = true;
    for (int32_t g = 0; g < b.n; ++g) clean &= b.seen[g] == 0xffff;
    if (clean && p.m_rows <= kInPlaceRows && f.k_codec == Codec::F16 && f.v_codec == Codec::F16) {
      return Tile::template attend<uint16_t>(p, b, [] {});
    }
    if (f.k_codec != Codec::F32 && !p.scored) {
      for (int32_t g = 0; g < b.n; ++g) widen_keys(p, b, g);
    }
    // Few rows are done with the keys before they take the values, which may then lie where the keys did.
    float* scratch = p.m_rows <= Tile::kBatchRows ? p.k_scratch : p.v_scratch;
    Tile::template attend<float>(p, b, [&] {
      for (int32_t g = 0; g < b.n; ++g) {
        if (f.v_codec != Codec::F32 || b.seen[g] != 0xffff) widen_values(p, b, g, scratch);
      }
    });
  }

  static void clear(State& s, int32_t rows) {
    for (int32_t r = 0; r < rows; ++r) s.m[r] = kNegInf;
    std::memset(s.l, 0, sizeof(float) * static_cast<size_t>(rows));
    s.empty = true;
  }
  // Folds src into dst and clears src. The identity takes over another's memory instead of its rows.
  static void fold(const Pass& p, State& dst, State& src) {
    if (src.empty) return;
    if (dst.empty) {
      std::swap(dst, src);
      return;
    }
    Tile::merge_rows(dst, src, p.m_rows, p.d);
    clear(src, p.m_rows);
  }

  // Ends spans, octets and sections as the walk passes them.
  struct SectionWalk {
    Pass& p;
    int64_t at = -1;
    void move_to(int64_t span) {
      if (span == at) return;
      if (at >= 0) fold(p, p.octet, p.span);
      if (at >= 0 && span / kOctetSpans != at / kOctetSpans) fold(p, p.section, p.octet);
      at = span;
    }
    void end() {
      fold(p, p.octet, p.span);
      fold(p, p.section, p.octet);
      fold(p, p.total, p.section);
    }
  };

  // ---- workspace ----

  static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }
  static size_t workspace_bytes(int32_t rows, int32_t d) {
    const auto m = static_cast<size_t>(rows), dim = static_cast<size_t>(d);
    return padded(m * sizeof(QueryRow)) + padded(m * sizeof(float*)) + padded(kGranules * m * sizeof(uint16_t)) +
           padded(m * dim * 4) + 4 * (2 * padded(m * 4) + padded(m * dim * 4)) + 2 * padded(kBlockKeys * dim * 4);
  }
  static Pass make_pass(const AttentionLayer& layer, const RowFormat& format, const Zone& zone, const int32_t* pages,
                        int32_t rows, std::byte* workspace, AttentionCounters* counters) {
    Pass p{};
    p.layer = &layer;
    p.format = &format;
    p.zone = &zone;
    p.pages = pages;
    p.d = layer.head_dim;
    p.kw = format.k_width;
    p.counters = counters;
    const auto take = [&workspace](size_t bytes) {
      std::byte* out = workspace;
      workspace += padded(bytes);
      return out;
    };
    const auto m = static_cast<size_t>(rows), dim = static_cast<size_t>(p.d);
    p.rows = reinterpret_cast<QueryRow*>(take(m * sizeof(QueryRow)));
    p.scores = reinterpret_cast<const float**>(take(m * sizeof(float*)));
    p.masks = reinterpret_cast<uint16_t*>(take(kGranules * m * sizeof(uint16_t)));
    p.q = reinterpret_cast<float*>(take(m * dim * 4));
    for (State* s : {&p.span, &p.octet, &p.section, &p.total}) {
      s->m = reinterpret_cast<float*>(take(m * 4));
      s->l = reinterpret_cast<float*>(take(m * 4));
      s->o = reinterpret_cast<float*>(take(m * dim * 4));
    }
    p.k_scratch = reinterpret_cast<float*>(take(kBlockKeys * dim * 4));
    p.v_scratch = reinterpret_cast<float*>(take(kBlockKeys * dim * 4));
    return p;
  }

  static void load_queries(const Pass& p) {
    const V factor = Isa::set1(query_factor(*p.layer, kLog2e));
    for (int32_t r = 0; r < p.m_rows; ++r) {
      const QueryRow& row = p.rows[r];
      const float* src = p.layer->q + (static_cast<int64_t>(row.t) * p.layer->n_heads + row.head) * p.d;
      float* dst = p.q + static_cast<int64_t>(r) * p.kw;
      if (p.format->chan >= 0) {
        const Channel* channels = p.layer->kv.channels + p.format->chan;
#ifdef PARE_FAULT_ATTENTION_ALPHA_TWICE
        for (int32_t c = 0; c < p.kw; ++c) dst[c] = src[channels[c].id] * channels[c].alpha * channels[c].alpha;
#else
        for (int32_t c = 0; c < p.kw; ++c) dst[c] = src[channels[c].id] * channels[c].alpha;
#endif
        src = dst;
      }
      for (int32_t c = 0; c < p.kw; c += 16) Isa::store(dst + c, Isa::mul(Isa::load(src + c), factor));
    }
  }

  // ---- prefill ----

  static void add_column(const Pass& p, int32_t key, int32_t slot, int32_t lane) {
    const RowFormat& f = *p.format;
    const auto page_rows = static_cast<int32_t>(p.zone->page_rows);
    const std::byte* base = page_base(p.layer->kv, f, p.pages[key / page_rows]);
    const int32_t in_page = key % page_rows;
    float* k = p.k_scratch + static_cast<int64_t>(slot) * 16 * p.kw + lane;
    float* v = p.v_scratch + (static_cast<int64_t>(slot) * kGranuleKeys + lane) * p.d;
    const int64_t k_at = static_cast<int64_t>(in_page / 16) * p.kw * 16 + in_page % 16;
    const int64_t v_at = static_cast<int64_t>(in_page) * p.d;
    if (f.k_codec == Codec::F32) {
      const float* src = reinterpret_cast<const float*>(base + f.k) + k_at;
      for (int32_t c = 0; c < p.kw; ++c) k[c * 16] = src[c * 16];
      widen(reinterpret_cast<const float*>(base + f.v) + v_at, v, p.d);
    } else {
      const uint16_t* src = reinterpret_cast<const uint16_t*>(base + f.k) + k_at;
      for (int32_t c = 0; c < p.kw; ++c) k[c * 16] = Isa::half(src[c * 16]);
      widen(reinterpret_cast<const uint16_t*>(base + f.v) + v_at, v, p.d);
    }
  }

  // Columns [first, first + 16) of the list as granule `slot` of a block.
  static void add_columns(const Pass& p, Block& b, const KeyWalk& walk, const int32_t* cols, int32_t n, int32_t slot) {
    const int32_t g = b.n;
    uint32_t valid = 0, seen = 0;
    bool all = true;
    for (int32_t k = 0; k < n; ++k) {
      if (cols[k] < p.bounds.max_limit && !walk.visits(cols[k] / kGranuleKeys)) valid |= 1u << k;
    }
    if (valid == 0) return;
    const int64_t low = cols[__builtin_ctz(valid)], high = cols[31 - __builtin_clz(valid)];
    all = p.bounds.all_see(p.vis, low, high + 1);
    for (int32_t r = 0; r < p.m_rows; ++r) {
      uint32_t mask = valid;
      if (!all) {
        for (uint32_t rest = valid; rest != 0; rest &= rest - 1) {
          const int32_t k = __builtin_ctz(rest);
          if (!sees(p.vis, p.rows[r], cols[k])) mask &= ~(1u << k);
        }
      }
      p.masks[slot * p.m_rows + r] = static_cast<uint16_t>(mask);
      p.counters->keys_visited += static_cast<uint64_t>(__builtin_popcount(mask));
      seen |= mask;
    }
    if (seen == 0) return;
    for (int32_t k = 0; k < kGranuleKeys; ++k) {
      if ((seen >> k) & 1u) {
        add_column(p, cols[k], slot, k);
      } else {
        std::memset(p.v_scratch + (static_cast<int64_t>(slot) * kGranuleKeys + k) * p.d, 0,
                    sizeof(float) * static_cast<size_t>(p.d));
      }
    }
    const auto rows = static_cast<uint64_t>(__builtin_popcount(seen));
    p.counters->rows_read += rows;
    p.counters->bytes_read += row_bytes(*p.format, rows);
    b.k[g] = reinterpret_cast<const std::byte*>(p.k_scratch + static_cast<int64_t>(slot) * 16 * p.kw);
    b.v[g] = reinterpret_cast<const std::byte*>(p.v_scratch + static_cast<int64_t>(slot) * kGranuleKeys * p.d);
    b.lw[g] = nullptr;
    b.slot[g] = slot;
    b.cut[g] = true;
    b.seen[g] = static_cast<uint16_t>(seen);
    ++b.n;
  }

  static void prefill_heads(const BlockPlan& plan, const QTile& tile, const KeyList& list, Pass& p) {
    p.vis = {.lo = 0, .sink = list.sink, .window = list.window, .dense_from = list.dense_from};
    load_queries(p);
    for (State* s : {&p.span, &p.octet, &p.section, &p.total}) clear(*s, p.m_rows);

    KeyWalk walk(plan, list, tile, p.bounds.max_limit);
    SectionWalk full{p};
    int32_t block;
    uint32_t granules;
    while (walk.next(&block, &granules)) {
      full.move_to(block / (kSpanRows / kBlockKeys));
      Block b;
      for (int32_t g = 0; g < kGranules; ++g) {
        if ((granules >> g) & 1u) add_stored(p, b, block * kBlockKeys + g * kGranuleKeys, 0xffff);
      }
      attend_stored(p, b);
    }
    full.end();
    if (list.n_col > 0) {
      SectionWalk columns{p};
      for (int32_t first = 0; first < list.n_col; first += kBlockKeys) {
        columns.move_to(first / kSpanRows);
        Block b;
        for (int32_t g = 0; g < kGranules && first + g * 16 < list.n_col; ++g) {
          const int32_t at = first + g * 16, left = list.n_col - at;
          add_columns(p, b, walk, plan.cols + list.col0 + at, left < 16 ? left : 16, g);
        }
        if (b.n == 0) continue;
        p.span.empty = false;
        Tile::template attend<float>(p, b, [] {});
      }
      columns.end();
    }
    for (int32_t r = 0; r < p.m_rows; ++r) {
      const QueryRow& row = p.rows[r];
      finish(p.total.l[r], p.total.o + static_cast<int64_t>(r) * p.d,
             p.layer->out + (static_cast<int64_t>(row.t) * p.layer->n_heads + row.head) * p.d, p.d);
    }
  }

  static void prefill_tile(const AttentionLayer& layer, const BlockPlan& plan, int32_t tile_index, int32_t g,
                           std::byte* workspace, AttentionCounters* counters) {
    const QTile& tile = plan.tiles[tile_index];
    const Zone& zone = layer.kv.zones[kZoneFull];
    const RowFormat& format = layer.kv.format(kZoneFull, layer.kv_layer, g);
    if (!supports(format, layer.head_dim) || !plain(format)) {
      ++counters->fallbacks;
      return ref::attention_kernels().prefill_tile(layer, plan, tile_index, g, workspace, counters);
    }
    const int32_t group = layer.n_heads / layer.kv.n_kv_heads;
    Pass p = make_pass(layer, format, zone, zone_pages(layer.kv, zone, layer.seqs[tile.seq].page0, layer.kv_layer),
                       tile.rows * group, workspace, counters);
    HeadRun heads;
    while (next_head_run(layer, tile, g, heads.r_end, &heads)) {
      p.bounds = {};
      p.m_rows = collect_rows(layer, plan, tile, g, heads, p.rows, &p.bounds);
      if (p.m_rows > 0) prefill_heads(plan, tile, plan.lists[heads.list], p);
    }
  }

  static size_t prefill_workspace_bytes(int32_t tile_rows, int32_t group, int32_t d) {
    return workspace_bytes(tile_rows * group, d);
  }

  // ---- decode ----

  // Zone rows [lo, hi), block by block; pieces of aligned blocks are blocks of their own (picks).
  static void attend_range(Pass& p, int32_t lo, int32_t hi) {
    for (int32_t j = lo; j < hi;) {
      const int32_t end = (j / kBlockKeys + 1) * kBlockKeys < hi ? (j / kBlockKeys + 1) * kBlockKeys : hi;
      Block b;
      for (int32_t row = j / kGranuleKeys * kGranuleKeys; row < end; row += kGranuleKeys) {
        add_stored(p, b, row, low_bits(end - row) & ~low_bits(j - row));
      }
      attend_stored(p, b);
      j = end;
    }
  }

  static void decode_pass(const SegmentPlan& plan, const DecodeItem& item, const Range* picks, int32_t n_picks,
                          Pass& p) {
    const Run& run = *item.run;
    p.ahead_end = item.picked ? 0 : run.row0 + run.rows;
    p.vis = run_visibility(plan, run);
    p.scored = (run.flags & kRunScored) != 0;
    if (p.scored) {
      for (int32_t r = 0; r < p.m_rows; ++r) {
        p.scores[r] =
            plan.scores + (static_cast<int64_t>(p.rows[r].t) * p.layer->n_heads + p.rows[r].head) * run.rows - run.row0;
      }
    } else {
      load_queries(p);
    }
    clear(p.span, p.m_rows);
    clear(p.octet, p.m_rows);
    const auto size = static_cast<int32_t>(item.zone->span);
    for (int32_t unit = item.unit_begin; unit < item.unit_end; ++unit) {
      const int32_t first = unit * item.unit_spans, last = first + item.unit_spans;
      for (int32_t span = first > item.span_begin ? first : item.span_begin; span < last && span < item.span_end;
           ++span) {
        const int32_t lo = span * size, hi = lo + size;
        if (item.picked) {
          for (int32_t i = lo; i < hi && i < n_picks; ++i) attend_range(p, picks[i].lo, picks[i].hi);
        } else {
          const int32_t end = run.row0 + run.rows;
          attend_range(p, lo > run.row0 ? lo : run.row0, hi < end ? hi : end);
        }
        fold(p, p.octet, p.span);
      }
      for (int32_t r = 0; r < p.m_rows; ++r) {
        float* part = p.rows[r].part + (unit - item.unit0) * p.rows[r].part_stride;
        part[0] = p.octet.m[r];
        part[1] = p.octet.l[r];
        const auto bytes = sizeof(float) * static_cast<size_t>(p.d);
        if (part[1] == 0.0f) {
          std::memset(part + 2, 0, bytes);
        } else {
          std::memcpy(part + 2, p.octet.o + static_cast<int64_t>(r) * p.d, bytes);
        }
      }
      clear(p.octet, p.m_rows);
    }
  }

  static void decode_item(const AttentionLayer& layer, const SegmentPlan& plan, int32_t item_index, int32_t g,
                          std::byte* workspace, AttentionCounters* counters) {
    const DecodeItem item = resolve_item(layer, plan, item_index, g);
    const bool absent = item.format->v_width == 0;
    if (absent || !supports(*item.format, layer.head_dim)) {
      counters->fallbacks += absent ? 0 : 1;
      return ref::attention_kernels().decode_item(layer, plan, item_index, g, workspace, counters);
    }
    const int32_t group = layer.n_heads / layer.kv.n_kv_heads;
    Pass p = make_pass(layer, *item.format, *item.zone, item.pages, kDecodeRowsMax * group, workspace, counters);
#ifdef PARE_FAULT_ATTENTION_NEIGHBOUR_WIDTH
    p.kw = (item.format + (g > 0 ? -1 : layer.kv.n_kv_heads > 1 ? 1 : 0))->k_width;
#endif
    const int32_t step = item.picked ? 1 : kDecodeRowsMax;  // each query row has its own picks
    for (int32_t begin = 0; begin < item.n_query_rows; begin += step) {
      const int32_t end = begin + step < item.n_query_rows ? begin + step : item.n_query_rows;
      p.bounds = {};
      p.m_rows = collect_rows(layer, plan, item, g, begin, end, p.rows, &p.bounds);
      if (p.m_rows == 0) continue;
      const Range* picks = nullptr;
      int32_t n_picks = 0;
      if (item.picked) {
        const int64_t list = static_cast<int64_t>(p.rows[0].t) * layer.kv.n_kv_heads + g;
        const int64_t first = item.run->pick0 + list * item.run->pick_cap;
        picks = plan.picks + first;
        n_picks = plan.pick_n[first];
      }
      decode_pass(plan, item, picks, n_picks, p);
    }
  }

  static void decode_fold(const AttentionLayer& layer, const SegmentPlan& plan, int32_t seq, int32_t g) {
    fold_sequence(layer, plan, seq, g, merge_state, finish_state);
  }
  static size_t decode_workspace_bytes(int32_t max_query_rows, int32_t d) { return workspace_bytes(max_query_rows, d); }

  // ---- append ----

  static void append_rows(const AppendArgs& args, int64_t t0, int64_t t1) {
    const int32_t d = args.head_dim;
    for (int32_t g = 0; g < args.n_kv_heads; ++g) {
      const RowFormat& f = args.formats[g];
      if (!supports(f, d) || !plain(f) || f.k_codec != Codec::F16) {
        return ref::attention_kernels().append_rows(args, t0, t1);
      }
    }
    for (int64_t t = t0; t < t1; ++t) {
      if (args.dst[t] < 0) continue;
      const int64_t page = args.dst[t] / kPageRows, row = args.dst[t] % kPageRows;
      for (int32_t g = 0; g < args.n_kv_heads; ++g) {
        const RowFormat& f = args.formats[g];
        std::byte* base = args.pools[f.pool] + static_cast<uint64_t>(page) * f.page_bytes;
        auto* k_tile = reinterpret_cast<uint16_t*>(base + f.k) + (row / 16) * 16 * f.k_width + row % 16;
        auto* v_row = reinterpret_cast<uint16_t*>(base + f.v) + row * f.v_width;
        const float* k = args.k + (t * args.n_kv_heads + g) * d;
        const float* v = args.v + (t * args.n_kv_heads + g) * d;
        alignas(64) uint16_t half[16];
        for (int32_t c = 0; c < f.k_width; c += 16) {
          Isa::store_half(half, Isa::load(k + c));
          for (int32_t i = 0; i < 16; ++i) k_tile[(c + i) * 16] = half[i];
        }
        for (int32_t c = 0; c < f.v_width; c += 16) Isa::store_half(v_row + c, Isa::load(v + c));
      }
    }
  }

  static bool supports(const RowFormat& f, int32_t head_dim) {
    return f.order == Order::Tiles && f.k_codec != Codec::Bf16 && f.v_codec != Codec::Bf16 && valid_scales(f) &&
           f.k_width % 16 == 0 && f.k_width <= head_dim && f.v_width == head_dim && head_dim % 16 == 0 &&
           head_dim <= kMaxStateDim;
  }
  // Prefill and append: the full zone has one floating-point codec.
  static bool plain(const RowFormat& f) { return f.k_codec == f.v_codec && !is_quantized(f.k_codec); }

  static constexpr AttentionKernels table() {
    return {
        .supports = supports,
        .append_rows = append_rows,
        .move_rows = Codes::move_rows,
        .prefill_tile = prefill_tile,
        .prefill_workspace_bytes = prefill_workspace_bytes,
        .decode_item = decode_item,
        .decode_fold = decode_fold,
        .decode_workspace_bytes = decode_workspace_bytes,
    };
  }
};

}  // namespace pare::attn
