// How the prefill kernels read a BlockPlan: work items, rows, and the granules and columns that a tile visits. Every
// function here is called by all lanes of a converged warp with equal arguments and returns equal results, unless it
// says otherwise. The CPU's counterpart is kernels/attention_walk.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/prefill_launch.h"

namespace pare::cuda::prefill {

inline constexpr int32_t kNone = INT32_MAX;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

// --- work items -----------------------------------------------------------------------------------------------------

// Items are (tile, KV head, pack of its query heads). The first tiles of the plan, the longest, go out with all their
// heads; the rest KV head by KV head where there are many, so that the keys of one head stay in L2.
struct ItemOrder {
  int32_t n_tiles, n_kv_heads, packs, lead_tiles, heads_per_section;

  __device__ ItemOrder(const Arguments& args)
      : n_tiles(*args.plan.n_tiles),
        n_kv_heads(args.kv.n_kv_heads),
        packs((args.group + args.pack - 1) / args.pack),
        lead_tiles(n_tiles < kLeadTiles ? n_tiles : kLeadTiles) {
    const int64_t per_head = static_cast<int64_t>(n_tiles) * packs;
    const int64_t heads = per_head == 0 ? 1 : (kSectionItems + per_head - 1) / per_head;
    heads_per_section = heads < n_kv_heads ? static_cast<int32_t>(heads) : n_kv_heads;
  }
  __device__ int64_t count() const { return static_cast<int64_t>(n_tiles) * n_kv_heads * packs; }
  __device__ void locate(int64_t item, int32_t* tile, int32_t* kv_head, int32_t* pack) const {
    const int32_t per_tile = n_kv_heads * packs;
    const int64_t lead = static_cast<int64_t>(lead_tiles) * per_tile;
    int32_t first_head = 0, heads = n_kv_heads, first_tile = 0;
    if (item >= lead) {
      item -= lead;
      first_tile = lead_tiles;
      const int64_t per_section = static_cast<int64_t>(n_tiles - lead_tiles) * heads_per_section * packs;
      const auto section = static_cast<int32_t>(item / per_section);
      item -= section * per_section;
      first_head = section * heads_per_section;
      heads = min(heads_per_section, n_kv_heads - first_head);
    }
    const int32_t unit = static_cast<int32_t>(item % (heads * packs));
    *tile = first_tile + static_cast<int32_t>(item / (heads * packs));
    *kv_head = first_head + unit / packs;
    *pack = unit % packs;
  }

 private:
  static constexpr int32_t kLeadTiles = 4, kSectionItems = 1024;
};

// Query heads [r_begin, r_end) of KV head `kv_head` over the rows of a tile, all with key list `list`.
struct Item {
  int32_t tile, kv_head, r_begin, r_end, list;
};

// The heads of KV head `item.kv_head` that the tile names and that share a list: the first such run that begins at or
// after r, and ends before r_limit. False: none left.
__device__ inline bool next_head_run(const Arguments& args, const QTile& tile, int32_t r, int32_t r_limit, Item* item) {
  const int32_t active = args.seqs[tile.seq].heads;
  const int32_t heads = active == 0 ? args.n_heads : active;
  const auto head = [&](int32_t k) { return item->kv_head * args.qa + k * args.qb; };
  const auto named = [&](int32_t h) { return h >= tile.head0 && h < tile.head0 + tile.n_heads && h < heads; };
  const auto list_of = [&](int32_t h) {
    return tile.list_heads == 0 ? tile.list0 : tile.list0 + (h - tile.head0) / tile.list_heads;
  };
  while (r < r_limit && !named(head(r))) ++r;
  if (r >= r_limit) return false;
  item->r_begin = r;
  item->list = list_of(head(r));
  while (r < r_limit && named(head(r)) && list_of(head(r)) == item->list) ++r;
  item->r_end = r;
  return true;
}

// One query row of an item. Attends key j iff j < limit and (j < sink or j > lo).
struct Row {
  int32_t t = -1, head = 0;  // t < 0: no row
  int32_t limit = 0, lo = kNone;
};

// Row `index` of an item (position-major, heads inside). Not warp-wide: each thread asks for its own.
__device__ inline Row item_row(const Arguments& args, const QTile& tile, const Item& item, const KeyList& list,
                               int32_t index) {
  Row row;
  const int32_t heads = item.r_end - item.r_begin, i = index / heads;
  if (i >= tile.rows) return row;
  const int32_t t = (tile.flags & kTileGathered) != 0 ? args.plan.row_ids[tile.row0 + i] : tile.row0 + i;
  row.head = item.kv_head * args.qa + (item.r_begin + index % heads) * args.qb;
  if ((tile.flags & kTileSkipClaimed) != 0 && args.plan.claimed != nullptr) {
    const int64_t words = (static_cast<int64_t>(args.n_rows) + 31) / 32;
    if ((args.plan.claimed[row.head * words + t / 32] >> (t % 32) & 1u) != 0) return row;
  }
  const SeqStep& seq = args.seqs[tile.seq];
  const int32_t pos = seq.pos + (t - seq.q_row);
  row.t = t;
  row.limit = args.plan.limit != nullptr ? args.plan.limit[t] : pos + 1;
  row.lo = pos >= list.dense_from ? -1 : pos - list.window;
  return row;
}

// What is true of all rows of an item. Claimed rows count as rows: bounds may be wider than needed, never narrower.
struct RowBounds {
  int32_t min_limit = kNone, max_limit = 0;  // exclusive key bounds
  int32_t min_lo = kNone, max_lo = INT32_MIN;
  bool gap_free = true;  // every key of [sink, max_limit) beyond min_lo is attended by some row

  // Whether every row attends all keys [j0, j1).
  __device__ bool all_attend(int32_t sink, int32_t j0, int32_t j1) const {
    return j1 <= min_limit && (j1 <= sink || j0 > max_lo);
  }
};

__device__ inline RowBounds item_bounds(const Arguments& args, const QTile& tile, const Item& item,
                                        const KeyList& list) {
  RowBounds bounds;
  const bool gathered = (tile.flags & kTileGathered) != 0;
  const bool claimed = (tile.flags & kTileSkipClaimed) != 0 && args.plan.claimed != nullptr;
  if (!gathered && !claimed && args.plan.limit == nullptr) {
    const SeqStep& seq = args.seqs[tile.seq];
    const int32_t first = seq.pos + (tile.row0 - seq.q_row), last = first + tile.rows - 1;
    bounds.min_limit = first + 1;
    bounds.max_limit = last + 1;
    bounds.min_lo = last >= list.dense_from ? -1 : first - list.window;
    bounds.max_lo = first >= list.dense_from ? -1 : min(last, list.dense_from - 1) - list.window;
    return bounds;
  }
  const int32_t n = tile.rows * (item.r_end - item.r_begin);
  for (int32_t i = threadIdx.x % 32; i < n; i += 32) {
    const Row row = item_row(args, tile, item, list, i);
    if (row.t < 0) continue;
    bounds.min_limit = min(bounds.min_limit, row.limit);
    bounds.max_limit = max(bounds.max_limit, row.limit);
    bounds.min_lo = min(bounds.min_lo, row.lo);
    bounds.max_lo = max(bounds.max_lo, row.lo);
  }
  bounds.min_limit = __reduce_min_sync(kAllLanes, bounds.min_limit);
  bounds.max_limit = __reduce_max_sync(kAllLanes, bounds.max_limit);
  bounds.min_lo = __reduce_min_sync(kAllLanes, bounds.min_lo);
  bounds.max_lo = __reduce_max_sync(kAllLanes, bounds.max_lo);
  bounds.gap_free = bounds.max_lo < 0;
  return bounds;
}

// --- keys -----------------------------------------------------------------------------------------------------------

// Ascending spans of granules [lo, hi), read 32 at a time, one a lane; lo = kNone at the end.
class RangeSpans {
 public:
  // rel: ranges are distances, taken over positions [pos_lo, pos_hi), longest first so that spans ascend.
  __device__ RangeSpans(const Range* ranges, int32_t n, bool rel, const QTile& tile, int32_t key_end)
      : ranges_(ranges),
        n_(n),
        rel_(rel),
        pos_lo_(tile.pos_lo),
        pos_hi_(tile.pos_hi),
        key_end_((key_end + kGranuleKeys - 1) / kGranuleKeys * kGranuleKeys) {
    advance();
  }
  int32_t lo, hi;

  __device__ void advance() {
    while (unread_ == 0 && next_ < n_) {
      const int32_t i = next_ + static_cast<int32_t>(threadIdx.x % 32);
      cached_ = i < n_ ? span(i) : Range{0, 0};
      unread_ = __ballot_sync(kAllLanes, cached_.lo < cached_.hi);
      next_ += 32;
    }
    if (unread_ == 0) {
      lo = hi = kNone;
      return;
    }
    const int lane = __ffs(static_cast<int>(unread_)) - 1;
    unread_ &= unread_ - 1;
    lo = __shfl_sync(kAllLanes, cached_.lo, lane);
    hi = __shfl_sync(kAllLanes, cached_.hi, lane);
  }
  // Whether a span holds the granule. Not warp-wide: each thread asks for its own.
  __device__ bool holds(int32_t granule) const {
    int32_t first = 0, end = n_;  // spans that end at or before the granule come first
    while (first < end) {
      const int32_t middle = (first + end) / 2;
      const Range keys = key_range(middle);
      if ((keys.hi + kGranuleKeys - 1) / kGranuleKeys <= granule) {
        first = middle + 1;
      } else {
        end = middle;
      }
    }
    return first < n_ && span(first).lo <= granule && granule < span(first).hi;
  }

 private:
  __device__ Range key_range(int32_t i) const {
    if (!rel_) return {ranges_[i].lo, min(ranges_[i].hi, key_end_)};
    const Range d = ranges_[n_ - 1 - i];
    return {max(0, pos_lo_ - d.hi + 1), min(pos_hi_ - d.lo, key_end_)};
  }
  __device__ Range span(int32_t i) const {
    const Range keys = key_range(i);
    if (keys.hi <= keys.lo) return {0, 0};
    return {keys.lo / kGranuleKeys, (keys.hi + kGranuleKeys - 1) / kGranuleKeys};
  }

  const Range* ranges_;
  int32_t n_, next_ = 0;
  bool rel_;
  int32_t pos_lo_, pos_hi_, key_end_;  // the last: of the last granule
  uint32_t unread_ = 0;
  Range cached_ = {0, 0};
};

// The same for a bitmap: a span is a run of set bits within a word.
class BitSpans {
 public:
  __device__ BitSpans(const uint32_t* bits, int32_t bit_keys, int32_t key_end)
      : bits_(bits), granules_(bit_keys / kGranuleKeys), n_(0) {
    if (bit_keys > 0) n_ = (key_end + bit_keys - 1) / bit_keys;
    end_ = (key_end + kGranuleKeys - 1) / kGranuleKeys;
    advance();
  }
  int32_t lo, hi;

  __device__ void advance() {
    while (word_ == 0 && at_ < n_) {
      if (at_ % 1024 == 0) {  // lane l caches word l of the next 32
        const int32_t i = at_ + static_cast<int32_t>(threadIdx.x % 32) * 32;
        cached_ = i < n_ ? bits_[i / 32] : 0u;
      }
      word_ = __shfl_sync(kAllLanes, cached_, at_ % 1024 / 32);
      if (n_ - at_ < 32) word_ &= (1u << (n_ - at_)) - 1u;
      at_ += 32;
    }
    if (word_ == 0) {
      lo = hi = kNone;
      return;
    }
    const int32_t first = __ffs(static_cast<int>(word_)) - 1;
    const uint32_t rest = ~(word_ >> first);
    const int32_t length = rest == 0 ? 32 : __ffs(static_cast<int>(rest)) - 1;
    word_ &= first + length >= 32 ? 0u : ~0u << (first + length);
    lo = (at_ - 32 + first) * granules_;
    hi = min(lo + length * granules_, end_);
  }
  __device__ bool holds(int32_t granule) const {
    if (n_ == 0) return false;
    const int32_t bit = granule / granules_;
    return (bits_[bit / 32] >> (bit % 32) & 1u) != 0;
  }

 private:
  const uint32_t* bits_;
  int32_t granules_, n_, end_, at_ = 0;
  uint32_t word_ = 0, cached_ = 0;
};

// The granules that a tile visits for one list, in ascending order, as maximal runs.
class GranuleWalk {
 public:
  // Keys at key_end and beyond are left out: no row of the item attends them.
  __device__ GranuleWalk(const BlockPlan& plan, const KeyList& list, const QTile& tile, int32_t key_end)
      : abs_(plan.ranges + list.abs0, list.n_abs, false, tile, key_end),
        rel_(plan.ranges + list.rel0, list.n_rel, true, tile, key_end),
        bits_(plan.bits + list.bit0, list.bit_keys, key_end) {}

  __device__ bool next_run(int32_t* lo, int32_t* hi) {
    *lo = *hi = min(min(abs_.lo, rel_.lo), bits_.lo);
    if (*lo == kNone) return false;
    bool grew = true;
    while (grew) {
      grew = false;
      const auto take = [&](auto& spans) {
        while (spans.lo <= *hi) {
          *hi = max(*hi, spans.hi);
          spans.advance();
          grew = true;
        }
      };
      take(abs_);
      take(rel_);
      take(bits_);
    }
    return true;
  }
  // Not warp-wide.
  __device__ bool visits(int32_t granule) const {
    return bits_.holds(granule) || abs_.holds(granule) || rel_.holds(granule);
  }

 private:
  RangeSpans abs_, rel_;
  BitSpans bits_;
};

// Where the pages of an item's KV head lie, in rows of D elements from the pool's base.
struct KeyPages {
  const int32_t* ids;
  int64_t k_row, v_row;
  int32_t page_stride;

  __device__ KeyPages(const Arguments& args, const QTile& tile, int32_t kv_head) {
    static_assert(kZoneFull == 0);
    const RowFormat& format = args.kv.formats[static_cast<int64_t>(args.kv_layer) * args.kv.n_kv_heads + kv_head];
    const int32_t row_bytes = args.head_dim * 2;
    ids = args.kv.page_ids + args.seqs[tile.seq].page0 +
          static_cast<int64_t>(args.kv_layer) * args.kv.zones[kZoneFull].layer_pitch;
    k_row = static_cast<int64_t>(format.k / row_bytes);
    v_row = static_cast<int64_t>(format.v / row_bytes);
    page_stride = static_cast<int32_t>(format.page_bytes / row_bytes);
  }
  // Add k_row or v_row.
  __device__ int64_t row(int32_t key) const {
    return static_cast<int64_t>(ids[key / kPageRows]) * page_stride + key % kPageRows;
  }
};

}  // namespace pare::cuda::prefill
