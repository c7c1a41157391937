// The planning warp of the decode kernel: from the plan in global memory to jobs in shared memory.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/decode_resolve.cuh"
#include "kernels/cuda/decode_share.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

template <typename T, typename S>
class Schedule {
 public:
  __device__ Schedule(const Params& params, const Shared<S>& shared)
      : params_(params), shared_(shared), resolve_(params) {}

  // The block's (item, KV head) pairs, the heads of an item side by side: dealt in turn, or a share of equal bytes.
  __device__ void run() {
    if (!begin_with_first_job()) walk_tasks(0, 0);
    Job end{};
    end.flags = kJobNone;
    publish(end);
    wait_for_queries();  // no block leaves before its inputs are complete
  }

 private:
  // Of a launch whose blocks take tasks in turn, with the jobs that blocks begin with at hand. False: not so here.
  __device__ bool begin_with_first_job() {
    if constexpr (takes_first_jobs<S>) {
      if (params_.first_jobs == nullptr) return false;
      const FirstJob& first = params_.first_jobs[blockIdx.x];
      const uint32_t n_tasks = first.n_tasks;
      if (first.usable == 0) return false;
      if (blockIdx.x >= n_tasks) return true;
      static_assert(sizeof(Job) % 8 == 0 && sizeof(Column) % 8 == 0);
      Job& job = shared_.job(0);
      copy_words(&job, &first.job, sizeof(Job) / 8);
      copy_words(shared_.columns(0), first.columns, sizeof(first.columns) / 8);
      __syncwarp();
      if (lane_id() == 0) {
        const KvView& kv = params_.layer.kv;
#ifndef PARE_FAULT_DECODE_FIRST_JOB
        describe_rows(params_, job);
#endif
        job.pages += static_cast<int64_t>(params_.layer.kv_layer) * kv.zones[job.zone].layer_pitch;
        if (blockIdx.x + gridDim.x >= n_tasks && may_be_direct(job)) job.flags |= kJobDirect;
        shared_.terms(0) = 1;
      }
      __syncwarp();
      hand_over(job);
      if (blockIdx.x + gridDim.x < n_tasks) walk_tasks(blockIdx.x + gridDim.x, n_tasks);
      return true;
    }
    return false;
  }
  __device__ static void copy_words(void* to, const void* from, int32_t words) {
    for (int32_t i = lane_id(); i < words; i += 32)
      static_cast<uint64_t*>(to)[i] = static_cast<const uint64_t*>(from)[i];
  }

  // Tasks from `at` on, of n_tasks; 0 of them: all of the block's.
  __device__ void walk_tasks(uint32_t at, uint32_t n_tasks) {
    const SegmentPlan& plan = params_.plan;
    const int32_t kv_heads = params_.layer.kv.n_kv_heads, n_runs = *plan.n_runs;
    bool first = n_tasks == 0;
    if (first) {
      n_tasks = n_runs == 0 ? 0 : static_cast<uint32_t>(plan.item_prefix[n_runs]) * kv_heads;
      at = blockIdx.x;
    }
    uint32_t tasks_end = n_tasks, step = gridDim.x;
    if constexpr (S::kWeighed) {
      if (n_tasks > 0) {
        const Share share = block_share(params_, n_runs);
        at = share.begin;
        tasks_end = share.end;
        step = 1;
      }
    }
    int32_t run = 0, open = -1;
    for (; at < tasks_end; at += step) {
      const auto item = static_cast<int32_t>(at / kv_heads);
      run = resolve_.find_run(item, run, n_runs);
      if (run != open) resolve_.open_run(run);
      open = run;
      Job job = resolve_.resolve(item, static_cast<int32_t>(at % kv_heads));
      const int32_t passes = resolve_.passes(job);
      for (int32_t pass = 0; pass < passes; ++pass) {
        resolve_.begin_pass(job, pass);
        if (job.is(kJobPicked)) {
          wait_for_inputs();  // picks may be as young as queries
          resolve_.find_picks(job);
        }
        if (first && passes == 1 && at + step >= tasks_end && may_be_direct(job)) job.flags |= kJobDirect;
        publish(job);
        first = false;
      }
    }
  }

  // Whether the attending warps may put the heads of this job, the block's only one, where they are read: queries that
  // nothing has to be done to, and rows that lie one behind the other in tiles for all of which there is a stage.
  __device__ bool may_be_direct(const Job& job) const {
    if (kNewRowsEarly || params_.heads.rows == 0 || job.absent() || !job.reads_keys() || job.chan >= 0 ||
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
        if (lane_id() == 0) shared_.codes(ring_.at) = codes_of(format_of(params_, job));
      }
      Column* columns = shared_.columns(ring_.at);
      for (int32_t c = lane_id(); c < S::kColumns; c += 32) columns[c] = resolve_.column(job, c);
    }
    __syncwarp();
    hand_over(job);
  }
  // The same, of a job whose table entries are written.
  __device__ void hand_over(const Job& job) {
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
  Resolve<S::kColumns> resolve_;
  RingCursor ring_;
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
  if (params.first_jobs != nullptr && warp == 1) touch(params.first_jobs + blockIdx.x, sizeof(FirstJob));
  if (params.first_jobs != nullptr && warp != 2 && warp != 7) return;
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
