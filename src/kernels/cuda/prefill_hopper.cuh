// The prefill kernel for Hopper (sm_90a), one template for all head dimensions.
//
// A block is one producer warpgroup and two consumer warpgroups; it stays on its multiprocessor and takes items (128
// query rows against their keys) by ticket. Keys come in stages of kKeys, as the plan's granules pack into them:
//   producer  warp 0 walks the plan and asks the copy engine for K and V of a stage, whole pages in one box, other
//             granules one by one; warps 1-3 bring the queries of the next item; all four gather single columns.
//   consumers 64 rows each: S = Q K^T into registers, softmax there, O += P V with P from registers. While a consumer
//             is in its softmax, the tensor cores have its own O += P V of the stage before, and the other consumer's.
// Only stages in which some row does not attend some key are masked. V rows that no row attends are cleared before
// use where they may hold anything, so that 0 * NaN cannot happen.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/prefill_walk.cuh"

namespace pare::cuda::prefill {

inline constexpr int kTileRows = 128;  // query rows of an item
inline constexpr int kWarpgroup = 128, kBlockThreads = 3 * kWarpgroup, kHelperThreads = kWarpgroup - 32;
inline constexpr int kConsumerWarps = 8;
inline constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;  // * 128 + * 256 <= 65536

template <int D>
struct Shape {
  static constexpr int kSwizzle = D % 64 == 0 ? 128 : 64;  // bytes of a plane's row: D columns are cut into planes
  static constexpr int kPlanes = D * 2 / kSwizzle, kChunks = kSwizzle / 16, kRowChunks = D / 8;
  static constexpr int kKeys = D == 256 ? 64 : 128, kGranules = kKeys / kGranuleKeys;
  static constexpr int kStages = D == 64 ? 4 : D == 96 ? 3 : 2;
  static constexpr int kQueryBuffers = D == 256 ? 1 : 2;
  static constexpr int kQueryPlane = kTileRows * kSwizzle, kKeyPlane = kKeys * kSwizzle;  // bytes
  // Byte of 16-byte chunk `chunk` of row `row` within a tile of planes of `plane` bytes.
  __device__ static uint32_t chunk_offset(int row, int chunk, int plane) {
    const uint32_t at = row * kSwizzle;
    return chunk / kChunks * plane + at + ((chunk % kChunks ^ (at >> 7 & (kChunks - 1))) << 4);
  }
};

// What consumers must know about a stage. Twice as many as stages: K's slot is reused while V's flags are still read.
template <int kKeys>
struct alignas(16) StageInfo {
  int32_t key[kKeys];  // position of each key, kNone: no key. Written if kMask or kClear
  uint32_t flags;
};
enum : uint32_t {
  kLast = 1,   // of its item
  kMask = 2,   // some row does not attend some key
  kClear = 4,  // some key is attended by no row
};

struct ItemInfo {
  Item item;
  int32_t sink, min_lo, max_limit;
  bool gap_free, end;  // end: no item, the block is done
};

struct ColumnStage {
  int32_t n, slot;
  bool last;
};

template <int D>
struct alignas(1024) Shared {
  using S = Shape<D>;
  std::byte q[S::kQueryBuffers][kTileRows * D * 2];
  std::byte k[S::kStages][S::kKeys * D * 2];
  std::byte v[S::kStages][S::kKeys * D * 2];
  StageInfo<S::kKeys> stages[2 * S::kStages];
  int32_t column_rows[S::kKeys];  // in the pool, less K's or V's first row
  ColumnStage column_stage;
  ItemInfo items[2];
  int2 row_keys[2][kTileRows];  // Row::limit, Row::lo
  int32_t row_out[2][kTileRows];  // t * H + head; -1: no row
  uint64_t q_full[S::kQueryBuffers], q_empty[S::kQueryBuffers];
  uint64_t k_full[S::kStages], k_empty[S::kStages], v_full[S::kStages], v_empty[S::kStages];
};

enum : uint32_t { kBarProducers = 1, kBarHelpers = 2, kBarTurn = 3, kBarConsumer = 5 };  // the last two: + consumer

// A position in a ring of n slots and the parity of its current round.
template <int n>
struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++slot == n) {
      slot = 0;
      parity ^= 1;
    }
  }
};

// --- producer -------------------------------------------------------------------------------------------------------

template <int D>
class Producer {
  using S = Shape<D>;

 public:
  __device__ Producer(const Arguments& args, const void* page_map, const void* granule_map, Shared<D>& shared)
      : args_(args), page_map_(page_map), granule_map_(granule_map), sh_(shared) {}

  __device__ void run_warp0() {
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
    publish(ItemInfo{.end = true});
    // The last block leaves the tickets as the next launch must find them.
    if (lane() == 0) {
      __threadfence();
      if (atomicAdd(&args_.tickets[1], 1u) == gridDim.x - 1) {
        args_.tickets[0] = 0;
        args_.tickets[1] = 0;
        __threadfence();
      }
    }
  }

  __device__ void run_helper() {
    for (int n = 0;; ++n) {
      hopper::named_barrier_sync(kBarProducers, kWarpgroup);
      const ItemInfo& info = sh_.items[n & 1];
      if (!info.end) load_queries(info.item, n & 1);
      __syncwarp();
      if (lane() == 0) hopper::barrier_arrive(hopper::shared_address(&sh_.q_full[query_.slot]));
      if (info.end) return;
      query_.advance();
      const QTile& tile = args_.plan.tiles[info.item.tile];
      const KeyList& list = args_.plan.lists[info.item.list];
      if (list.n_col == 0) continue;
      const KeyPages pages(args_, tile, info.item.kv_head);
      for (bool last = false; !last;) {
        hopper::named_barrier_sync(kBarProducers, kWarpgroup);
        last = sh_.column_stage.last;
        gather_columns(pages);
      }
    }
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }

  // Hands an item to the helpers and, through their arrival, to the consumers.
  __device__ void publish(const ItemInfo& info) {
    hopper::barrier_wait(hopper::shared_address(&sh_.q_empty[query_.slot]), query_.parity ^ 1);
    if (lane() == 0) sh_.items[n_items_ & 1] = info;
    __syncwarp();
    hopper::named_barrier_sync(kBarProducers, kWarpgroup);
    query_.advance();
    ++n_items_;
  }

  __device__ void run_item(const QTile& tile, const Item& item) {
    const KeyList list = args_.plan.lists[item.list];
    const RowBounds bounds = item_bounds(args_, tile, item, list);
    publish(ItemInfo{.item = item,
                     .sink = list.sink,
                     .min_lo = bounds.min_lo,
                     .max_limit = bounds.max_limit,
                     .gap_free = bounds.gap_free,
                     .end = false});
    const KeyPages pages(args_, tile, item.kv_head);
    GranuleWalk walk(args_.plan, list, tile, bounds.max_limit);
    int32_t lo = 0, hi = 0;
    bool more = walk.next_run(&lo, &hi);
    while (more || list.n_col == 0) {  // an item has at least one stage, be it empty
      int32_t granule = -1;            // lane s: what slot s of the stage holds
      int32_t used = 0;
      while (more && used < S::kGranules) {
        const int32_t take = min(S::kGranules - used, hi - lo);
        if (lane() >= used && lane() < used + take) granule = lo + lane() - used;
        used += take;
        lo += take;
        if (lo == hi) more = walk.next_run(&lo, &hi);
      }
      const bool last = !more && list.n_col == 0;
      copy_granules(pages, bounds, list.sink, granule, last);
      if (last) break;
    }
    if (list.n_col > 0) run_columns(tile, list, bounds, pages, item);
  }

  // One stage of granules: lane s < kGranules holds the granule of slot s, -1 for none.
  __device__ void copy_granules(const KeyPages& pages, const RowBounds& bounds, int32_t sink, int32_t granule,
                                bool last) {
    const int32_t first = granule * kGranuleKeys, end = first + kGranuleKeys;
    const bool slot = lane() < S::kGranules, present = granule >= 0;
    const int64_t row = present ? pages.row(first) : 0;
    bool whole = present && granule % (kPageRows / kGranuleKeys) == 0;
#pragma unroll
    for (int i = 1; i < kPageRows / kGranuleKeys; ++i) {
      whole &= __shfl_down_sync(kAllLanes, granule, i) == granule + i;
    }
    const uint32_t pages_at = __ballot_sync(kAllLanes, whole);
    const bool inside = ((pages_at << 1 | pages_at << 2 | pages_at << 3) >> lane() & 1u) != 0;
    const bool all = present && bounds.all_attend(sink, first, end);
    const bool none = !present || end > bounds.max_limit || (bounds.min_lo >= max(first, sink) && bounds.min_lo >= 0) ||
                      (!bounds.gap_free && !all);
    uint32_t flags = last ? kLast : 0;
    if (__any_sync(kAllLanes, slot && !all)) flags |= kMask;
    if (__any_sync(kAllLanes, slot && none)) flags |= kClear;
    const uint32_t bytes = __popc(__ballot_sync(kAllLanes, present)) * kGranuleKeys * D * 2;

    hopper::barrier_wait(hopper::shared_address(&sh_.k_empty[ring_.slot]), ring_.parity ^ 1);
    StageInfo<S::kKeys>& info = sh_.stages[info_.slot];
    if ((flags & (kMask | kClear)) != 0) {
#pragma unroll
      for (int i = 0; i < S::kKeys; i += 32) {
        const int32_t g = __shfl_sync(kAllLanes, granule, (i + lane()) / kGranuleKeys);
        info.key[i + lane()] = g < 0 ? kNone : g * kGranuleKeys + lane() % kGranuleKeys;
      }
    }
    if (lane() == 0) info.flags = flags;
    const auto copy = [&](std::byte* dst, uint64_t* full, int64_t first_row) {
      const uint32_t barrier = hopper::shared_address(full);
      __syncwarp();
      if (lane() == 0) hopper::barrier_arrive_expect(barrier, bytes);
      __syncwarp();
      if (!present || inside) return;
      const uint32_t at = hopper::shared_address(dst) + lane() * kGranuleKeys * S::kSwizzle;
#pragma unroll
      for (int p = 0; p < S::kPlanes; ++p) {
        hopper::copy_box(at + p * S::kKeyPlane, whole ? page_map_ : granule_map_, barrier, p * S::kSwizzle / 2,
                         static_cast<int32_t>(first_row + row));
      }
    };
    copy(sh_.k[ring_.slot], &sh_.k_full[ring_.slot], pages.k_row);
    hopper::barrier_wait(hopper::shared_address(&sh_.v_empty[ring_.slot]), ring_.parity ^ 1);
    copy(sh_.v[ring_.slot], &sh_.v_full[ring_.slot], pages.v_row);
    ring_.advance();
    info_.advance();
  }

  // The list's columns that no granule holds, kKeys a stage; the last stage may be empty.
  __device__ void run_columns(const QTile& tile, const KeyList& list, const RowBounds& bounds, const KeyPages& pages,
                              const Item& item) {
    const GranuleWalk walk(args_.plan, list, tile, bounds.max_limit);
    const int32_t* cols = args_.plan.cols + list.col0;
    int32_t read = 0, column = kNone;
    uint32_t rest = 0;  // lanes whose column waits for a place
    for (bool last = false; !last;) {
      hopper::barrier_wait(hopper::shared_address(&sh_.k_empty[ring_.slot]), ring_.parity ^ 1);
      hopper::barrier_wait(hopper::shared_address(&sh_.v_empty[ring_.slot]), ring_.parity ^ 1);
      StageInfo<S::kKeys>& info = sh_.stages[info_.slot];
      int32_t n = 0;
      while (n < S::kKeys) {
        if (rest == 0) {
          if (read >= list.n_col) break;
          column = read + lane() < list.n_col ? cols[read + lane()] : kNone;
          const bool wanted = column < bounds.max_limit && !walk.visits(column / kGranuleKeys);
          __syncwarp();
          rest = __ballot_sync(kAllLanes, wanted);
          read += 32;
          continue;
        }
        const int32_t at = n + __popc(rest & ((1u << lane()) - 1u));
        const bool placed = (rest >> lane() & 1u) != 0 && at < S::kKeys;
        if (placed) {
          info.key[at] = column;
          sh_.column_rows[at] = static_cast<int32_t>(pages.row(column));
        }
        __syncwarp();
        const uint32_t done = __ballot_sync(kAllLanes, placed);
        rest &= ~done;
        n += __popc(done);
      }
      last = rest == 0 && read >= list.n_col;
      for (int i = n + lane(); i < S::kKeys; i += 32) info.key[i] = kNone;
      if (lane() == 0) {
        info.flags = kMask | (last ? kLast : 0);
        if (n < S::kKeys || !bounds.gap_free || bounds.min_lo >= 0) info.flags |= kClear;
        sh_.column_stage = {n, ring_.slot, last};
      }
      __syncwarp();
      hopper::named_barrier_sync(kBarProducers, kWarpgroup);
      gather_columns(pages);
      if (lane() == 0) {
        hopper::barrier_arrive(hopper::shared_address(&sh_.k_full[ring_.slot]));
        hopper::barrier_arrive(hopper::shared_address(&sh_.v_full[ring_.slot]));
      }
      ring_.advance();
      info_.advance();
    }
  }

  // All four warps: the rows named by column_rows.
  __device__ void gather_columns(const KeyPages& pages) {
    const ColumnStage stage = sh_.column_stage;
    const std::byte* pool = args_.kv.pools[args_.pool];
    const uint32_t k = hopper::shared_address(sh_.k[stage.slot]), v = hopper::shared_address(sh_.v[stage.slot]);
    for (int i = threadIdx.x % kWarpgroup; i < stage.n * S::kRowChunks; i += kWarpgroup) {
      const int row = i / S::kRowChunks, chunk = i % S::kRowChunks;
      const uint32_t at = S::chunk_offset(row, chunk, S::kKeyPlane);
      const std::byte* src = pool + static_cast<int64_t>(sh_.column_rows[row]) * (D * 2) + chunk * 16;
      hopper::copy_async_16(k + at, src + pages.k_row * (D * 2));
      hopper::copy_async_16(v + at, src + pages.v_row * (D * 2));
    }
    hopper::copy_async_commit();
    hopper::copy_async_wait<0>();
    hopper::fence_async_proxy();
    hopper::named_barrier_sync(kBarProducers, kWarpgroup);
  }

  // Warps 1-3: the rows of an item, what they attend and where their results go.
  __device__ void load_queries(const Item& item, int parity) {
    const int thread = static_cast<int>(threadIdx.x) - 32;
    const QTile& tile = args_.plan.tiles[item.tile];
    const KeyList& list = args_.plan.lists[item.list];
    for (int i = thread; i < kTileRows; i += kHelperThreads) {
      const Row row = item_row(args_, tile, item, list, i);
      sh_.row_keys[parity][i] = {row.limit, row.lo};
      sh_.row_out[parity][i] = row.t < 0 ? -1 : row.t * args_.n_heads + row.head;
    }
    hopper::named_barrier_sync(kBarHelpers, kHelperThreads);
    const auto* q = static_cast<const std::byte*>(args_.q);
    const uint32_t dst = hopper::shared_address(sh_.q[query_.slot]);
    for (int i = thread; i < kTileRows * S::kRowChunks; i += kHelperThreads) {
      const int row = i / S::kRowChunks, chunk = i % S::kRowChunks;
      const int32_t from = sh_.row_out[parity][row];
      if (from < 0) continue;
      hopper::copy_async_16(dst + S::chunk_offset(row, chunk, S::kQueryPlane),
                            q + static_cast<int64_t>(from) * (D * 2) + chunk * 16);
    }
    hopper::copy_async_commit();
    hopper::copy_async_wait<0>();
    hopper::fence_async_proxy();
  }

  const Arguments& args_;
  const void *page_map_, *granule_map_;
  Shared<D>& sh_;
  Ring<S::kStages> ring_;
  Ring<2 * S::kStages> info_;
  Ring<S::kQueryBuffers> query_;
  int n_items_ = 0;
};

// --- consumer -------------------------------------------------------------------------------------------------------

template <int D, typename T>
class Consumer {
  using S = Shape<D>;
  static constexpr int kLogits = S::kKeys / 2, kOutputs = D / 2;  // fp32 accumulators of a thread

 public:
  __device__ Consumer(const Arguments& args, Shared<D>& shared)
      : args_(args),
        sh_(shared),
        index_(static_cast<int>(threadIdx.x) / kWarpgroup - 1),
        row_(index_ * 64 + static_cast<int>(threadIdx.x) % kWarpgroup / 32 * 16 + lane() / 4),
        factor_(args.cap_log2 == 0.0f ? args.scale_log2 : 1.0f) {}

  __device__ void run() {
    if (index_ == 1) hopper::named_barrier_arrive(kBarTurn + 0, 2 * kWarpgroup);  // the first turn is consumer 0's
    for (int n = 0;; ++n) {
      hopper::barrier_wait(hopper::shared_address(&sh_.q_full[query_.slot]), query_.parity);
      if (sh_.items[n & 1].end) return;
      run_item(n & 1);
      query_.advance();
    }
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x % 32); }
  // One lane of each consumer warp gives a slot back.
  __device__ static void release(uint64_t* empty) {
    if (lane() == 0) hopper::barrier_arrive(hopper::shared_address(empty));
  }

  __device__ void run_item(int parity) {
    float logits[kLogits], out[kOutputs];
    uint32_t weights[kLogits / 2];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) out[i] = 0.0f;
    max_[0] = max_[1] = -INFINITY;
    sum_[0] = sum_[1] = 0.0f;

    hopper::barrier_wait(hopper::shared_address(&sh_.k_full[k_.slot]), k_.parity);
    hopper::wgmma_fence();
    multiply_queries(logits);
    hopper::wgmma_wait<0>();
    hopper::pin(logits);
    release(&sh_.k_empty[k_.slot]);
    uint32_t flags = sh_.stages[info_.slot].flags;
    float scale[2];
    softmax(logits, flags, parity, scale);
    round_weights(logits, weights);
    while ((flags & kLast) == 0) {
      k_.advance();
      hopper::barrier_wait(hopper::shared_address(&sh_.k_full[k_.slot]), k_.parity);
      hopper::named_barrier_sync(kBarTurn + index_, 2 * kWarpgroup);
      hopper::wgmma_fence();
      multiply_queries(logits);
      hopper::barrier_wait(hopper::shared_address(&sh_.v_full[v_.slot]), v_.parity);
      if ((flags & kClear) != 0) clear_unattended(parity);
      multiply_values(weights, out);
      hopper::named_barrier_arrive(kBarTurn + (index_ ^ 1), 2 * kWarpgroup);
      hopper::wgmma_wait<1>();
      hopper::pin(logits);
      release(&sh_.k_empty[k_.slot]);
      info_.advance();
      flags = sh_.stages[info_.slot].flags;
      softmax(logits, flags, parity, scale);
      wait_and_rescale(out, scale);
      release(&sh_.v_empty[v_.slot]);
      v_.advance();
      round_weights(logits, weights);
    }
    hopper::barrier_wait(hopper::shared_address(&sh_.v_full[v_.slot]), v_.parity);
    if ((flags & kClear) != 0) clear_unattended(parity);
    hopper::wgmma_fence();
    multiply_values(weights, out);
    hopper::wgmma_wait<0>();
    hopper::pin(out);
    release(&sh_.v_empty[v_.slot]);
    k_.advance();
    v_.advance();
    info_.advance();
    store(out, parity);
  }

  // logits = Q K^T of K's current slot; asynchronous.
  __device__ void multiply_queries(float (&logits)[kLogits]) {
    const uint32_t q = hopper::shared_address(sh_.q[query_.slot]) + index_ * 64 * S::kSwizzle;
    const uint32_t k = hopper::shared_address(sh_.k[k_.slot]);
    constexpr int kSteps = S::kSwizzle / 32;  // of 16 channels, in a plane
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      const uint64_t a = hopper::operand<S::kSwizzle>(q + i / kSteps * S::kQueryPlane + i % kSteps * 32, 16,
                                                      8 * S::kSwizzle);
      const uint64_t b =
          hopper::operand<S::kSwizzle>(k + i / kSteps * S::kKeyPlane + i % kSteps * 32, 16, 8 * S::kSwizzle);
      hopper::wgmma<T>(logits, a, b, i > 0);
    }
    hopper::wgmma_commit();
  }

  // out += P V of V's current slot; asynchronous.
  __device__ void multiply_values(const uint32_t (&weights)[kLogits / 2], float (&out)[kOutputs]) {
    const uint32_t v = hopper::shared_address(sh_.v[v_.slot]);
#pragma unroll
    for (int i = 0; i < S::kGranules; ++i) {
      const uint64_t b =
          hopper::operand<S::kSwizzle>(v + i * kGranuleKeys * S::kSwizzle, S::kKeyPlane, 8 * S::kSwizzle);
      hopper::wgmma<T>(out, weights + 4 * i, b);
    }
    hopper::wgmma_commit();
  }

  // logits -> weights 2^(s - max), with max and sum brought up to date; scale: what earlier sums must be multiplied by.
  __device__ void softmax(float (&logits)[kLogits], uint32_t flags, int parity, float (&scale)[2]) {
    if (args_.cap_log2 != 0.0f) cap(logits);
    if ((flags & kMask) != 0) mask(logits, parity);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float m = max_[r];
#pragma unroll
      for (int i = 0; i < kLogits; i += 4) m = fmaxf(m, fmaxf(logits[i + 2 * r], logits[i + 2 * r + 1]));
      m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 1));
      m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 2));
      const float base = m == -INFINITY ? 0.0f : m * factor_;  // nothing attended yet: weights are 2^-inf
      scale[r] = exp2_fast(fmaf(max_[r], factor_, -base));
      max_[r] = m;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kLogits; i += 4) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& s = logits[i + 2 * r + c];
          s = exp2_fast(fmaf(s, factor_, -base));
          sum += s;
        }
      }
      sum_[r] = fmaf(sum_[r], scale[r], sum);
    }
  }

  // Waits for O += P V. Most stages late in a long sequence bring no new maximum and nothing to rescale. The branch also
  // keeps the compiler from letting the softmax wait: it must be over before the condition, which asks for the sums (they
  // are never negative), is known.
  __device__ void wait_and_rescale(float (&out)[kOutputs], const float (&scale)[2]) const {
    if (__any_sync(kAllLanes, scale[0] != 1.0f || scale[1] != 1.0f || sum_[0] < 0.0f || sum_[1] < 0.0f)) {
      hopper::wgmma_wait<0>();
      hopper::pin(out);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) out[i] *= scale[i / 2 % 2];
    } else {
      hopper::wgmma_wait_all();
      hopper::pin(out);
    }
  }

  __device__ static void round_weights(const float (&logits)[kLogits], uint32_t (&weights)[kLogits / 2]) {
#pragma unroll
    for (int i = 0; i < kLogits / 2; ++i) weights[i] = round_pair(logits[2 * i], logits[2 * i + 1]);
  }

  __device__ void cap(float (&logits)[kLogits]) const {
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      const float power = exp2_fast(fminf(logits[i] * args_.scale_log2, 64.0f));
      logits[i] = args_.cap_log2 * (1.0f - __fdividef(2.0f, power + 1.0f));
    }
  }

  __device__ void mask(float (&logits)[kLogits], int parity) const {
    const StageInfo<S::kKeys>& info = sh_.stages[info_.slot];
    const int32_t sink = sh_.items[parity].sink;
    const int2 upper = sh_.row_keys[parity][row_], lower = sh_.row_keys[parity][row_ + 8];
#pragma unroll
    for (int i = 0; i < kLogits; i += 4) {
      const int2 keys = *reinterpret_cast<const int2*>(&info.key[2 * i + 2 * (lane() % 4)]);
      const auto hide = [&](float& s, int32_t key, int2 row) {
        if (key >= row.x || (key >= sink && key <= row.y)) s = -INFINITY;
      };
      hide(logits[i], keys.x, upper);
      hide(logits[i + 1], keys.y, upper);
      hide(logits[i + 2], keys.x, lower);
      hide(logits[i + 3], keys.y, lower);
    }
  }

  // V rows of the current slot that no row of the item attends become 0. Both consumers write the same zeros.
  __device__ void clear_unattended(int parity) {
    const StageInfo<S::kKeys>& info = sh_.stages[info_.slot];
    const ItemInfo& item = sh_.items[parity];
    const int at = static_cast<int>(threadIdx.x) % kWarpgroup;
    if (at < S::kKeys) {
      const int32_t key = info.key[at];
      bool attended = key < item.max_limit && (key < item.sink || key > item.min_lo);
      if (attended && !item.gap_free) {
        attended = false;
        for (int i = 0; i < kTileRows && !attended; ++i) {
          const int2 row = sh_.row_keys[parity][i];
          attended = key < row.x && (key < item.sink || key > row.y);
        }
      }
      if (!attended) {
#pragma unroll
        for (int c = 0; c < S::kRowChunks; ++c) {
          *reinterpret_cast<uint4*>(sh_.v[v_.slot] + S::chunk_offset(at, c, S::kKeyPlane)) = make_uint4(0, 0, 0, 0);
        }
      }
    }
    hopper::fence_async_proxy();
    hopper::named_barrier_sync(kBarConsumer + index_, kWarpgroup);
  }

  // Divides by the sums and writes the rows, through the item's query buffer, whose rows of this consumer it reuses.
  __device__ void store(const float (&out)[kOutputs], int parity) {
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = sum_[r];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      inverse[r] = sum == 0.0f ? 0.0f : 1.0f / sum;
      const int32_t to = sh_.row_out[parity][row_ + 8 * r];
      if (args_.lse != nullptr && lane() % 4 == 0 && to >= 0) {
        constexpr float kLn2 = 0.693147180559945309f;
        args_.lse[to] = sum == 0.0f ? -INFINITY : (max_[r] * factor_ + log2f(sum)) * kLn2;
      }
    }
    std::byte* rows = sh_.q[query_.slot];
    hopper::named_barrier_sync(kBarConsumer + index_, kWarpgroup);  // the whole warpgroup is done with the queries
#pragma unroll
    for (int i = 0; i < kOutputs; i += 4) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t at = S::chunk_offset(row_ + 8 * r, i / 4, S::kQueryPlane) + lane() % 4 * 4;
        *reinterpret_cast<uint32_t*>(rows + at) =
            round_pair(out[i + 2 * r] * inverse[r], out[i + 2 * r + 1] * inverse[r]);
      }
    }
    __syncwarp();
    auto* dst = static_cast<std::byte*>(args_.out);
    const int first = row_ - lane() / 4;
#pragma unroll
    for (int i = 0; i < 16 * S::kRowChunks / 32; ++i) {
      const int row = first + (i * 32 + lane()) / S::kRowChunks, chunk = (i * 32 + lane()) % S::kRowChunks;
      const int32_t to = sh_.row_out[parity][row];
      if (to < 0) continue;
      *reinterpret_cast<uint4*>(dst + static_cast<int64_t>(to) * (D * 2) + chunk * 16) =
          *reinterpret_cast<const uint4*>(rows + S::chunk_offset(row, chunk, S::kQueryPlane));
    }
    __syncwarp();
    release(&sh_.q_empty[query_.slot]);
  }

  __device__ static float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  __device__ static uint32_t round_pair(float a, float b) {
    uint32_t pair;
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    } else {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    }
    return pair;
  }

  const Arguments& args_;
  Shared<D>& sh_;
  const int index_, row_;  // which consumer; this thread's upper row of the item
  const float factor_;     // of logits, to powers of two
  float max_[2], sum_[2];  // of the upper and lower row; sums over this thread's columns only
  Ring<S::kStages> k_, v_;
  Ring<2 * S::kStages> info_;  // follows K
  Ring<S::kQueryBuffers> query_;
};

// --- kernel ---------------------------------------------------------------------------------------------------------

template <int D, typename T>
__global__ void __launch_bounds__(kBlockThreads, 1)
    prefill_hopper(const __grid_constant__ Arguments args, const __grid_constant__ CUtensorMap page_map,
                   const __grid_constant__ CUtensorMap granule_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<Shared<D>*>(shared_bytes);
  using S = Shape<D>;
  if (threadIdx.x == 0) {
    hopper::prefetch_map(&page_map);
    hopper::prefetch_map(&granule_map);
    for (int i = 0; i < S::kQueryBuffers; ++i) {
      hopper::barrier_init(hopper::shared_address(&shared.q_full[i]), kHelperThreads / 32);
      hopper::barrier_init(hopper::shared_address(&shared.q_empty[i]), kConsumerWarps);
    }
    for (int i = 0; i < S::kStages; ++i) {
      hopper::barrier_init(hopper::shared_address(&shared.k_full[i]), 1);
      hopper::barrier_init(hopper::shared_address(&shared.v_full[i]), 1);
      hopper::barrier_init(hopper::shared_address(&shared.k_empty[i]), kConsumerWarps);
      hopper::barrier_init(hopper::shared_address(&shared.v_empty[i]), kConsumerWarps);
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    hopper::shrink_registers<kProducerRegisters>();
    Producer<D> producer(args, &page_map, &granule_map, shared);
    if (threadIdx.x < 32) {
      producer.run_warp0();
    } else {
      producer.run_helper();
    }
  } else {
    hopper::grow_registers<kConsumerRegisters>();
    Consumer<D, T>(args, shared).run();
  }
#endif
}

// Raises the kernel's limit of shared memory where it is not yet raised, and launches it.
template <int D, typename T>
cudaError_t launch_hopper(const Arguments& args, const CUtensorMap& page_map, const CUtensorMap& granule_map, int blocks,
                          cudaStream_t stream) {
  const auto kernel = prefill_hopper<D, T>;
  const auto bytes = static_cast<int>(sizeof(Shared<D>));
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  kernel<<<blocks, kBlockThreads, bytes, stream>>>(args, page_map, granule_map);
  return cudaGetLastError();
}

}  // namespace pare::cuda::prefill
