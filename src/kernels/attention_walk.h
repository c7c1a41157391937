// What the attention kernels of every level share: reading the plans. No arithmetic on rows here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace pare::attn {

// One query row of a pass. `pos` and `limit` are in key coordinates: positions in prefill, zone rows in
// decode.
struct QueryRow {
  int32_t t = 0;            // packed row
  int32_t head = 0;         // query head
  int32_t pos = 0;          // where the row stands
  int32_t limit = 0;        // exclusive bound of the keys it may see
  float* part = nullptr;    // decode: where unit 0 of the run goes
  int64_t part_stride = 0;  // floats from a unit's part to the next
};

// Which keys the rows of a pass may see, beside limit: lo <= j and (pos >= dense_from or j < sink or pos - j
// < window).
struct Visibility {
  int32_t lo = 0, sink = 0, window = INT32_MAX, dense_from = INT32_MAX;
};

static inline bool sees(const Visibility& vis, const QueryRow& row, int32_t j) {
#ifdef PARE_FAULT_ATTENTION_WINDOW_OFF_BY_ONE
  const bool in_window = row.pos - j <= vis.window;
#else
  const bool in_window = row.pos - j < vis.window;
#endif
  return j >= vis.lo && j < row.limit && (row.pos >= vis.dense_from || j < vis.sink || in_window);
}

// The low n bits of 16, n clamped.
static inline uint32_t low_bits(int64_t n) { return n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u; }

// `sees` for the 16 keys from j0, bit k for key j0 + k.
static inline uint32_t sees_mask(const Visibility& vis, const QueryRow& row, int32_t j0) {
  uint32_t mask = low_bits(static_cast<int64_t>(row.limit) - j0) & ~low_bits(static_cast<int64_t>(vis.lo) - j0);
  if (row.pos < vis.dense_from) {
    int64_t first = static_cast<int64_t>(row.pos) - vis.window + 1;
#ifdef PARE_FAULT_ATTENTION_WINDOW_OFF_BY_ONE
    --first;
#endif
    mask &= low_bits(static_cast<int64_t>(vis.sink) - j0) | ~low_bits(first - j0);
  }
  return mask & 0xffffu;
}

// Bounds over the rows of a pass, which tell granules that every row sees whole without asking each row.
struct RowBounds {
  int32_t min_limit = INT32_MAX, max_limit = 0, min_pos = INT32_MAX, max_pos = INT32_MIN;
  void add(const QueryRow& row);
  // Whether every row sees all keys [j0, j1).
  bool all_see(const Visibility& vis, int64_t j0, int64_t j1) const;
};

// The granules that a tile visits for one KeyList, block by block in ascending order.
class KeyWalk {
 public:
  // Keys at key_end and beyond are left out (no row of the tile may see them).
  KeyWalk(const BlockPlan& plan, const KeyList& list, const QTile& tile, int32_t key_end);

  // The next block (64 keys) with a visited granule, and which of its four granules are.
  bool next(int32_t* block, uint32_t* granules);
  bool visits(int32_t granule) const;

 private:
  struct Span {
    int64_t lo, hi;
  };
  Span abs_span(int32_t i) const;
  Span rel_span(int32_t i) const;  // i counts from the longest distance, so that spans ascend
  bool bit(int64_t granule) const;

  const Range *abs_, *rel_;
  const uint32_t* bits_;
  int32_t n_abs_, n_rel_, bit_keys_, i_abs_ = 0, i_rel_ = 0;
  int64_t pos_lo_, pos_hi_, granule_end_, block_ = 0;
};

// The query heads of KV head g that a tile names and that share a KeyList: a run of r.
struct HeadRun {
  int32_t r_begin = 0, r_end = 0, list = 0;
};
// The first such run at or after r; false: none left.
bool next_head_run(const AttentionLayer& layer, const QTile& tile, int32_t g, int32_t r, HeadRun* run);

// Fills rows (position-major, heads inside) of a head run and returns how many; skips claimed rows.
int32_t collect_rows(const AttentionLayer& layer, const BlockPlan& plan, const QTile& tile, int32_t g,
                     const HeadRun& heads, QueryRow* rows, RowBounds* bounds);

// A decode item, resolved.
struct DecodeItem {
  const Run* run = nullptr;
  const Zone* zone = nullptr;
  const RowFormat* format = nullptr;
  const int32_t* pages = nullptr;
  int32_t unit_spans = 1;                           // spans a partial holds: 1 or 8
  int32_t unit_begin = 0, unit_end = 0, unit0 = 0;  // units of this item; the run's first unit
  int32_t span_begin = 0, span_end = 0;             // of the run
  int32_t n_query_rows = 0;                         // of all members
  bool picked = false;
};
DecodeItem resolve_item(const AttentionLayer& layer, const SegmentPlan& plan, int32_t item, int32_t g);

// Query rows [begin, end) of the item (over all members in order), each with its active heads.
int32_t collect_rows(const AttentionLayer& layer, const SegmentPlan& plan, const DecodeItem& item, int32_t g,
                     int32_t begin, int32_t end, QueryRow* rows, RowBounds* bounds);
Visibility run_visibility(const SegmentPlan& plan, const Run& run);

// Active query heads of a sequence, as a bound on the head index.
static inline int32_t active_heads(const AttentionLayer& layer, const SeqStep& seq) {
  return seq.heads == 0 ? layer.n_heads : seq.heads;
}
static inline const int32_t* zone_pages(const KvView& kv, const Zone& zone, int64_t page0, int32_t kv_layer) {
  return kv.page_ids + page0 + static_cast<int64_t>(kv_layer) * zone.layer_pitch;
}
// Where a page's planes start: add RowFormat::k, v, lw.
static inline const std::byte* page_base(const KvView& kv, const RowFormat& format, int32_t page) {
  const uint64_t index = static_cast<uint32_t>(page) & ~kHostPageBit;
  return kv.pools[format.pool] + index * format.page_bytes;
}
// Bytes of `elements` stored side by side; whole bytes.
static inline int64_t plane_bytes(Codec codec, int64_t elements) { return elements * codec_bits(codec) / 8; }
// Bytes that `rows` rows of a zone take: codes, scales by their share (a scale pair of K serves k_group rows), and log
// weights.
static inline uint64_t row_bytes(const RowFormat& f, uint64_t rows) {
  uint64_t bytes = rows * static_cast<uint64_t>(plane_bytes(f.k_codec, f.k_width) + plane_bytes(f.v_codec, f.v_width));
  if (is_quantized(f.k_codec)) bytes += rows * f.k_width * 4 / f.k_group;
  if (is_quantized(f.v_codec)) bytes += rows * (f.v_width / f.v_group) * 4;
  if (f.lw != kNoPlane) bytes += rows * sizeof(float);
  return bytes;
}
// Whether quantized planes have the scales that they need.
static inline bool valid_scales(const RowFormat& f) {
  const bool k = !is_quantized(f.k_codec) || (f.ks != kNoPlane && f.k_group > 0 && f.k_group % 16 == 0);
  const bool v = !is_quantized(f.v_codec) ||
                 (f.vs != kNoPlane && f.v_group > 0 && f.v_group % 16 == 0 && f.v_width % f.v_group == 0);
  return k && v;
}

// The factor folded into queries.
static inline float query_factor(const AttentionLayer& layer, float log2e) {
  return layer.softcap == 0.0f ? layer.scale * log2e : layer.scale * (2.0f * log2e) / layer.softcap;
}

// dst = merge(dst, src) over d channels (attention.h). State: m, l, O[d], contiguous.
using MergeState = void (*)(float* dst, const float* src, int32_t d);
// out = O * (1 / l), or 0 when l is 0.
using FinishState = void (*)(const float* state, float* out, int32_t d);
void fold_sequence(const AttentionLayer& layer, const SegmentPlan& plan, int32_t seq, int32_t g, MergeState merge,
                   FinishState finish);

inline constexpr int32_t kMaxStateDim = 1024;

}  // namespace pare::attn
