// From a plan in global memory to jobs.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

__device__ inline const RowFormat& format_of(const Params& params, const Job& job) {
  const KvView& kv = params.layer.kv;
  return kv.formats[(static_cast<int64_t>(job.zone) * kv.n_kv_layers + params.layer.kv_layer) * kv.n_kv_heads + job.g];
}
// Of the rows of the job's zone and KV head, what differs by layer.
__device__ inline void describe_rows(const Params& params, Job& job) {
  const RowFormat format = format_of(params, job);
  job.pool = params.layer.kv.pools[format.pool];
  job.k = format.k;
  job.v = format.v;
  job.lw = format.lw;
  job.page_bytes = format.page_bytes;
  job.k_width = format.k_width;
  job.v_width = format.v_width;
  job.chan = format.chan;
  if (format.lw != kNoPlane && !job.is(kJobScored)) job.flags |= kJobWeighted;
}

// Resolves items, for passes of up to kColumns query rows. Whole warps call it.
template <int kColumns>
class Resolve {
 public:
  __device__ explicit Resolve(const Params& params) : params_(params) {}

  __device__ int32_t passes(const Job& job) const {
    return job.is(kJobPicked) ? chunks_of(params_.group) * n_query_rows_ : chunks_of(n_query_rows_ * params_.group);
  }
  // Makes `job` its pass number `pass`; of picked rows all but the picks.
  __device__ void begin_pass(Job& job, int32_t pass) const {
    if (job.is(kJobPicked)) {
      const int32_t chunks = chunks_of(params_.group), head = pass % chunks * kColumns;
      job.first = pass / chunks * params_.group + head;
      job.count = min(kColumns, params_.group - head);
    } else {
      job.first = pass * kColumns;
      job.count = min(kColumns, n_query_rows_ * params_.group - job.first);
    }
    if (pass == passes(job) - 1) job.flags |= kJobLastPass;
    bound(job);
  }
  __device__ void find_picks(Job& job) const {
    const QueryRow row = locate_row(job, job.first / params_.group);
    const int32_t t = row.seq.q_row + row.i;
    const int64_t list = run_.pick0 + (static_cast<int64_t>(t) * params_.layer.kv.n_kv_heads + job.g) * run_.pick_cap;
    job.picks = params_.plan.picks + list;
    job.n_picks = params_.plan.pick_n[list];
  }

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

  // Goes to a run: what all of its items have in common.
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
    job.zone = static_cast<int32_t>(run_.zone);
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

  // The job of an item for KV head g, but for its passes.
  __device__ Job resolve(int32_t item, int32_t g) const {
    Job job = base_;
    job.g = g;
    describe_rows(params_, job);
    const int32_t per_item = units_of_item(run_.item_spans);
    const int32_t last = (job.span_end + job.unit_spans - 1) / job.unit_spans;
    const int32_t begin = (job.unit0 / per_item + (item - item0_)) * per_item;
    job.unit_begin = max(begin, job.unit0);
    job.unit_end = min(begin + per_item, last);
    return job;
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

 private:
  __device__ static int32_t chunks_of(int32_t query_rows) { return (query_rows + kColumns - 1) / kColumns; }

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

  const Params& params_;
  // Of the current run. shift: position to zone row.
  Run run_;
  Job base_{};
  Member member_{};  // the first one, and its sequence
  SeqStep seq_;
  int32_t item0_ = 0, n_query_rows_ = 0, shift_ = 0;
};

// The job that a block of a launch begins with, where blocks take tasks in turn, with what all layers have in common
// (resolve_first_jobs). Not usable: the block resolves it by itself.
struct alignas(16) FirstJob {
  static constexpr int kColumns = 8;
  Job job;
  Column columns[kColumns];
  uint32_t n_tasks;  // of the launch
  int32_t usable;
};
// Whether kernels of shape S begin with them: blocks take tasks in turn, and a pass takes as many columns.
template <typename S>
inline constexpr bool takes_first_jobs = !S::kWeighed && S::kColumns == FirstJob::kColumns;

}  // namespace pare::cuda::decode
