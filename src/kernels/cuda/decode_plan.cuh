// What the roles of the decode kernel share: parameters, the walk over a block's work, and shared memory. The loading
// warps and the attending warps walk the same tiles in the same order, each on its own.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention.h"

namespace pare::cuda::decode {

inline constexpr int32_t kAttendWarps = 8;
inline constexpr int32_t kLoadWarpsPerPlane = 2;  // each loads half of a tile's rows
inline constexpr int32_t kAttendThreads = 32 * kAttendWarps;
inline constexpr int32_t kBlockThreads = kAttendThreads + 2 * 32 * kLoadWarpsPerPlane;
inline constexpr int32_t kMaxColumns = 64;  // query rows of one pass
inline constexpr uint32_t kAttendBarrier = 1;
inline constexpr float kLog2e = 1.44269504088896340736f;

struct Params {
  AttentionLayer layer;
  SegmentPlan plan;
  int32_t group;        // R
  int32_t stages;       // of the K ring and of the V ring
  int32_t max_columns;  // query rows of a pass: 8, 16, 32 or 64
  float factor;         // what a dot product is multiplied by: attn::query_factor
  float cap;            // softcap in log2 units; 0: none
};

__device__ inline int32_t lane_id() { return static_cast<int32_t>(threadIdx.x) % 32; }

// A work item for one KV head.
struct Task {
  int32_t run = 0, g = 0;
  const int32_t* pages = nullptr;
  const std::byte* pool = nullptr;
  RowFormat format;
  int32_t page_rows = 0, span = 0;
  bool picked = false, scored = false;
  int32_t row0 = 0, row_end = 0, shift = 0;  // shift: position to zone row
  bool causal = false;
  int32_t sink = 0, window = INT32_MAX;
  int32_t pick0 = 0, pick_cap = 0;
  int32_t member0 = 0, n_members = 0, n_query_rows = 0;
  int32_t unit_spans = 1, unit_begin = 0, unit_end = 0, unit0 = 0, span_begin = 0, span_end = 0;

  __device__ bool absent() const { return format.v_width == 0; }
  __device__ bool reads_keys() const { return !scored && format.k_width > 0; }
};

// The run that holds `item`, not before `run`. Called by whole warps.
__device__ inline int32_t find_run(const SegmentPlan& plan, int32_t item, int32_t run, int32_t n_runs) {
  while (true) {
    const int32_t next = run + 1 + lane_id();
    const bool begun = next < n_runs && plan.item_prefix[next] <= item;
    const int32_t steps = __popc(__ballot_sync(~0u, begun));
    run += steps;
    if (steps < 32) return run;
  }
}

__device__ inline Task resolve(const Params& params, int32_t run_index, int32_t item, int32_t g) {
  const AttentionLayer& layer = params.layer;
  const Run run = params.plan.runs[run_index];
  const Zone zone = layer.kv.zones[run.zone];
  Task task;
  task.run = run_index;
  task.g = g;
  task.format =
      layer.kv
          .formats[(static_cast<int64_t>(run.zone) * layer.kv.n_kv_layers + layer.kv_layer) * layer.kv.n_kv_heads + g];
  task.pool = layer.kv.pools[task.format.pool];
  task.pages = layer.kv.page_ids + run.page0 + static_cast<int64_t>(layer.kv_layer) * zone.layer_pitch;
  task.page_rows = static_cast<int32_t>(zone.page_rows);
  task.span = static_cast<int32_t>(zone.span);
  task.picked = zone.picked != 0;
  task.scored = (run.flags & kRunScored) != 0;
  task.causal = (run.flags & kRunCausal) != 0;
  task.row0 = run.row0;
  task.row_end = run.row0 + run.rows;
  task.shift = run.pos0 < 0 ? 0 : run.row0 - run.pos0;
  if ((run.flags & kRunWindow) != 0) {
    task.sink = run.sink;
    task.window = params.plan.window;
  }
  task.pick0 = run.pick0;
  task.pick_cap = run.pick_cap;
  task.member0 = run.member0;
  task.n_members = run.n_members;
  for (int32_t m = 0; m < task.n_members; ++m) {
    task.n_query_rows += layer.seqs[params.plan.members[task.member0 + m].seq].n_q;
  }
  if (task.picked) {
    task.span_end = (run.pick_cap + task.span - 1) / task.span;
  } else {
    task.span_begin = task.row0 / task.span;
    task.span_end = (task.row_end + task.span - 1) / task.span;
  }
  task.unit_spans = run.item_spans == 1 ? 1 : kOctetSpans;
  const int32_t per_item = run.item_spans == 1 ? 1 : run.item_spans / kOctetSpans;
  task.unit0 = task.span_begin / task.unit_spans;
  const int32_t last = (task.span_end + task.unit_spans - 1) / task.unit_spans;
  const int32_t begin = (task.unit0 / per_item + (item - params.plan.item_prefix[run_index])) * per_item;
  task.unit_begin = max(begin, task.unit0);
  task.unit_end = min(begin + per_item, last);
  return task;
}

// A query row of a run: row `index` over all members in order.
struct QueryRow {
  int32_t seq = 0, part0 = 0, i = 0;  // i: among the sequence's rows
};
__device__ inline QueryRow locate_row(const Params& params, const Task& task, int32_t index) {
  for (int32_t m = 0; m < task.n_members; ++m) {
    const Member member = params.plan.members[task.member0 + m];
    const int32_t n_q = params.layer.seqs[member.seq].n_q;
    if (index < n_q) return {member.seq, member.part0, index};
    index -= n_q;
  }
  return {};
}

// The query rows that go through K and V together: columns [first, first + count) of the item's (query row, head of
// the group) pairs. Rows of a picked zone read rows of their own, so each goes alone with its heads.
struct Pass {
  int32_t first = 0, count = 0;
  int32_t min_limit = INT32_MAX, max_limit = 0, min_pos = INT32_MAX, max_pos = INT32_MIN;
  const Range* picks = nullptr;
  int32_t n_picks = 0;

  // Whether some column attends zone row j, and whether all attend [j0, j1).
  __device__ bool any_sees(const Task& task, int32_t j) const {
    return j >= task.row0 && j < max_limit && (j < task.sink || min_pos - j < task.window);
  }
  __device__ bool any_sees(const Task& task, int32_t j0, int32_t j1) const {
    return j1 > task.row0 && j0 < max_limit && (j0 < task.sink || min_pos - (j1 - 1) < task.window);
  }
  __device__ bool all_see(const Task& task, int32_t j0, int32_t j1) const {
    return j0 >= task.row0 && j1 <= min_limit && (j1 <= task.sink || max_pos - j0 < task.window);
  }
};

__device__ inline int32_t passes_of(const Params& params, const Task& task) {
  const int32_t together = task.picked ? params.group : task.n_query_rows * params.group;
  const int32_t passes = (together + params.max_columns - 1) / params.max_columns;
  return task.picked ? passes * task.n_query_rows : passes;
}

__device__ inline Pass make_pass(const Params& params, const Task& task, int32_t index) {
  Pass pass;
  if (task.picked) {
    const int32_t chunks = (params.group + params.max_columns - 1) / params.max_columns;
    const int32_t head = index % chunks * params.max_columns;
    pass.first = index / chunks * params.group + head;
    pass.count = min(params.max_columns, params.group - head);
    const QueryRow row = locate_row(params, task, index / chunks);
    const int32_t t = params.layer.seqs[row.seq].q_row + row.i;
    const int64_t list = task.pick0 + (static_cast<int64_t>(t) * params.layer.kv.n_kv_heads + task.g) * task.pick_cap;
    pass.picks = params.plan.picks + list;
    pass.n_picks = params.plan.pick_n[list];
  } else {
    pass.first = index * params.max_columns;
    pass.count = min(params.max_columns, task.n_query_rows * params.group - pass.first);
  }
  const int32_t row_begin = pass.first / params.group, row_last = (pass.first + pass.count - 1) / params.group;
  for (int32_t m = 0, base = 0; m < task.n_members && base <= row_last; ++m) {
    const SeqStep& seq = params.layer.seqs[params.plan.members[task.member0 + m].seq];
    const int32_t begin = max(row_begin - base, 0), last = min(row_last - base, seq.n_q - 1);
    base += seq.n_q;
    if (begin > last) continue;
    const int32_t lo = seq.pos + begin + task.shift, hi = seq.pos + last + task.shift;
    pass.min_pos = min(pass.min_pos, lo);
    pass.max_pos = max(pass.max_pos, hi);
    pass.min_limit = min(pass.min_limit, task.causal ? min(task.row_end, lo + 1) : task.row_end);
    pass.max_limit = max(pass.max_limit, task.causal ? min(task.row_end, hi + 1) : task.row_end);
  }
  return pass;
}

// Slots of the ring that are filled and attended together. Slot s of a tile holds zone row first + s where that is in
// [lo, hi); in a picked zone it holds row first + s of the rows of picks [lo, hi) laid end to end, `total` in all.
struct Tile {
  int32_t first, lo, hi, total;
};

// Calls on_tile for the tiles of a span that some column of the pass attends. Called by whole warps.
template <int kTileRows, typename OnTile>
__device__ inline void walk_span(const Task& task, const Pass& pass, int32_t span, OnTile on_tile) {
  if (task.picked) {
    const int32_t lo = span * task.span, hi = min(lo + task.span, pass.n_picks);
    int32_t rows = 0;
    for (int32_t p = lo + lane_id(); p < hi; p += 32) rows += pass.picks[p].hi - pass.picks[p].lo;
    rows = __reduce_add_sync(~0u, rows);
    for (int32_t first = 0; first < rows; first += kTileRows) on_tile(Tile{first, lo, hi, rows});
    return;
  }
  const int32_t lo = max(span * task.span, task.row0), hi = min((span + 1) * task.span, task.row_end);
  for (int32_t first = lo / kTileRows * kTileRows; first < hi; first += kTileRows) {
    if (pass.any_sees(task, max(first, lo), min(first + kTileRows, hi))) on_tile(Tile{first, lo, hi, 0});
  }
}

// The zone row in each lane's slot, -1 where the slot is empty. Called by whole warps.
__device__ inline int32_t row_of_slot(const Task& task, const Pass& pass, const Tile& tile, int32_t slot) {
  if (!task.picked) {
    const int32_t row = tile.first + slot;
    return row >= tile.lo && row < tile.hi && pass.any_sees(task, row) ? row : -1;
  }
  int32_t row = -1, index = tile.first + slot;
  for (int32_t begin = tile.lo; begin < tile.hi; begin += 32) {
    Range pick{0, 0};
    if (begin + lane_id() < tile.hi) pick = pass.picks[begin + lane_id()];
    int32_t end = pick.hi - pick.lo;  // where the pick's rows end among those of these 32 picks
    for (int32_t step = 1; step < 32; step *= 2) {
      const int32_t before = __shfl_up_sync(~0u, end, step);
      if (lane_id() >= step) end += before;
    }
    const int32_t rows = __shfl_sync(~0u, end, 31);
    int32_t at = 0;  // the first pick that ends beyond index
    for (int32_t step = 16; step > 0; step /= 2) {
      if (__shfl_sync(~0u, end, at + step - 1) <= index) at += step;
    }
    const int32_t pick_hi = __shfl_sync(~0u, pick.hi, at), pick_end = __shfl_sync(~0u, end, at);
    if (index >= 0 && index < rows) row = pick_hi - (pick_end - index);
    index -= rows;
  }
  return row;
}

// A query row and head of the pass, for the attending warps.
struct Column {
  float* part;      // of unit 0 of the run; null: the column is padding or an inactive head
  int64_t stride;   // floats from a unit's part to the next
  int32_t t, head;  // packed row, query head
  int32_t pos, limit;
  int32_t direct;  // the unit is all that the row attends: no partial, the row is finished at once
};

// Where things lie in dynamic shared memory, by byte offset. Rows have 16 bytes more than they need, so that the rows
// of an 8 x 8 matrix start in different banks.
struct SharedLayout {
  uint32_t keys, values, queries, weights, column_max, column_sum, columns, rows, log_weights, sources, barriers, flags,
      bytes;
  uint32_t row_bytes, plane_bytes, query_bytes;  // of a row; of a tile's rows; of one term of the queries

  __host__ __device__ SharedLayout(int32_t head_dim, int32_t tile_rows, int32_t stages, int32_t max_columns) {
    const auto d = static_cast<uint32_t>(head_dim), tile = static_cast<uint32_t>(tile_rows),
               n = static_cast<uint32_t>(stages), cols = static_cast<uint32_t>(max_columns);
    row_bytes = 2 * d + 16;
    plane_bytes = tile * row_bytes;
    query_bytes = cols * row_bytes;
    uint32_t at = 0;
    const auto take = [&at](uint32_t size) {
      const uint32_t begin = at;
      at += (size + 15) / 16 * 16;
      return begin;
    };
    keys = take(n * plane_bytes);
    values = take(n * plane_bytes);
    queries = take(2 * query_bytes + 64);  // the last matrix load may reach beyond an odd number of steps
    weights = take(cols / 8 * tile * 16);
    column_max = take(kAttendWarps * cols * 4);
    column_sum = take(kAttendWarps * cols * 4);
    columns = take(cols * static_cast<uint32_t>(sizeof(Column)));
    rows = take(n * tile * 4);
    log_weights = take(n * tile * 4);
    sources = take(2 * tile * 8);
    barriers = take(4 * n * 8);
    flags = take(16);
    bytes = at;
  }
};

// A position in a ring of stages and the parity of its round.
struct RingCursor {
  int32_t stage = 0;
  uint32_t parity = 0;
  __device__ void advance(int32_t stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

enum BarrierKind { kKeysFull, kKeysEmpty, kValuesFull, kValuesEmpty };
__device__ inline uint32_t barrier_at(const SharedLayout& layout, uint32_t shared, BarrierKind kind, int32_t stage,
                                      int32_t stages) {
  return shared + layout.barriers + static_cast<uint32_t>(kind * stages + stage) * 8;
}

// The tasks of a block, ascending: (item, KV head) pairs with the heads of an item side by side, dealt in turn.
template <typename OnTask>
__device__ inline void walk_tasks(const Params& params, OnTask on_task) {
  const int32_t kv_heads = params.layer.kv.n_kv_heads, n_runs = *params.plan.n_runs;
  const int64_t n_tasks = n_runs == 0 ? 0 : static_cast<int64_t>(params.plan.item_prefix[n_runs]) * kv_heads;
  int32_t run = 0;
  bool first = true;
  for (int64_t at = blockIdx.x; at < n_tasks; at += gridDim.x) {
    const auto item = static_cast<int32_t>(at / kv_heads);
    run = find_run(params.plan, item, run, n_runs);
    const Task task = resolve(params, run, item, static_cast<int32_t>(at % kv_heads));
    // Plans are older than the kernel before this one; rows and queries need not be.
    if (first) wait_for_earlier_kernels();
    first = false;
    on_task(task);
  }
  if (first) wait_for_earlier_kernels();
}

}  // namespace pare::cuda::decode
