// The planning warp of the decode kernel: from the plan in global memory to jobs in shared memory.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/decode_share.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

template <typename T, typename S>
class Schedule {
 public:
  __device__ Schedule(const Params& params, const Shared<S>& shared) : params_(params), shared_(shared) {}

  // The block's (item, KV head) pairs, the heads of an item side by side: dealt in turn, or a share of equal bytes.
  __device__ void run() {
    const SegmentPlan& plan = params_.plan;
    const int32_t kv_heads = params_.layer.kv.n_kv_heads, n_runs = *plan.n_runs;
    const uint32_t n_tasks = n_runs == 0 ? 0 : static_cast<uint32_t>(plan.item_prefix[n_runs]) * kv_heads;
    int32_t run = 0, open = -1;
    bool first = true;
    uint32_t at = blockIdx.x, tasks_end = n_tasks, step = gridDim.x;
    if constexpr (S::kWeighed) {
      if (n_tasks > 0) {
        const Share share = block_share(params_, n_runs);
        at = share.begin;
        tasks_end = share.end;
        step = 1;
      }
    }
    for (; at < tasks_end; at += step) {
      const auto item = static_cast<int32_t>(at / kv_heads);
      run = find_run(item, run, n_runs);
      if (run != open) open_run(run);
      open = run;
      Job job = resolve(item, static_cast<int32_t>(at % kv_heads));
      const int32_t together = job.is(kJobPicked) ? params_.group : n_query_rows_ * params_.group;
      const int32_t chunks = (together + S::kColumns - 1) / S::kColumns;
      const int32_t passes = job.is(kJobPicked) ? chunks * n_query_rows_ : chunks;
      for (int32_t pass = 0; pass < passes; ++pass) {
        if (job.is(kJobPicked)) {
          const int32_t head = pass % chunks * S::kColumns;
          wait_for_inputs();  // picks may be as young as queries
          job.first = pass / chunks * params_.group + head;
          job.count = min(S::kColumns, params_.group - head);
          find_picks(job, pass / chunks);
        } else {
          job.first = pass * S::kColumns;
          job.count = min(S::kColumns, together - job.first);
        }
        if (pass == passes - 1) job.flags |= kJobLastPass;
        bound(job);
        if (first && passes == 1 && at + step >= tasks_end && may_be_direct(job)) job.flags |= kJobDirect;
        publish(job);
        first = false;
      }
    }
    Job end{};
    end.flags = kJobNone;
    publish(end);
    wait_for_queries();  // no block leaves before its inputs are complete
  }

 private:
  // The run that holds `item`, not before `run`.
  __device__ int32_t find_run(int32_t item, int32_t run, int32_t n_runs) const {
    while (true) {
      const int32_t next = run + 1 + lane_id();
      const bool begun = next < n_runs && params_.plan.item_prefix[next] <= item;
      const int32_t steps = __popc(__ballot_sync(~0u, begun));
      run += steps;
      if (steps < 32) return run;
    }
  }

  // What all items of a run have in common.
  __device__ void open_run(int32_t run_index) {
    const AttentionLayer& layer = params_.layer;
    const SegmentPlan& plan = params_.plan;
    run_ = plan.runs[run_index];
    item0_ = plan.item_prefix[run_index];
    const Zone zone = layer.kv.zones[run_.zone];
    const bool picked = zone.picked != 0, windowed = (run_.flags & kRunWindow) != 0;
    Job& job = base_;
    job.pages = layer.kv.page_ids + run_.page0 + static_cast<int64_t>(layer.kv_layer) * zone.layer_pitch;
    job.flags = (picked ? kJobPicked : 0u) | ((run_.flags & kRunScored) != 0 ? kJobScored : 0u) |
                ((run_.flags & kRunCausal) != 0 ? kJobCausal : 0u);
    job.page_rows = static_cast<int32_t>(zone.page_rows);
    job.page_shift = (job.page_rows & (job.page_rows - 1)) == 0 ? 31 - __clz(job.page_rows) : -1;
    job.span = static_cast<int32_t>(zone.span);
    job.row0 = run_.row0;
    job.row_end = run_.row0 + run_.rows;
    job.sink = windowed ? run_.sink : 0;
    job.window = windowed ? plan.window : INT32_MAX;
    job.span_begin = picked ? 0 : job.row0 / job.span;
    job.span_end = ((picked ? run_.pick_cap : job.row_end) + job.span - 1) / job.span;
    job.unit_spans = spans_of_unit(run_.item_spans);
    job.unit0 = job.span_begin / job.unit_spans;
    job.member0 = run_.member0;
    job.n_members = run_.n_members;
    member_ = plan.members[run_.member0];
    seq_ = layer.seqs[member_.seq];
    n_query_rows_ = seq_.n_q;
    if (job.n_members == 1) {
      job.seq = member_.seq;
      job.n_parts = partials_of(plan, seq_);
      job.part0 = member_.part0;
      job.n_q = seq_.n_q;
      job.q_row = seq_.q_row;
    } else {
      for (int32_t m = 1; m < job.n_members; ++m) n_query_rows_ += layer.seqs[plan.members[job.member0 + m].seq].n_q;
    }
    shift_ = run_.pos0 < 0 ? 0 : run_.row0 - run_.pos0;
    // Unordered rows are older than any query.
    job.new_row = INT32_MAX;
    for (int32_t m = 0; run_.pos0 >= 0 && m < job.n_members; ++m) {
      const int32_t pos = m == 0 ? seq_.pos : layer.seqs[plan.members[job.member0 + m].seq].pos;
      job.new_row = min(job.new_row, pos + shift_);
    }
  }

  __device__ Job resolve(int32_t item, int32_t g) const {
    const AttentionLayer& layer = params_.layer;
    Job job = base_;
    const RowFormat format =
        layer.kv
            .formats[(static_cast<int64_t>(run_.zone) * layer.kv.n_kv_layers + layer.kv_layer) * layer.kv.n_kv_heads +
                     g];
    job.g = g;
    job.pool = layer.kv.pools[format.pool];
    job.k = format.k;
    job.v = format.v;
    job.lw = format.lw;
    job.page_bytes = format.page_bytes;
    job.k_width = format.k_width;
    job.v_width = format.v_width;
    job.chan = format.chan;
    if (format.lw != kNoPlane && !job.is(kJobScored)) job.flags |= kJobWeighted;
    const int32_t per_item = units_of_item(run_.item_spans);
    const int32_t last = (job.span_end + job.unit_spans - 1) / job.unit_spans;
    const int32_t begin = (job.unit0 / per_item + (item - item0_)) * per_item;
    job.unit_begin = max(begin, job.unit0);
    job.unit_end = min(begin + per_item, last);
    return job;
  }

  // Query row `index` of the item, over all members in order.
  struct QueryRow {
    SeqStep seq;
    int32_t part0 = 0, i = 0;  // i: among the sequence's rows
  };
  __device__ QueryRow locate_row(const Job& job, int32_t index) const {
    QueryRow row{seq_, member_.part0, index};
    for (int32_t m = 1; row.i >= row.seq.n_q && m < job.n_members; ++m) {
      const Member member = params_.plan.members[job.member0 + m];
      row.i -= row.seq.n_q;
      row.seq = params_.layer.seqs[member.seq];
      row.part0 = member.part0;
    }
    return row;
  }

  __device__ void find_picks(Job& job, int32_t query_row) const {
    const QueryRow row = locate_row(job, query_row);
    const int32_t t = row.seq.q_row + row.i;
    const int64_t list = run_.pick0 + (static_cast<int64_t>(t) * params_.layer.kv.n_kv_heads + job.g) * run_.pick_cap;
    job.picks = params_.plan.picks + list;
    job.n_picks = params_.plan.pick_n[list];
  }

  // Bounds over the job's query rows.
  __device__ void bound(Job& job) const {
    const int32_t row_begin = job.first / params_.group, row_last = (job.first + job.count - 1) / params_.group;
    job.min_limit = job.min_pos = INT32_MAX;
    job.max_limit = 0;
    job.max_pos = INT32_MIN;
    for (int32_t m = 0, base = 0; m < job.n_members && base <= row_last; ++m) {
      const SeqStep seq = m == 0 ? seq_ : params_.layer.seqs[params_.plan.members[job.member0 + m].seq];
      const int32_t begin = max(row_begin - base, 0), last = min(row_last - base, seq.n_q - 1);
      base += seq.n_q;
      if (begin > last) continue;
      const int32_t lo = seq.pos + begin + shift_, hi = seq.pos + last + shift_;
      job.min_pos = min(job.min_pos, lo);
      job.max_pos = max(job.max_pos, hi);
      job.min_limit = min(job.min_limit, limit(job, lo));
      job.max_limit = max(job.max_limit, limit(job, hi));
    }
  }
  __device__ static int32_t limit(const Job& job, int32_t pos) {
    return job.is(kJobCausal) ? min(job.row_end, pos + 1) : job.row_end;
  }

  // Whether the attending warps may put the heads of this job, the block's only one, where they are read: queries that
  // nothing has to be done to, and rows that lie one behind the other in tiles for all of which there is a stage.
  __device__ bool may_be_direct(const Job& job) const {
    if (params_.heads.rows == 0 || job.absent() || !job.reads_keys() || job.chan >= 0 ||
        job.is(kJobPicked | kJobWeighted)) {
      return false;
    }
    if (job.fresh_row() >= job.end_row()) return true;
    const int32_t tiles = (job.end_row() - 1) / S::kTileRows - job.first_row() / S::kTileRows + 1;
    return job.n_members == 1 && params_.heads.dst != nullptr && tiles <= params_.stages &&
           job.span % S::kTileRows == 0 && job.max_pos - job.first_row() < job.window;
  }

  // Plans are older than the kernel before this one; queries and picks need not be.
  __device__ void wait_for_queries() {
    if (waited_) return;
    wait_for_inputs();
    if (params_.heads.rows > 0) named_barrier(kQueriesBarrier, kAttendThreads + 32);
    waited_ = true;
  }

  // Hands a job to the other warps: first what it is and its columns, so that its rows can be asked for, then its
  // queries.
  __device__ void publish(const Job& job) {
    mbarrier_wait(shared_.job_empty(ring_.at), ring_.parity ^ 1);
    if (lane_id() == 0) {
      shared_.job(ring_.at) = job;
      shared_.terms(ring_.at) = 1;  // more are told with the queries
    }
    if (!job.is(kJobNone)) {
      if constexpr (S::kCoded) {
        if (lane_id() == 0) shared_.codes(ring_.at) = codes_of(formats()[job.g]);
      }
      Column* columns = shared_.columns(ring_.at);
      for (int32_t c = lane_id(); c < S::kColumns; c += 32) columns[c] = column(job, c);
    }
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(shared_.job_full(ring_.at));
    if (!job.is(kJobNone)) {
      wait_for_queries();
      if (!job.absent() && job.reads_keys() && !job.is(kJobDirect)) {
        bool two_terms = false;
        if (job.chan < 0) {
          copy_queries(job, shared_.columns(ring_.at));
        } else {
          two_terms = scale_queries(job, shared_.columns(ring_.at));
        }
        if (lane_id() == 0) shared_.terms(ring_.at) = two_terms ? 2 : 1;
      }
      arrive_full(shared_.queries_full(ring_.at));
    }
    ring_.advance(S::kJobs);
  }

  __device__ const RowFormat* formats() const {
    const AttentionLayer& layer = params_.layer;
    return layer.kv.formats +
           (static_cast<int64_t>(run_.zone) * layer.kv.n_kv_layers + layer.kv_layer) * layer.kv.n_kv_heads;
  }
  __device__ Column column(const Job& job, int32_t c) const {
    Column column{};
    if (c >= job.count) return column;
    const AttentionLayer& layer = params_.layer;
    const int32_t index = job.first + c, r = index % params_.group;
    const QueryRow row = locate_row(job, index / params_.group);
    const SeqStep& seq = row.seq;
    const int64_t head_floats = layer.head_dim + 2;
    column.t = seq.q_row + row.i;
    column.head = job.g * layer.qa + r * layer.qb;
    column.pos = seq.pos + row.i + shift_;
    column.limit = limit(job, column.pos);
    column.stride = seq.n_q * layer.n_heads * head_floats;
    column.direct = (job.n_members == 1 ? job.n_parts : partials_of(params_.plan, seq)) == 1;
    if (column.head < (seq.heads == 0 ? layer.n_heads : seq.heads)) {
      column.part = params_.plan.parts + (static_cast<int64_t>(row.part0) * layer.n_heads +
                                          (static_cast<int64_t>(job.g) * seq.n_q + row.i) * params_.group + r) *
                                             head_floats;
    }
    return column;
  }

  __device__ const T* query_of(const Column& column) const {
    return static_cast<const T*>(params_.layer.q) +
           (static_cast<int64_t>(column.t) * params_.layer.n_heads + column.head) * params_.layer.head_dim;
  }

  __device__ void copy_queries(const Job& job, const Column* columns) const {
    const uint32_t queries = shared_.address(shared_.queries(ring_.at));
    const int32_t chunks = job.k_width / 8;
    for (int32_t at = lane_id(); at < S::kColumns * chunks; at += 32) {
      const int32_t c = at / chunks, chunk = at % chunks;
      copy_async_16(queries + c * S::kRowBytes + chunk_offset(c, chunk), query_of(columns[c]) + chunk * 8,
                    columns[c].part != nullptr);
    }
  }

  // Queries times their channels' factors, as the sum of two 16-bit values. Returns whether the second ones are wanted:
  // factors of one leave none.
  __device__ bool scale_queries(const Job& job, const Column* columns) const {
    T* queries = shared_.template as<T>(shared_.queries(ring_.at));
    constexpr int32_t row = S::kRowBytes / sizeof(T), term = S::kTermBytes / sizeof(T);
    constexpr int32_t kTogether = 8;  // columns whose queries are asked for at once
    const Channel* channels = params_.layer.kv.channels + job.chan;
    Channel next{};
    if (lane_id() < job.k_width) next = channels[lane_id()];
    bool two_terms = false;
#pragma unroll 1
    for (int32_t i = lane_id(); i < job.k_width; i += 32) {
      const Channel channel = next;
      if (i + 32 < job.k_width) next = channels[i + 32];
#pragma unroll 1
      for (int32_t c0 = 0; c0 < S::kColumns; c0 += kTogether) {
        T query[kTogether];
#pragma unroll
        for (int32_t c = 0; c < kTogether; ++c) {
          query[c] = columns[c0 + c].part != nullptr ? query_of(columns[c0 + c])[channel.id] : narrow<T>(0.0f);
        }
#pragma unroll
        for (int32_t c = 0; c < kTogether; ++c) {
          const float value = widen(query[c]) * channel.alpha;
          const T high = narrow<T>(value);
          const float rest = value - widen(high);
          const int32_t to = (c0 + c) * row + static_cast<int32_t>(chunk_offset(c0 + c, i / 8)) / 2 + i % 8;
          queries[to] = high;
          queries[to + term] = narrow<T>(rest);
          two_terms |= rest != 0.0f;
        }
      }
    }
    return __any_sync(~0u, two_terms);
  }

  const Params& params_;
  const Shared<S>& shared_;
  RingCursor ring_;
  // Of the current run. shift: position to zone row.
  Run run_;
  Job base_{};
  Member member_{};  // the first one, and its sequence
  SeqStep seq_;
  int32_t item0_ = 0, n_query_rows_ = 0, shift_ = 0;
  bool waited_ = false;
};

// Asks for the first lines of what the planning warp is about to read one after another, all at once, so that it finds
// them in L1. Called by warps that have nothing to do yet.
__device__ inline void warm_plan(const Params& params, int32_t warp) {
  const AttentionLayer& layer = params.layer;
  const auto touch = [](const void* array, int64_t bytes) {
    const int64_t offset = lane_id() * int64_t{128};
    if (array != nullptr && offset < bytes) {
      asm volatile("{ .reg .b32 word; ld.global.b32 word, [%0]; }" ::"l"(static_cast<const std::byte*>(array) + offset)
                   : "memory");
    }
  };
  const int64_t runs = min(params.plan.runs_cap, 32), seqs = min(layer.n_seqs, 32);
  switch (warp) {
    case 0: touch(params.plan.n_runs, 4); break;
    case 1: touch(params.plan.runs, runs * static_cast<int64_t>(sizeof(Run))); break;
    case 2: touch(layer.kv.zones, kMaxZones * 4); break;
    case 3: touch(layer.seqs, seqs * static_cast<int64_t>(sizeof(SeqStep))); break;
    case 4: touch(params.plan.members, seqs * static_cast<int64_t>(sizeof(Member))); break;
    case 5: touch(params.plan.folds, seqs * static_cast<int64_t>(sizeof(Fold))); break;
    case 6: touch(params.plan.item_prefix, runs * 4); break;
    default:
      touch(layer.kv.formats + static_cast<int64_t>(layer.kv_layer) * layer.kv.n_kv_heads,
            layer.kv.n_kv_heads * static_cast<int64_t>(sizeof(RowFormat)));
  }
}

}  // namespace pare::cuda::decode
