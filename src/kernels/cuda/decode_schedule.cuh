// The planning warp of the decode kernel: from the plan in global memory to jobs in shared memory.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

template <typename T>
class Schedule {
 public:
  __device__ Schedule(const Params& params, const Shared& shared) : params_(params), shared_(shared) {}

  // The block's (item, KV head) pairs, dealt in turn, the heads of an item side by side.
  __device__ void run() {
    const SegmentPlan& plan = params_.plan;
    const int32_t kv_heads = params_.layer.kv.n_kv_heads, n_runs = *plan.n_runs;
    const int64_t n_tasks = n_runs == 0 ? 0 : static_cast<int64_t>(plan.item_prefix[n_runs]) * kv_heads;
    int32_t run = 0;
    bool first = true;
    for (int64_t at = blockIdx.x; at < n_tasks; at += gridDim.x) {
      const auto item = static_cast<int32_t>(at / kv_heads);
      run = find_run(item, run, n_runs);
      Job job = resolve(run, item, static_cast<int32_t>(at % kv_heads));
      // Plans are older than the kernel before this one; rows, queries and picks need not be.
      if (first) wait_for_earlier_kernels();
      first = false;
      const int32_t together = job.is(kJobPicked) ? params_.group : n_query_rows_ * params_.group;
      const int32_t chunks = (together + params_.max_columns - 1) / params_.max_columns;
      const int32_t passes = job.is(kJobPicked) ? chunks * n_query_rows_ : chunks;
      for (int32_t pass = 0; pass < passes; ++pass) {
        if (job.is(kJobPicked)) {
          const int32_t head = pass % chunks * params_.max_columns;
          job.first = pass / chunks * params_.group + head;
          job.count = min(params_.max_columns, params_.group - head);
          find_picks(job, pass / chunks);
        } else {
          job.first = pass * params_.max_columns;
          job.count = min(params_.max_columns, together - job.first);
        }
        if (pass == passes - 1) job.flags |= kJobLastPass;
        bound(job);
        publish(job);
      }
    }
    if (first) wait_for_earlier_kernels();
    Job end{};
    end.flags = kJobNone;
    publish(end);
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

  __device__ Job resolve(int32_t run_index, int32_t item, int32_t g) {
    const AttentionLayer& layer = params_.layer;
    const SegmentPlan& plan = params_.plan;
    const Run run = plan.runs[run_index];
    const int32_t item0 = plan.item_prefix[run_index];
    const Zone zone = layer.kv.zones[run.zone];
    const RowFormat format =
        layer.kv
            .formats[(static_cast<int64_t>(run.zone) * layer.kv.n_kv_layers + layer.kv_layer) * layer.kv.n_kv_heads +
                     g];
    Job job{};
    job.pool = layer.kv.pools[format.pool];
    job.pages = layer.kv.page_ids + run.page0 + static_cast<int64_t>(layer.kv_layer) * zone.layer_pitch;
    job.k = format.k;
    job.v = format.v;
    job.lw = format.lw;
    job.page_bytes = format.page_bytes;
    job.flags = (zone.picked != 0 ? kJobPicked : 0u) | ((run.flags & kRunScored) != 0 ? kJobScored : 0u) |
                ((run.flags & kRunCausal) != 0 ? kJobCausal : 0u);
    job.k_width = format.k_width;
    job.v_width = format.v_width;
    job.chan = format.chan;
    job.page_rows = static_cast<int32_t>(zone.page_rows);
    job.span = static_cast<int32_t>(zone.span);
    job.g = g;
    job.row0 = run.row0;
    job.row_end = run.row0 + run.rows;
    const bool windowed = (run.flags & kRunWindow) != 0;
    job.sink = windowed ? run.sink : 0;
    job.window = windowed ? plan.window : INT32_MAX;
    if (zone.picked != 0) {
      job.span_end = (run.pick_cap + job.span - 1) / job.span;
    } else {
      job.span_begin = job.row0 / job.span;
      job.span_end = (job.row_end + job.span - 1) / job.span;
    }
    job.unit_spans = run.item_spans == 1 ? 1 : kOctetSpans;
    const int32_t per_item = run.item_spans == 1 ? 1 : run.item_spans / kOctetSpans;
    job.unit0 = job.span_begin / job.unit_spans;
    const int32_t last = (job.span_end + job.unit_spans - 1) / job.unit_spans;
    const int32_t begin = (job.unit0 / per_item + (item - item0)) * per_item;
    job.unit_begin = max(begin, job.unit0);
    job.unit_end = min(begin + per_item, last);
    job.member0 = run.member0;
    job.n_members = run.n_members;
    n_query_rows_ = 0;
    for (int32_t m = 0; m < job.n_members; ++m) n_query_rows_ += layer.seqs[plan.members[job.member0 + m].seq].n_q;
    if (job.n_members == 1) {
      job.seq = plan.members[job.member0].seq;
      job.n_parts = partials_of(plan, layer.seqs[job.seq]);
    }
    shift_ = run.pos0 < 0 ? 0 : run.row0 - run.pos0;
    pick0_ = run.pick0;
    pick_cap_ = run.pick_cap;
    return job;
  }

  // Query row `index` of the item, over all members in order.
  struct QueryRow {
    int32_t seq = 0, part0 = 0, i = 0;  // i: among the sequence's rows
  };
  __device__ QueryRow locate_row(const Job& job, int32_t index) const {
    for (int32_t m = 0; m < job.n_members; ++m) {
      const Member member = params_.plan.members[job.member0 + m];
      const int32_t n_q = params_.layer.seqs[member.seq].n_q;
      if (index < n_q) return {member.seq, member.part0, index};
      index -= n_q;
    }
    return {};
  }

  __device__ void find_picks(Job& job, int32_t query_row) const {
    const QueryRow row = locate_row(job, query_row);
    const int32_t t = params_.layer.seqs[row.seq].q_row + row.i;
    const int64_t list = pick0_ + (static_cast<int64_t>(t) * params_.layer.kv.n_kv_heads + job.g) * pick_cap_;
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
      const SeqStep& seq = params_.layer.seqs[params_.plan.members[job.member0 + m].seq];
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

  // Hands a job to the other warps, with its columns and queries.
  __device__ void publish(const Job& job) {
    mbarrier_wait(shared_.job_empty(ring_.at), ring_.parity ^ 1);
    if (lane_id() == 0) shared_.job(ring_.at) = job;
    if (!job.is(kJobNone)) {
      Column* columns = shared_.columns(params_, ring_.at);
      const int32_t padded = padded_columns(job.count);
      for (int32_t c = lane_id(); c < padded; c += 32) columns[c] = column(job, c);
      __syncwarp();
      if (!job.absent() && job.reads_keys()) {
        if (job.chan < 0) {
          copy_queries(job, columns, padded);
        } else {
          scale_queries(job, columns, padded);
        }
      }
    }
    arrive_full(shared_.job_full(ring_.at));
    ring_.advance(params_.jobs);
  }

  __device__ Column column(const Job& job, int32_t c) const {
    Column column{};
    if (c >= job.count) return column;
    const AttentionLayer& layer = params_.layer;
    const int32_t index = job.first + c, r = index % params_.group;
    const QueryRow row = locate_row(job, index / params_.group);
    const SeqStep& seq = layer.seqs[row.seq];
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

  __device__ void copy_queries(const Job& job, const Column* columns, int32_t padded) const {
    const uint32_t queries = shared_.address(shared_.queries(ring_.at));
    const int32_t chunks = job.k_width / 8;
    for (int32_t at = lane_id(); at < padded * chunks; at += 32) {
      const int32_t c = at / chunks, chunk = at % chunks;
      copy_async_16(queries + c * shared_.layout.row_bytes + chunk * 16, query_of(columns[c]) + chunk * 8,
                    columns[c].part != nullptr);
    }
  }

  // Queries times their channels' factors, as the sum of two 16-bit values.
  __device__ void scale_queries(const Job& job, const Column* columns, int32_t padded) const {
    T* queries = shared_.template as<T>(shared_.queries(ring_.at));
    const auto row = static_cast<int32_t>(shared_.layout.row_bytes / sizeof(T)),
               term = static_cast<int32_t>(shared_.layout.term_bytes / sizeof(T));
    for (int32_t at = lane_id(); at < padded * job.k_width; at += 32) {
      const int32_t c = at / job.k_width, i = at % job.k_width;
      float value = 0.0f;
      if (columns[c].part != nullptr) {
        const Channel channel = params_.layer.kv.channels[job.chan + i];
        value = widen(query_of(columns[c])[channel.id]) * channel.alpha;
      }
      const T high = narrow<T>(value);
      queries[c * row + i] = high;
      queries[c * row + i + term] = narrow<T>(value - widen(high));
    }
  }

  const Params& params_;
  const Shared& shared_;
  RingCursor ring_;
  int32_t n_query_rows_ = 0, shift_ = 0, pick0_ = 0, pick_cap_ = 0;  // of the item; shift: position to zone row
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
