// The attending warps of the decode kernel. Keys lie on the long side of every product, so that up to 8 query rows cost
// what one costs: S = K Q' (16 keys of the tile a warp), then O' = V' P (16 channels a warp); the softmax between them
// needs all warps twice: for the columns' maxima, and for the weights.
#pragma once

#include "kernels/cuda/decode_fold.cuh"
#include "kernels/cuda/decode_heads.cuh"
#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

template <typename T, typename S>
class Attend {
 public:
  __device__ Attend(const Params& params, const Shared<S>& shared)
      : params_(params), shared_(shared), warp_(static_cast<int32_t>(threadIdx.x) / 32), lane_(lane_id()) {}

  // All twice where the launch asks for it: first, while the launch before still runs, a rehearsal of one tile, whose
  // inputs are whatever shared memory holds and whose results are dropped. It brings instructions and parameters into
  // the multiprocessor's caches, where a step's other kernels have taken their place: the same code, so that it must
  // not be made twice.
  __device__ void run() {
    int32_t acts = params_.rehearsed ? 2 : 1;
    if (params_.rehearsed) set_scene();
#pragma unroll 1
    for (; acts > 0; --acts) {
      rehearsing_ = acts == 2;
      asm volatile("" : "+r"(acts));  // nothing is known of it: no copy of the loop for a rehearsal
      if (!rehearsing_) wait_for_inputs();
      if (params_.heads.rows > 0) make_heads();
      walk_jobs();
    }
  }

 private:
  static constexpr int N = S::kTiles, C = S::kChannelTiles;
  static constexpr int32_t kScene = S::kJobs - 1;  // the rehearsal's place: the planning warp fills it after the wait
  static_assert(S::kJobs > 1);

  // A job of one tile that no column attends.
  __device__ void set_scene() {
    if (threadIdx.x == 0) {
      Job job{};
      job.k_width = 16 * S::kSteps;
      job.v_width = params_.layer.head_dim;
      job.chan = -1;
      job.unit_end = 1;
      shared_.job(kScene) = job;
      shared_.terms(kScene) = 1;
    }
    for (int32_t c = threadIdx.x; c < S::kColumns; c += kAttendThreads) shared_.columns(kScene)[c] = Column{};
    sync();
  }

  // The heads of the launch's rows on their way to attention; the other warps wait for what they need of them.
  __device__ void make_heads() const {
    if (!rehearsing_) mbarrier_wait(shared_.job_full(0), 0);
    const int32_t at = rehearsing_ ? kScene : 0;
    const Job& job = shared_.job(at);
    if (!job.is(kJobNone)) MakeHeads<T, S>(params_, shared_).run(job, shared_.columns(at), rehearsing_);
    if (rehearsing_) return;
    named_barrier_arrive(kQueriesBarrier, kAttendThreads + 32);
#pragma unroll
    for (int32_t w = 0; w < S::kLoadWarps; ++w) named_barrier_arrive(kNewRowsBarrier + w, kAttendThreads + 32);
    if (job.is(kJobDirect)) sync();
  }

  __device__ void walk_jobs() {
    RingCursor ring;
    do {
      const int32_t at = rehearsing_ ? kScene : ring.at;
      if (!rehearsing_) mbarrier_wait(shared_.job_full(at), ring.parity);
      const Job& job = shared_.job(at);
      if (job.is(kJobNone)) return;
      const Column* columns = shared_.columns(at);
      // Also where no query is read: the barrier's rounds are those of the jobs.
      if (!rehearsing_ && !job.is(kJobDirect)) mbarrier_wait(shared_.queries_full(at), ring.parity);
      if (job.absent()) {
        write_identities(job, columns);
      } else {
        attend(job, columns, {shared_.address(shared_.queries(at)), shared_.terms(at)});
      }
      if (rehearsing_) return;
      if (job.is(kJobLastPass)) arrive(job);
      arrive_empty(shared_.job_empty(at));
      ring.advance(S::kJobs);
    } while (true);
  }

  using Output = float[C][N][4];

  // Of the columns of a span: m, and what this lane added to l; O for channels g and g + 8 of the warp's channel
  // tiles. A lane holds columns 8 n + 2t and 8 n + 2t + 1 (mma.cuh: C).
  struct State {
    float m[N][2], l[N][2];
    Output o;
    __device__ void clear() {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        m[n][0] = m[n][1] = -INFINITY;
        l[n][0] = l[n][1] = 0.0f;
#pragma unroll
        for (int i = 0; i < C; ++i) o[i][n][0] = o[i][n][1] = o[i][n][2] = o[i][n][3] = 0.0f;
      }
    }
  };

  // Where a job's queries lie, and how many terms they have.
  struct Queries {
    uint32_t address;
    int32_t terms;
  };

  // Keeps the compiler from reading the tables of all columns at once, for which there are no registers.
  __device__ static void one_at_a_time() {
    if constexpr (N > 2) asm volatile("" ::: "memory");
  }
  __device__ static void sync() { named_barrier(kAttendBarrier, kAttendThreads); }
  __device__ int column_of(int n, int e) const { return 8 * n + 2 * (lane_ % 4) + e % 2; }
  // Where the warps' eight values for a column begin: what the lanes of a warp read together lies side by side.
  __device__ int warps_of(int n, int e) const { return (8 * n + 4 * e + lane_ % 4) * kAttendWarps; }
  __device__ int channel_of(int i) const { return (warp_ + kAttendWarps * i) * 16 + lane_ / 4; }
  __device__ int64_t out_row(const Column& column) const {
    return static_cast<int64_t>(column.t) * params_.layer.n_heads + column.head;
  }

  // Partials of a head that keeps no rows of this zone.
  __device__ void write_identities(const Job& job, const Column* columns) const {
    const int32_t d = params_.layer.head_dim;
    for (int32_t c = warp_; c < job.count; c += kAttendWarps) {
      const Column& column = columns[c];
      if (column.part == nullptr) continue;
      for (int32_t unit = job.unit_begin; unit < job.unit_end; ++unit) {
        float* part = column.part + (unit - job.unit0) * column.stride;
        for (int32_t i = lane_; i < d + 2; i += 32) part[i] = i == 0 ? -INFINITY : 0.0f;
      }
      if (column.direct == 0) continue;
      for (int32_t i = lane_; i < d; i += 32) {
        static_cast<T*>(params_.layer.out)[out_row(column) * d + i] = narrow<T>(0.0f);
      }
      if (params_.layer.lse != nullptr && lane_ == 0) params_.layer.lse[out_row(column)] = -INFINITY;
    }
  }

  __device__ void attend(const Job& job, const Column* columns, const Queries& queries) {
    State state;
    Output o;  // of the unit; its m and l are in shared memory
    state.clear();
    const bool reads_keys = job.reads_keys();
    const Products products = {
        .all_channels = reads_keys && job.k_width == 16 * S::kSteps && job.chan < 0,
        .some_channels = reads_keys,
        .need_finish = params_.cap != 0.0f || job.is(kJobScored | kJobWeighted),
    };
    bool first_span = true;
    int32_t unit = job.unit_begin, flags;
    do {
      flags = attend_tile(job, products, columns, queries, state);
      if ((flags & kTileEndsSpan) != 0) {
        merge_span(state, first_span, o);
        state.clear();
        first_span = false;
      }
      if ((flags & kTileEndsUnit) != 0) {
        store_unit(job, columns, unit++, o);
        first_span = true;
      }
    } while ((flags & kTileEndsJob) == 0);
  }

  // Which way a job's logits come about.
  struct Products {
    bool all_channels, some_channels, need_finish;
  };

  // Returns the tile's flags.
  __device__ int32_t attend_tile(const Job& job, const Products& products, const Column* columns,
                                 const Queries& queries, State& state) {
    float s[N][4];
    const bool has_keys = S::kKeyWarps == kAttendWarps || warp_ < S::kKeyWarps;
    auto* maxima = shared_.template as<float>(S::kMaxima);
#pragma unroll
    for (int n = 0; n < N; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
    Tile tile{0, 0, 0, kTileEndsSpan | kTileEndsUnit | kTileEndsJob};
    if (!rehearsing_) {
      mbarrier_wait(shared_.keys_full(ring_.at), ring_.parity);
      tile = shared_.tile(ring_.at);
    }
    if (has_keys) {
      if (products.all_channels) {
        multiply_full_keys(queries.address, s);
      } else if (products.some_channels) {
        multiply_keys(job, queries, s);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] *= params_.factor;
      }
      if (products.need_finish || (tile.flags & kTileWhole) == 0) {
        finish_logits(job, columns, tile, s);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float m[2] = {fmaxf(s[n][0], s[n][2]), fmaxf(s[n][1], s[n][3])};
#pragma unroll
        for (int step = 4; step < 32; step *= 2) {
          m[0] = fmaxf(m[0], __shfl_xor_sync(~0u, m[0], step));
          m[1] = fmaxf(m[1], __shfl_xor_sync(~0u, m[1], step));
        }
        if (lane_ < 4) {
          maxima[warps_of(n, 0) + warp_] = m[0];
          maxima[warps_of(n, 1) + warp_] = m[1];
        }
      }
    }
    if (!rehearsing_) arrive_empty(shared_.keys_empty(ring_.at));
    sync();

#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float m = fmaxf(state.m[n][e], maximum_of_warps(maxima + warps_of(n, e)));
        const float base = m == -INFINITY ? 0.0f : m, keep = exp2_approx(state.m[n][e] - base);
        state.m[n][e] = m;
        state.l[n][e] *= keep;
#pragma unroll
        for (int i = 0; i < C; ++i) {
          state.o[i][n][e] *= keep;
          state.o[i][n][e + 2] *= keep;
        }
        if (has_keys) {
          s[n][e] = exp2_approx(s[n][e] - base);
          s[n][e + 2] = exp2_approx(s[n][e + 2] - base);
          state.l[n][e] += s[n][e] + s[n][e + 2];
        }
      }
      if (has_keys) {
        auto* weights = shared_.template as<uint32_t>(S::kWeights) + (n * S::kTileRows + warp_ * 16) * 4 + lane_;
        weights[0] = narrow_pair<T>(s[n][0], s[n][1]);
        weights[32] = narrow_pair<T>(s[n][2], s[n][3]);
      }
    }
    sync();
    if (!rehearsing_) mbarrier_wait(shared_.values_full(ring_.at), ring_.parity);
    add_values(state.o);
    if (rehearsing_) return tile.flags;
    arrive_empty(shared_.values_empty(ring_.at));
    ring_.advance(params_.stages);
    return tile.flags;
  }

  __device__ static float maximum_of_warps(const float* maxima) {
    const float4 a = *reinterpret_cast<const float4*>(maxima);
    const float m = fmaxf(fmaxf(a.x, a.y), fmaxf(a.z, a.w));
    if constexpr (S::kKeyWarps == 4) return m;
    const float4 b = *reinterpret_cast<const float4*>(maxima + 4);
    return fmaxf(m, fmaxf(fmaxf(b.x, b.y), fmaxf(b.z, b.w)));
  }
  __device__ static float sum_of_warps(const float* sums) {
    const float4 a = *reinterpret_cast<const float4*>(sums);
    const float l = (a.x + a.y) + (a.z + a.w);
    if constexpr (S::kKeyWarps == 4) return l;
    const float4 b = *reinterpret_cast<const float4*>(sums + 4);
    return l + ((b.x + b.y) + (b.z + b.w));
  }

  // Where the first step's 16 channels of this lane's key lie; those of step k at address ^ 32 k.
  __device__ uint32_t key_address() const {
    return shared_.address(shared_.keys(ring_.at)) + static_cast<uint32_t>(warp_ * 16 + lane_ % 16) * S::kRowBytes +
           chunk_offset(lane_, lane_ / 16);
  }

  // s[n] = the warp's 16 keys times the columns of tile n, over all channels that a row has room for. No order of sums
  // here or below depends on how many columns there are.
  __device__ void multiply_full_keys(uint32_t queries, float (&s)[N][4]) const {
    constexpr int kGroup = 4;  // steps whose keys are in registers together
    const uint32_t keys = key_address();
    queries += static_cast<uint32_t>(lane_ % 8) * S::kRowBytes + chunk_offset(lane_, lane_ / 8);
#pragma unroll
    for (int group = 0; group < S::kSteps; group += kGroup) {
      uint32_t a[kGroup][4];
#pragma unroll
      for (int k = 0; k < kGroup; ++k) load_matrices(a[k], keys ^ ((group + k) * 32));
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float other[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // two chains wait half as long
#pragma unroll
        for (int k = 0; k < kGroup; k += 2) {
          uint32_t b[4];
          load_matrices(b, (queries + 8 * n * S::kRowBytes) ^ ((group + k) * 32));
          multiply_add<T>(s[n], a[k], b[0], b[1]);
          multiply_add<T>(other, a[k + 1], b[2], b[3]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] += other[e];
      }
    }
  }

  // The same for rows that keep fewer channels, and for queries of two terms.
  __device__ void multiply_keys(const Job& job, const Queries& queries, float (&s)[N][4]) const {
    const int32_t steps = job.k_width / 16, terms = queries.terms;
    const uint32_t first =
        queries.address + static_cast<uint32_t>(lane_ % 8) * S::kRowBytes + chunk_offset(lane_, lane_ / 8);
#pragma unroll 1
    for (int32_t step = 0; step < steps; step += 4) {
      const uint32_t keys = key_address() ^ static_cast<uint32_t>(step * 32);
      const uint32_t columns = first ^ static_cast<uint32_t>(step * 32);
      switch (min(steps - step, 4)) {
        case 1: multiply_steps<1>(keys, columns, terms, s); break;
        case 2: multiply_steps<2>(keys, columns, terms, s); break;
        case 3: multiply_steps<3>(keys, columns, terms, s); break;
        default: multiply_steps<4>(keys, columns, terms, s);
      }
    }
  }
  // kSteps steps whose keys are in registers together: what one waits for, all have waited for.
  template <int kSteps>
  __device__ void multiply_steps(uint32_t keys, uint32_t queries, int32_t terms, float (&s)[N][4]) const {
    uint32_t a[kSteps][4];
#pragma unroll
    for (int k = 0; k < kSteps; ++k) load_matrices(a[k], keys ^ (k * 32));
#pragma unroll 1
    for (int32_t term = 0; term < terms; ++term) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float other[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int k = 0; k < kSteps; k += 2) {
          uint32_t b[4];  // of an odd last step only the first half is used
          load_matrices(b, (queries + 8 * n * S::kRowBytes) ^ (k * 32));
          multiply_add<T>(s[n], a[k], b[0], b[1]);
          if (k + 1 < kSteps) multiply_add<T>(other, a[k + 1], b[2], b[3]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] += other[e];
      }
      queries += S::kTermBytes;
    }
  }

  // Soft cap, log weights, given scores; -inf where a column does not attend a key.
  __device__ void finish_logits(const Job& job, const Column* columns, const Tile& tile, float (&s)[N][4]) const {
    const int32_t slot = warp_ * 16 + lane_ / 4;
    if (params_.cap != 0.0f && !job.is(kJobScored)) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = params_.cap * (1.0f - 2.0f / (exp2_approx(s[n][e]) + 1.0f));
      }
    }
    if (job.is(kJobWeighted)) {
      const auto* weights = shared_.template as<float>(shared_.log_weights(ring_.at)) + slot;
      const float low = weights[0], high = weights[8];
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = __fmaf_rn(e < 2 ? low : high, kLog2e, s[n][e]);
      }
    }
    const int32_t number = tile.first + slot;
    int32_t row[2] = {number, number + 8};
    if (job.is(kJobPicked)) {
      const auto* rows = shared_.template as<int32_t>(shared_.rows(ring_.at)) + slot;
      row[0] = rows[0];
      row[1] = rows[8];
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        one_at_a_time();
        const Column& column = columns[column_of(n, e)];
        const int32_t at = number + e / 2 * 8, j = row[e / 2];
        const bool sees =
            at >= tile.lo && at < tile.hi && j < column.limit && (j < job.sink || column.pos - j < job.window);
        if (job.is(kJobScored) && sees && column.part != nullptr) {
          s[n][e] = params_.plan.scores[out_row(column) * (job.row_end - job.row0) + (j - job.row0)];
        }
        if (!sees) s[n][e] = -INFINITY;
      }
    }
  }

  // O += V' P for the warp's channels.
  __device__ void add_values(Output& o) const {
    constexpr int kSteps = S::kTileRows / 16;
    const uint32_t values = shared_.address(shared_.values(ring_.at)) +
                            static_cast<uint32_t>(lane_ % 8 + lane_ / 16 * 8) * S::kRowBytes +
                            chunk_offset(lane_, lane_ / 8 % 2 + warp_ * 2);
    const uint32_t weights = shared_.address(S::kWeights) + static_cast<uint32_t>(lane_) * 16;
#pragma unroll
    for (int i = 0; i < C; ++i) {
      if ((warp_ + kAttendWarps * i) * 16 >= params_.layer.head_dim) continue;
      uint32_t a[kSteps][4];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        load_matrices_transposed(a[k], values + i * kAttendWarps * 32 + k * 16 * S::kRowBytes);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float other[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int k = 0; k < kSteps; k += 2) {
          uint32_t b[4];
          load_matrices_transposed(b, weights + (n * S::kTileRows + k * 16) * 16);
          multiply_add<T>(o[i][n], a[k], b[0], b[1]);
          multiply_add<T>(other, a[k + 1], b[2], b[3]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) o[i][n][e] += other[e];
      }
    }
  }

  // Where the unit's m and l are: written and read in turn in two places, so that a slow warp may still read the last.
  __device__ float* unit_m(uint32_t turn) const {
    return shared_.template as<float>(S::kUnits) + turn * 2 * S::kColumns;
  }
  __device__ float* unit_l(uint32_t turn) const { return unit_m(turn) + S::kColumns; }

  // Merges a finished span into the unit, of which it may be the first.
  __device__ void merge_span(const State& state, bool first, Output& o) {
    auto* sums = shared_.template as<float>(S::kSums);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float l[2] = {state.l[n][0], state.l[n][1]};
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        l[0] += __shfl_xor_sync(~0u, l[0], step);
        l[1] += __shfl_xor_sync(~0u, l[1], step);
      }
      if (lane_ < 4) {
        sums[warps_of(n, 0) + warp_] = l[0];
        sums[warps_of(n, 1) + warp_] = l[1];
      }
    }
    sync();
    const float* old_m = unit_m(turn_);
    const float* old_l = unit_l(turn_);
    turn_ ^= 1;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int c = column_of(n, e);
        one_at_a_time();
        const MergeFactors f = merge_factors(first ? -INFINITY : old_m[c], state.m[n][e]);
#pragma unroll
        for (int i = 0; i < C; ++i) {
          o[i][n][e] = merged(first ? 0.0f : o[i][n][e], state.o[i][n][e], f);
          o[i][n][e + 2] = merged(first ? 0.0f : o[i][n][e + 2], state.o[i][n][e + 2], f);
        }
        if (warp_ == 0 && lane_ < 4) {
          unit_m(turn_)[c] = f.m;
          unit_l(turn_)[c] = merged(first ? 0.0f : old_l[c], sum_of_warps(sums + warps_of(n, e)), f);
        }
      }
    }
  }

  // Writes the unit's partials, or the rows themselves where it is all that they attend.
  __device__ void store_unit(const Job& job, const Column* columns, int32_t unit, const Output& o) const {
    const AttentionLayer& layer = params_.layer;
    const int32_t d = layer.head_dim;
    const bool writes_sums = warp_ == 0 && lane_ < 4;
    sync();  // the last merge's m and l
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int c = column_of(n, e);
        one_at_a_time();
        const Column& column = columns[c];
        if (column.part == nullptr) continue;
        const float m = unit_m(turn_)[c], l = unit_l(turn_)[c];
        if (column.direct == 0) {
          float* part = column.part + (unit - job.unit0) * column.stride;
#pragma unroll
          for (int i = 0; i < C; ++i) {
            const int32_t channel = channel_of(i);
            if (channel >= d) continue;
            part[2 + channel] = o[i][n][e];
            part[2 + channel + 8] = o[i][n][e + 2];
          }
          if (writes_sums) *reinterpret_cast<float2*>(part) = make_float2(m, l);
        } else {
          T* out = static_cast<T*>(layer.out) + out_row(column) * d;
          const float inverse = inverse_sum(l);
#pragma unroll
          for (int i = 0; i < C; ++i) {
            const int32_t channel = channel_of(i);
            if (channel >= d) continue;
            out[channel] = narrow<T>(o[i][n][e] * inverse);
            out[channel + 8] = narrow<T>(o[i][n][e + 2] * inverse);
          }
          if (writes_sums && layer.lse != nullptr) layer.lse[out_row(column)] = natural_lse(m, l);
        }
      }
    }
  }

  // Counts the item's partials for each of its sequences; merges octets and folds sequences that are complete.
  __device__ void arrive(const Job& job) const {
    const SegmentPlan& plan = params_.plan;
    const int32_t octet = job.unit_begin / kOctetSpans * kOctetSpans;  // its first span
    const bool whole_octet = job.unit_spans == 1 && octet >= job.span_begin && octet + kOctetSpans <= job.span_end;
    for (int32_t m = 0; m < job.n_members; ++m) {
      int32_t seq = job.seq, expected = job.n_parts, part0 = job.part0, n_q = job.n_q;
      if (job.n_members > 1) {
        const Member member = plan.members[job.member0 + m];
        seq = member.seq;
        part0 = member.part0;
        n_q = params_.layer.seqs[seq].n_q;
        expected = partials_of(plan, params_.layer.seqs[seq]);
      }
      if (expected == 1) continue;
      Folded folded{params_.layer.seqs[seq], expected, {}};
      folded.first = plan.folds[folded.seq.fold0];
      int32_t units = job.unit_end - job.unit_begin;
      if (whole_octet && expected > kFoldAtOnce) {
        const int32_t slot = part0 + (octet - job.span_begin) * n_q;
        if (!completes(plan.octet_done + counter(slot / kOctetSpans, job), units, kOctetArrivals)) continue;
        merge_octet<S::kMergePairs>(params_, folded.seq, job.g, slot);
        units = kOctetSpans;
      }
      if (completes(plan.done + counter(seq, job), units, expected)) {
        fold_sequence<T, S::kFoldAhead>(params_, folded, job.g);
      }
    }
  }
  __device__ int64_t counter(int32_t index, const Job& job) const {
    return static_cast<int64_t>(index) * params_.layer.kv.n_kv_heads + job.g;
  }

  // Counts n arrivals of what this block has written. Whether they are the last of `expected`: then the counter is zero
  // again, and what other blocks have written may be read, past L1.
  __device__ bool completes(uint32_t* arrivals, int32_t n, int32_t expected) const {
    auto* complete = shared_.template as<int32_t>(S::kFlags);
    sync();  // all is written, and the last answer was read
    if (threadIdx.x == 0) {
      fence_device();
      const uint32_t before = atomicAdd(arrivals, static_cast<uint32_t>(n));
      *complete = before + n == static_cast<uint32_t>(expected);
      if (*complete) {
        fence_device();
        *arrivals = 0;
      }
    }
    sync();
    return *complete;
  }

  const Params& params_;
  const Shared<S>& shared_;
  const int32_t warp_, lane_;
  bool rehearsing_ = false;
  uint32_t turn_ = 0;
  RingCursor ring_;
};

}  // namespace pare::cuda::decode
