// The producer warpgroup of the Hopper prefill kernel: from a plan to stages of keys in shared memory.
//   walker   (warp 0) takes items, walks their key lists and describes stages, several ahead of their use;
//   copier   (warp 1) has the copy engine fill each stage when its slot is free: whole pages in one box, other
//            granules one by one;
//   helpers  (warps 2, 3) bring the queries of the next item and, with the copier, gather single columns.
#pragma once

#include "kernels/cuda/prefill_shared.cuh"

namespace pare::cuda::prefill {

inline constexpr int kPageGranules = kPageRows / kGranuleKeys;

template <int D>
class Walker {
  using S = Shape<D>;

 public:
  __device__ Walker(const Arguments& args, Shared<D>& shared) : args_(args), sh_(shared) {}

  __device__ void run() {
    const ItemOrder order(args_);
    const int64_t count = order.count();
    int64_t next = blockIdx.x;
    while (next < count) {
      uint32_t ticket = 0;
      if (lane() == 0) ticket = atomicAdd(&args_.tickets[0], 1u);
      Item item;
      int32_t pack;
      order.locate(next, &item.tile, &item.kv_head, &pack);
      const QTile tile = args_.plan.tiles[item.tile];
      const int32_t end = min(args_.group, (pack + 1) * args_.pack);
      for (int32_t r = pack * args_.pack; next_head_run(args_, tile, r, end, &item); r = item.r_end) {
        run_item(tile, item);
      }
      next = static_cast<int64_t>(gridDim.x) + __shfl_sync(kAllLanes, ticket, 0);
    }
    publish_item(ItemInfo{.end = true});
    StageInfo<S::kKeys>& info = begin_stage();
    publish_stage(info, kEnd);
    // The last block leaves the tickets as the next launch must find them.
    if (lane() == 0) {
      __threadfence();
      if (atomicAdd(&args_.tickets[1], 1u) == gridDim.x - 1) {
        args_.tickets[0] = 0;
        args_.tickets[1] = 0;
      }
    }
  }

 private:
  // Hands an item to the helpers and, through their arrival, to the consumers.
  __device__ void publish_item(const ItemInfo& info) {
    wait(sh_.item_empty[item_.slot], item_.parity ^ 1);
    if (lane() == 0) sh_.items[item_.slot] = info;
    __syncwarp();
    hopper::named_barrier_sync(kBarItem, 32 * (1 + kHelperWarps));
    item_.advance();
  }
  __device__ StageInfo<S::kKeys>& begin_stage() {
    wait(sh_.info_empty[info_.slot], info_.parity ^ 1);
    return sh_.infos[info_.slot];
  }
  __device__ void publish_stage(StageInfo<S::kKeys>& info, uint32_t flags) {
    if (lane() == 0) info.flags = flags;
    __syncwarp();
    if (lane() == 0) arrive(sh_.info_full[info_.slot]);
    info_.advance();
  }

  __device__ void run_item(const QTile& tile, const Item& item) {
    const KeyList list = args_.plan.lists[item.list];
    const RowBounds bounds = item_bounds(args_, tile, item, list);
    publish_item(ItemInfo{.item = item,
                          .sink = list.sink,
                          .min_lo = bounds.min_lo,
                          .max_limit = bounds.max_limit,
                          .gap_free = bounds.gap_free,
                          .end = false});
    const KeyPages pages(args_, tile, item.kv_head);
    GranuleWalk walk(args_.plan, list, tile, bounds.max_limit);
    int32_t lo = 0, hi = 0;
    bool more = walk.next_run(&lo, &hi);
    for (bool first = true; more || first; first = false) {  // an item has at least one stage, be it empty
      int32_t granule = -1;  // lane l: what slot l % kGranules of stage l / kGranules of this batch holds
      int32_t used = 0;
      while (more && used < 32) {
        const int32_t take = min(32 - used, hi - lo);
        if (lane() >= used && lane() < used + take) granule = lo + lane() - used;
        used += take;
        lo += take;
        if (lo == hi) more = walk.next_run(&lo, &hi);
      }
      if (used == 0 && list.n_col > 0) break;
      describe_granules(pages, bounds, list.sink, granule, used, !more && list.n_col == 0);
    }
    if (list.n_col > 0) describe_columns(walk, list, bounds, pages);
  }

  // Some stages of granules at once, which costs little more than one: `used` slots from lane 0 on.
  __device__ void describe_granules(const KeyPages& pages, const RowBounds& bounds, int32_t sink, int32_t granule,
                                    int32_t used, bool last) {
    constexpr uint32_t kSlots = (1u << S::kGranules) - 1u;
    const int32_t first = granule * kGranuleKeys, end = first + kGranuleKeys;
    const int slot = lane() % S::kGranules;
    const bool present = granule >= 0;
    const auto row = static_cast<int32_t>(present ? pages.k_row + pages.row(first) : 0);
    const int32_t page_end = __shfl_down_sync(kAllLanes, granule, kPageGranules - 1);
    const bool whole = present && granule % kPageGranules == 0 && slot + kPageGranules <= S::kGranules &&
                       page_end == granule + kPageGranules - 1;  // granules ascend: those between are there
    const bool all = present && bounds.all_attend(sink, first, end);
    const bool some_none =
        !present || end > bounds.max_limit || bounds.min_lo >= max(first, max(sink, 0)) || (!bounds.gap_free && !all);
    const uint32_t presents = __ballot_sync(kAllLanes, present), wholes = __ballot_sync(kAllLanes, whole),
                   masks = __ballot_sync(kAllLanes, !all), clears = __ballot_sync(kAllLanes, some_none);
    for (int at = 0; at == 0 || at < used; at += S::kGranules) {
      uint32_t flags = last && at + S::kGranules >= used ? kLast : 0;
      if ((masks >> at & kSlots) != 0) flags |= kMask;
      if ((clears >> at & kSlots) != 0) flags |= kClear;
      StageInfo<S::kKeys>& info = begin_stage();
      if ((flags & (kMask | kClear)) != 0) {
#pragma unroll
        for (int i = 0; i < S::kKeys; i += 32) {
          const int32_t g = __shfl_sync(kAllLanes, granule, at + (i + lane()) / kGranuleKeys);
          info.key[i + lane()] = g < 0 ? kNone : g * kGranuleKeys + lane() % kGranuleKeys;
        }
      }
      if (lane() - slot == at) info.row[slot] = row;
      if (lane() == at) {
        info.v_delta = static_cast<int32_t>(pages.v_row - pages.k_row);
        info.present = presents >> at & kSlots;
        info.pages = wholes >> at & kSlots;
      }
      publish_stage(info, flags);
    }
  }

  // The list's columns that no granule holds, kKeys a stage; the last stage may be empty.
  __device__ void describe_columns(const GranuleWalk& walk, const KeyList& list, const RowBounds& bounds,
                                   const KeyPages& pages) {
    const int32_t* cols = args_.plan.cols + list.col0;
    int32_t read = 0, column = kNone;
    uint32_t rest = 0;  // lanes whose column waits for a place
    for (bool last = false; !last;) {
      StageInfo<S::kKeys>& info = begin_stage();
      int32_t n = 0;
      while (n < S::kKeys) {
        if (rest == 0) {
          if (read >= list.n_col) break;
          column = read + lane() < list.n_col ? cols[read + lane()] : kNone;
          const bool wanted = column < bounds.max_limit && !walk.visits(column / kGranuleKeys);
          rest = __ballot_sync(kAllLanes, wanted);
          read += 32;
          continue;
        }
        const int32_t at = n + __popc(rest & ((1u << lane()) - 1u));
        const bool placed = (rest >> lane() & 1u) != 0 && at < S::kKeys;
        if (placed) {
          info.key[at] = column;
          info.row[at] = static_cast<int32_t>(pages.k_row + pages.row(column));
        }
        const uint32_t done = __ballot_sync(kAllLanes, placed);
        rest &= ~done;
        n += __popc(done);
      }
      last = rest == 0 && read >= list.n_col;
      for (int i = n + lane(); i < S::kKeys; i += 32) info.key[i] = kNone;
      if (lane() == 0) {
        info.v_delta = static_cast<int32_t>(pages.v_row - pages.k_row);
        info.n_columns = n;
      }
      uint32_t flags = kColumns | kMask | (last ? kLast : 0);
      if (n < S::kKeys || !bounds.gap_free || bounds.min_lo >= 0) flags |= kClear;
      publish_stage(info, flags);
    }
  }

  const Arguments& args_;
  Shared<D>& sh_;
  Ring<S::kInfos> info_;
  Ring<2> item_;
};

// Rows of K and V named by a stage of columns, by the copier and the helpers together.
template <int D>
__device__ void gather_columns(const Arguments& args, const StageInfo<Shape<D>::kKeys>& info, std::byte* k,
                               std::byte* v) {
  using S = Shape<D>;
  constexpr int kThreads = 32 * (1 + kHelperWarps);
  const std::byte* pool = args.kv.pools[args.pool];
  const uint32_t k_at = hopper::shared_address(k), v_at = hopper::shared_address(v);
  const int64_t v_delta = static_cast<int64_t>(info.v_delta) * (D * 2);
  for (int i = static_cast<int>(threadIdx.x) - 32; i < info.n_columns * S::kRowChunks; i += kThreads) {
    const int row = i / S::kRowChunks, chunk = i % S::kRowChunks;
    const uint32_t at = S::chunk_offset(row, chunk, S::kKeyPlane);
    const std::byte* src = pool + static_cast<int64_t>(info.row[row]) * (D * 2) + chunk * 16;
    hopper::copy_async_16(k_at + at, src);
    hopper::copy_async_16(v_at + at, src + v_delta);
  }
  hopper::copy_async_commit();
  hopper::copy_async_wait<0>();
  hopper::fence_async_proxy();
  hopper::named_barrier_sync(kBarColumns, kThreads);
}

// Fills stages in the order K of a stage, V of the one before, in which their slots become free.
template <int D>
class Copier {
  using S = Shape<D>;

 public:
  __device__ Copier(const Arguments& args, const void* page_map, const void* granule_map, Shared<D>& shared)
      : args_(args), page_map_(page_map), granule_map_(granule_map), sh_(shared) {}

  __device__ void run() {
    bool v_due = false;
    while (true) {
      wait(sh_.info_full[k_info_.slot], k_info_.parity);
      const uint32_t flags = sh_.infos[k_info_.slot].flags;
      if ((flags & kColumns) != 0) {
        if (v_due) copy_values();
        v_due = false;
        copy_columns((flags & kLast) != 0);
      } else {
        if ((flags & kEnd) == 0) copy_keys();
        if (v_due) copy_values();
        if ((flags & kEnd) != 0) return;
        v_due = true;
      }
    }
  }

 private:
  __device__ void copy_keys() {
    wait(sh_.k_empty[k_.slot], k_.parity ^ 1);
    fill(sh_.infos[k_info_.slot], sh_.k[k_.slot], sh_.k_full[k_.slot], 0);
    k_.advance();
    k_info_.advance();
  }
  __device__ void copy_values() {
    begin_values();
    const StageInfo<S::kKeys>& info = sh_.infos[v_info_.slot];
    fill(info, sh_.v[v_.slot], sh_.v_full[v_.slot], info.v_delta);
    v_.advance();
    v_info_.advance();
  }
  // Waits for V's slot, whose last user was the last to need the description of its stage.
  __device__ void begin_values() {
    wait(sh_.v_empty[v_.slot], v_.parity ^ 1);
    if (used_ < S::kStages) {
      ++used_;
      return;
    }
    if (lane() == 0) arrive(sh_.info_empty[done_info_.slot]);
    done_info_.advance();
  }
  __device__ void copy_columns(bool last) {
    wait(sh_.k_empty[k_.slot], k_.parity ^ 1);
    begin_values();
    if (lane() == 0) sh_.column_task = {k_info_.slot, k_.slot, last};
    hopper::named_barrier_sync(kBarColumns, 32 * (1 + kHelperWarps));
    gather_columns<D>(args_, sh_.infos[k_info_.slot], sh_.k[k_.slot], sh_.v[k_.slot]);
    if (lane() == 0) {
      arrive(sh_.k_full[k_.slot]);
      arrive(sh_.v_full[k_.slot]);
    }
    __syncwarp();
    k_.advance();
    v_.advance();
    k_info_.advance();
    v_info_.advance();
  }

  // The granules of a stage, from K's rows + delta.
  __device__ void fill(const StageInfo<S::kKeys>& info, std::byte* dst, uint64_t& full, int32_t delta) {
    if (lane() == 0) {
      const uint32_t present = info.present, pages = info.pages, barrier = hopper::shared_address(&full);
      hopper::barrier_arrive_expect(barrier, __popc(present) * kGranuleKeys * D * 2);
      for (int s = 0; s < S::kGranules;) {
        const bool page = (pages >> s & 1u) != 0;
        if ((present >> s & 1u) != 0) {
          const uint32_t at = hopper::shared_address(dst) + s * kGranuleKeys * S::kSwizzle;
#pragma unroll
          for (int p = 0; p < S::kPlanes; ++p) {
            hopper::copy_box(at + p * S::kKeyPlane, page ? page_map_ : granule_map_, barrier, p * S::kSwizzle / 2,
                             info.row[s] + delta);
          }
        }
        s += page ? kPageGranules : 1;
      }
    }
    __syncwarp();
  }

  const Arguments& args_;
  const void *page_map_, *granule_map_;
  Shared<D>& sh_;
  Ring<S::kStages> k_, v_;
  Ring<S::kInfos> k_info_, v_info_, done_info_;
  int used_ = 0;  // slots of V so far
};

// The rows of an item, what they attend and where their results go.
template <int D>
__device__ void load_queries(const Arguments& args, const Item& item, int slot, std::byte* dst, Shared<D>& sh) {
  using S = Shape<D>;
  constexpr int kThreads = 32 * kHelperWarps;
  const int thread = static_cast<int>(threadIdx.x) - 64;
  const QTile& tile = args.plan.tiles[item.tile];
  const KeyList& list = args.plan.lists[item.list];
  for (int i = thread; i < kTileRows; i += kThreads) {
    const Row row = item_row(args, tile, item, list, i);
    sh.row_keys[slot][i] = {row.limit, row.lo};
    sh.row_out[slot][i] = row.t < 0 ? -1 : row.t * args.n_heads + row.head;
  }
  hopper::named_barrier_sync(kBarHelpers, kThreads);
  const auto* q = static_cast<const std::byte*>(args.q);
  const uint32_t q_at = hopper::shared_address(dst);
  for (int i = thread; i < kTileRows * S::kRowChunks; i += kThreads) {
    const int row = i / S::kRowChunks, chunk = i % S::kRowChunks;
    const int32_t from = sh.row_out[slot][row];
    if (from < 0) continue;
    hopper::copy_async_16(q_at + S::chunk_offset(row, chunk, S::kQueryPlane),
                          q + static_cast<int64_t>(from) * (D * 2) + chunk * 16);
  }
  hopper::copy_async_commit();
  hopper::copy_async_wait<0>();
  hopper::fence_async_proxy();
}

template <int D>
__device__ void run_helper(const Arguments& args, Shared<D>& sh) {
  using S = Shape<D>;
  Ring<2> items;
  Ring<S::kQueryBuffers> queries;
  while (true) {
    hopper::named_barrier_sync(kBarItem, 32 * (1 + kHelperWarps));
    const ItemInfo info = sh.items[items.slot];
    wait(sh.q_empty[queries.slot], queries.parity ^ 1);
    if (!info.end) load_queries<D>(args, info.item, items.slot, sh.q[queries.slot], sh);
    __syncwarp();
    if (lane() == 0) arrive(sh.q_full[queries.slot]);
    if (info.end) return;
    items.advance();
    queries.advance();
    if (args.plan.lists[info.item.list].n_col == 0) continue;
    for (bool last = false; !last;) {
      hopper::named_barrier_sync(kBarColumns, 32 * (1 + kHelperWarps));
      const ColumnTask task = sh.column_task;
      last = task.last;
      gather_columns<D>(args, sh.infos[task.info], sh.k[task.slot], sh.v[task.slot]);
    }
  }
}

}  // namespace pare::cuda::prefill
