// What the roles of the decode kernel share: parameters, jobs, the walk over a job's tiles, and shared memory.
//
// A block has three kinds of warps. One plans: it resolves the block's work items ahead of time into jobs in shared
// memory, so that no other warp follows indices through global memory. Two load: they keep rings of K and V tiles
// filled, tiles ahead and across the borders of jobs. Eight attend. Loading and attending warps walk the same tiles of
// the same jobs in the same order, each on its own.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention.h"

namespace pare::cuda::decode {

inline constexpr int32_t kAttendWarps = 8;
inline constexpr int32_t kLoadWarps = 2;  // one for K, one for V
inline constexpr int32_t kAttendThreads = 32 * kAttendWarps;
inline constexpr int32_t kBlockThreads = 32 * (kAttendWarps + kLoadWarps + 1);
inline constexpr int32_t kMaxColumns = 64;  // query rows of a pass
inline constexpr uint32_t kAttendBarrier = 1;
inline constexpr float kLog2e = 1.44269504088896340736f;

struct Params {
  AttentionLayer layer;
  SegmentPlan plan;
  int32_t group;        // R
  int32_t stages;       // of the K ring and of the V ring
  int32_t jobs;         // of the ring of jobs
  int32_t max_columns;  // query rows of a pass: 8, 16, 32 or 64
  int32_t query_terms;  // 1, or 2: queries may be scaled by channel, which takes 16 bits twice
  float factor;         // what a dot product is multiplied by: attn::query_factor
  float cap;            // softcap in log2 units; 0: none
};

__device__ inline int32_t lane_id() { return static_cast<int32_t>(threadIdx.x) % 32; }

enum : uint32_t { kJobPicked = 1, kJobScored = 2, kJobCausal = 4, kJobLastPass = 8, kJobNone = 16 };

// One pass over an item for one KV head: the query rows that go through its K and V together. They are columns [first,
// first + count) of the item's (query row, head of the group) pairs; in a picked zone, where each query row reads rows
// of its own, the heads of one query row.
struct Job {
  const std::byte* pool;
  const int32_t* pages;
  uint64_t k, v, lw;  // planes
  uint32_t page_bytes, flags;
  int32_t k_width, v_width, chan, page_rows, span, g;
  int32_t row0, row_end, sink, window;  // zone rows of the run
  int32_t unit_spans, unit_begin, unit_end, unit0, span_begin, span_end;
  int32_t member0, n_members, seq, n_parts;  // seq, n_parts: the only member's sequence and its partials in all
  int32_t first, count;
  int32_t min_limit, max_limit, min_pos, max_pos;  // over the columns, in zone rows
  const Range* picks;
  int32_t n_picks;

  __device__ bool is(uint32_t flag) const { return (flags & flag) != 0; }
  __device__ bool absent() const { return v_width == 0; }
  __device__ bool reads_keys() const { return !is(kJobScored) && k_width > 0; }
  // Whether some column attends zone row j, or a row of [j0, j1); whether all columns attend all of [j0, j1).
  __device__ bool any_sees(int32_t j) const { return j >= row0 && j < max_limit && (j < sink || min_pos - j < window); }
  __device__ bool any_sees(int32_t j0, int32_t j1) const {
    return j1 > row0 && j0 < max_limit && (j0 < sink || min_pos - (j1 - 1) < window);
  }
  __device__ bool all_see(int32_t j0, int32_t j1) const {
    return j0 >= row0 && j1 <= min_limit && (j1 <= sink || max_pos - j0 < window);
  }
};

// A query row and head of a job.
struct Column {
  float* part;     // of unit 0 of the run; null: the column is padding or an inactive head
  int64_t stride;  // floats from a unit's part to the next
  int32_t t, head;
  int32_t pos, limit;  // in zone rows
  int32_t direct;      // the row attends this unit only: it is finished at once and leaves no partial
};
__device__ inline int32_t padded_columns(int32_t count) {
  return count <= 8 ? 8 : count <= 16 ? 16 : count <= 32 ? 32 : 64;
}

// Partials of a sequence in all: what arrivals count up to.
__device__ inline int32_t partials_of(const SegmentPlan& plan, const SeqStep& seq) {
  int32_t n = 0;
  for (int32_t f = 0; f < seq.n_folds; ++f) n += plan.folds[seq.fold0 + f].n_parts;
  return n;
}

// Slots of the rings that are filled and attended together. Slot s of a tile holds zone row first + s where that is in
// [lo, hi); in a picked zone it holds row first + s of the rows of picks [lo, hi) laid end to end, `total` in all.
struct Tile {
  int32_t first, lo, hi, total;
};

// Calls on_tile for the tiles of a span that some column of the job attends. Called by whole warps.
template <int kTileRows, typename OnTile>
__device__ inline void walk_span(const Job& job, int32_t span, OnTile on_tile) {
  if (job.is(kJobPicked)) {
    const int32_t lo = span * job.span, hi = min(lo + job.span, job.n_picks);
    int32_t rows = 0;
    for (int32_t p = lo + lane_id(); p < hi; p += 32) rows += job.picks[p].hi - job.picks[p].lo;
    rows = __reduce_add_sync(~0u, rows);
    for (int32_t first = 0; first < rows; first += kTileRows) on_tile(Tile{first, lo, hi, rows});
    return;
  }
  const int32_t lo = max(span * job.span, job.row0), hi = min((span + 1) * job.span, job.row_end);
  for (int32_t first = lo / kTileRows * kTileRows; first < hi; first += kTileRows) {
    if (job.any_sees(max(first, lo), min(first + kTileRows, hi))) on_tile(Tile{first, lo, hi, 0});
  }
}

// Where things lie in dynamic shared memory, by byte offset. Rows have 16 bytes more than they need, so that the rows
// of an 8 x 8 matrix start in different banks.
struct SharedLayout {
  uint32_t keys, values, queries, weights, column_max, column_sum, unit_states, columns, jobs, rows, log_weights,
      sources, barriers, flags, bytes;
  uint32_t row_bytes, plane_bytes, term_bytes, query_bytes;  // of a row, a tile's rows, a term of queries, all terms

  __host__ __device__ SharedLayout(const Params& params, int32_t tile_rows) {
    const auto tile = static_cast<uint32_t>(tile_rows), n = static_cast<uint32_t>(params.stages),
               n_jobs = static_cast<uint32_t>(params.jobs), cols = static_cast<uint32_t>(params.max_columns);
    row_bytes = 2 * static_cast<uint32_t>(params.layer.head_dim) + 16;
    plane_bytes = tile * row_bytes;
    term_bytes = cols * row_bytes;
    query_bytes = static_cast<uint32_t>(params.query_terms) * term_bytes;
    uint32_t at = 0;
    const auto take = [&at](uint32_t size) {
      const uint32_t begin = at;
      at += (size + 15) / 16 * 16;
      return begin;
    };
    keys = take(n * plane_bytes);
    values = take(n * plane_bytes);
    queries = take(n_jobs * query_bytes);
    weights = take(cols / 8 * tile * 16);
    column_max = take(kAttendWarps * cols * 4);
    column_sum = take(kAttendWarps * cols * 4);
    unit_states = take(4 * cols * 4);
    columns = take(n_jobs * cols * static_cast<uint32_t>(sizeof(Column)));
    jobs = take(n_jobs * static_cast<uint32_t>(sizeof(Job)));
    rows = take(n * tile * 4);
    log_weights = take(n * tile * 4);
    sources = take(kLoadWarps * kPageRows * 8);
    barriers = take((4 * n + 2 * n_jobs) * 8);
    flags = take(16);
    bytes = at;
  }
};

// A position in a ring and the parity of its round.
struct RingCursor {
  int32_t at = 0;
  uint32_t parity = 0;
  __device__ void advance(int32_t size) {
    if (++at == size) {
      at = 0;
      parity ^= 1;
    }
  }
};

// The shared memory of a block, with its barriers. A full barrier completes when a slot's content is there, an empty
// one when everybody is done with it.
class Shared {
 public:
  __device__ Shared(const Params& params, int32_t tile_rows, std::byte* base)
      : layout(params, tile_rows),
        base_(base),
        address_(shared_address(base)),
        stages_(params.stages),
        jobs_(params.jobs) {}

  template <typename T>
  __device__ T* as(uint32_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }
  __device__ uint32_t address(uint32_t offset) const { return address_ + offset; }
  __device__ uint32_t keys_full(int32_t stage) const { return barrier(stage); }
  __device__ uint32_t keys_empty(int32_t stage) const { return barrier(stages_ + stage); }
  __device__ uint32_t values_full(int32_t stage) const { return barrier(2 * stages_ + stage); }
  __device__ uint32_t values_empty(int32_t stage) const { return barrier(3 * stages_ + stage); }
  __device__ uint32_t job_full(int32_t job) const { return barrier(4 * stages_ + job); }
  __device__ uint32_t job_empty(int32_t job) const { return barrier(4 * stages_ + jobs_ + job); }
  __device__ Job& job(int32_t at) const { return as<Job>(layout.jobs)[at]; }
  __device__ Column* columns(const Params& params, int32_t at) const {
    return as<Column>(layout.columns) + at * params.max_columns;
  }
  __device__ uint32_t queries(int32_t at) const {
    return layout.queries + static_cast<uint32_t>(at) * layout.query_bytes;
  }

  const SharedLayout layout;

 private:
  __device__ uint32_t barrier(int32_t index) const {
    return address_ + layout.barriers + static_cast<uint32_t>(index) * 8;
  }
  std::byte* base_;
  uint32_t address_;
  int32_t stages_, jobs_;
};

// Arrivals that complete a full barrier: for each filling warp its lanes' copies, and one for its plain stores.
inline constexpr uint32_t kFullArrivals = 33;

// Tells that this lane's copies, and before them all plain stores of its warp, are on their way to be complete.
__device__ inline void arrive_full(uint32_t barrier) {
  mbarrier_arrive_after_copies(barrier);
  __syncwarp();
  if (lane_id() == 0) mbarrier_arrive(barrier);
}
__device__ inline void arrive_empty(uint32_t barrier) {
  __syncwarp();
  if (lane_id() == 0) mbarrier_arrive(barrier);
}

// Calls on_job for the block's jobs in order.
template <typename OnJob>
__device__ inline void walk_jobs(const Params& params, const Shared& shared, OnJob on_job) {
  RingCursor ring;
  while (true) {
    mbarrier_wait(shared.job_full(ring.at), ring.parity);
    const Job& job = shared.job(ring.at);
    if (job.is(kJobNone)) return;
    on_job(job, ring.at);
    arrive_empty(shared.job_empty(ring.at));
    ring.advance(params.jobs);
  }
}

}  // namespace pare::cuda::decode
