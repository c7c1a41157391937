// The attending warps of the decode kernel. Keys lie on the long side of every product, so that up to 8 query rows cost
// what one costs: S = K Q' (16 keys of the tile a warp), then O' = V' P (16 channels a warp); the softmax between them
// needs all warps twice: for the columns' maxima, and for the weights.
#pragma once

#include "kernels/cuda/decode_fold.cuh"
#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

template <typename T, int kTileRows, int kChannelTiles>
class Attend {
 public:
  __device__ Attend(const Params& params, const Shared& shared)
      : params_(params), shared_(shared), warp_(static_cast<int32_t>(threadIdx.x) / 32) {}

  __device__ void run() {
    walk_jobs(params_, shared_, [&](const Job& job, int32_t at) {
      const Column* columns = shared_.columns(params_, at);
      if (job.absent()) {
        write_identities(job, columns);
      } else if (job.count <= 8) {
        attend<1>(job, columns, at);
      } else if (job.count <= 16) {
        attend<2>(job, columns, at);
      } else if (job.count <= 32 || kChannelTiles > 1) {
        attend<4>(job, columns, at);
      } else if constexpr (kChannelTiles == 1) {
        attend<8>(job, columns, at);
      }
      if (job.is(kJobLastPass)) arrive(job);
    });
  }

 private:
  static constexpr int kKeyWarps = kTileRows / 16;  // warps that have keys

  // Of the columns of a span: m, and what this lane added to l; O for channels g and g + 8 of the warp's channel
  // tiles. A lane holds columns 8 n + 2t and 8 n + 2t + 1 (mma.cuh: C).
  template <int kColumnTiles>
  struct State {
    float m[kColumnTiles][2], l[kColumnTiles][2];
    float o[kChannelTiles][kColumnTiles][4];
  };

  __device__ static void sync() { named_barrier(kAttendBarrier, kAttendThreads); }
  __device__ static int32_t column_of(int n, int e) { return 8 * n + 2 * (lane_id() % 4) + e % 2; }
  __device__ int32_t channel_of(int i) const { return (warp_ + kAttendWarps * i) * 16 + lane_id() / 4; }
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
        for (int32_t i = lane_id(); i < d + 2; i += 32) part[i] = i == 0 ? -INFINITY : 0.0f;
      }
      if (column.direct == 0) continue;
      for (int32_t i = lane_id(); i < d; i += 32) {
        static_cast<T*>(params_.layer.out)[out_row(column) * d + i] = narrow<T>(0.0f);
      }
      if (params_.layer.lse != nullptr && lane_id() == 0) params_.layer.lse[out_row(column)] = -INFINITY;
    }
  }

  template <int kColumnTiles>
  __device__ void attend(const Job& job, const Column* columns, int32_t job_at) {
    const uint32_t queries = shared_.address(shared_.queries(job_at));
    State<kColumnTiles> state;
    float o[kChannelTiles][kColumnTiles][4];  // of the unit; its m and l are in shared memory
    for (int32_t unit = job.unit_begin; unit < job.unit_end; ++unit) {
      bool empty = true;
      const int32_t last = min((unit + 1) * job.unit_spans, job.span_end);
      for (int32_t span = max(unit * job.unit_spans, job.span_begin); span < last; ++span) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          state.m[n][0] = state.m[n][1] = -INFINITY;
          state.l[n][0] = state.l[n][1] = 0.0f;
#pragma unroll
          for (int i = 0; i < kChannelTiles; ++i) {
            state.o[i][n][0] = state.o[i][n][1] = state.o[i][n][2] = state.o[i][n][3] = 0.0f;
          }
        }
        bool any = false;
        walk_span<kTileRows>(job, span, [&](const Tile& tile) {
          any = true;
          attend_tile(job, columns, queries, tile, state);
        });
        if (!any) continue;
        merge_span(state, empty, o);
        empty = false;
      }
      store_unit<kColumnTiles>(job, columns, unit, empty, o);
    }
  }

  template <int kColumnTiles>
  __device__ void attend_tile(const Job& job, const Column* columns, uint32_t queries, const Tile& tile,
                              State<kColumnTiles>& state) {
    float s[kColumnTiles][4];
    const bool has_keys = warp_ < kKeyWarps;
    mbarrier_wait(shared_.keys_full(ring_.at), ring_.parity);
    if (has_keys) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
      if (job.reads_keys()) multiply_keys(job, queries, s);
      finish_logits(job, columns, tile, s);
      store_maxima(s);
    }
    arrive_empty(shared_.keys_empty(ring_.at));
    sync();

    const auto* column_max = shared_.template as<float>(shared_.layout.column_max);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float m = state.m[n][e];
#pragma unroll
        for (int w = 0; w < kKeyWarps; ++w) m = fmaxf(m, column_max[w * 8 * kColumnTiles + column_of(n, e)]);
        const float base = m == -INFINITY ? 0.0f : m, keep = exp2_approx(state.m[n][e] - base);
        state.m[n][e] = m;
        state.l[n][e] *= keep;
#pragma unroll
        for (int i = 0; i < kChannelTiles; ++i) {
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
        auto* weights = shared_.template as<uint32_t>(
            shared_.layout.weights + static_cast<uint32_t>((n * kTileRows + warp_ * 16 + lane_id() / 4) * 16));
        weights[lane_id() % 4] = narrow_pair<T>(s[n][0], s[n][1]);
        weights[lane_id() % 4 + 32] = narrow_pair<T>(s[n][2], s[n][3]);
      }
    }
    sync();
    mbarrier_wait(shared_.values_full(ring_.at), ring_.parity);
    add_values(state);
    arrive_empty(shared_.values_empty(ring_.at));
    ring_.advance(params_.stages);
  }

  // s[n] = the warp's 16 keys times the columns of tile n. The order of the sums does not depend on kColumnTiles.
  template <int kColumnTiles>
  __device__ void multiply_keys(const Job& job, uint32_t queries, float (&s)[kColumnTiles][4]) const {
    const int32_t lane = lane_id(), steps = job.k_width / 16, terms = job.chan < 0 ? 1 : 2;
    const uint32_t row_bytes = shared_.layout.row_bytes;
    uint32_t keys =
        shared_.address(shared_.layout.keys + static_cast<uint32_t>(ring_.at) * shared_.layout.plane_bytes) +
        static_cast<uint32_t>(warp_ * 16 + lane % 16) * row_bytes + static_cast<uint32_t>(lane / 16) * 16;
    queries += static_cast<uint32_t>(lane % 8) * row_bytes + static_cast<uint32_t>(lane / 8) * 16;
    int32_t step = 0;
    for (; step + 4 <= steps; step += 4) {  // 64 channels
      uint32_t a[4][4];
#pragma unroll
      for (int k = 0; k < 4; ++k) load_matrices(a[k], keys + k * 32);
      for (int32_t term = 0; term < terms; ++term) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          const uint32_t b = queries + static_cast<uint32_t>(term) * shared_.layout.term_bytes + 8 * n * row_bytes;
          uint32_t b0[4], b1[4];
          load_matrices(b0, b);
          load_matrices(b1, b + 64);
          float other[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // two chains wait half as long
          multiply_add<T>(s[n], a[0], b0[0], b0[1]);
          multiply_add<T>(other, a[1], b0[2], b0[3]);
          multiply_add<T>(s[n], a[2], b1[0], b1[1]);
          multiply_add<T>(other, a[3], b1[2], b1[3]);
#pragma unroll
          for (int e = 0; e < 4; ++e) s[n][e] += other[e];
        }
      }
      keys += 128;
      queries += 128;
    }
    for (; step < steps; ++step) {
      uint32_t a[4];
      load_matrices(a, keys);
      for (int32_t term = 0; term < terms; ++term) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          // Matrices 2 and 3 are the next step's; beyond the last one, whatever lies there.
          uint32_t b[4];
          load_matrices(b, queries + static_cast<uint32_t>(term) * shared_.layout.term_bytes + 8 * n * row_bytes);
          multiply_add<T>(s[n], a, b[0], b[1]);
        }
      }
      keys += 32;
      queries += 32;
    }
  }

  // Dot products to logits in log2 units; -inf where a column does not attend a key.
  template <int kColumnTiles>
  __device__ void finish_logits(const Job& job, const Column* columns, const Tile& tile,
                                float (&s)[kColumnTiles][4]) const {
    const int32_t slot = ring_.at * kTileRows + warp_ * 16 + lane_id() / 4;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] *= params_.factor;
    }
    if (params_.cap != 0.0f) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = params_.cap * (1.0f - 2.0f / (exp2_approx(s[n][e]) + 1.0f));
      }
    }
    if (job.lw != kNoPlane) {
      const auto* weights = shared_.template as<float>(shared_.layout.log_weights) + slot;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] = __fmaf_rn(weights[e / 2 * 8], kLog2e, s[n][e]);
      }
    }
    const int32_t end = tile.first + kTileRows;
    const bool whole = job.is(kJobPicked) ? end <= tile.total && job.all_see(job.row0, job.row_end)
                                          : tile.first >= tile.lo && end <= tile.hi && job.all_see(tile.first, end);
    if (whole && !job.is(kJobScored)) return;
    const auto* rows = shared_.template as<int32_t>(shared_.layout.rows) + slot;
    const int32_t first = tile.first + warp_ * 16 + lane_id() / 4;
    const int32_t row[2] = {job.is(kJobPicked) ? rows[0] : first, job.is(kJobPicked) ? rows[8] : first + 8};
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Column& column = columns[column_of(n, e)];
        const int32_t j = row[e / 2];
        const bool inside = job.is(kJobPicked) ? j >= 0 : j >= tile.lo && j < tile.hi;
        const bool sees = inside && j < column.limit && (j < job.sink || column.pos - j < job.window);
        if (job.is(kJobScored) && sees && column.part != nullptr) {
          s[n][e] = params_.plan.scores[out_row(column) * (job.row_end - job.row0) + (j - job.row0)];
        }
        if (!sees) s[n][e] = -INFINITY;
      }
    }
  }

  template <int kColumnTiles>
  __device__ void store_maxima(const float (&s)[kColumnTiles][4]) const {
    auto* column_max = shared_.template as<float>(shared_.layout.column_max) + warp_ * 8 * kColumnTiles;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float m = fmaxf(s[n][e], s[n][e + 2]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, step));
        if (lane_id() < 4) column_max[column_of(n, e)] = m;
      }
    }
  }

  // O += V' P for the warp's channels.
  template <int kColumnTiles>
  __device__ void add_values(State<kColumnTiles>& state) const {
    constexpr int kSteps = kTileRows / 16;
    const int32_t lane = lane_id();
    const uint32_t row_bytes = shared_.layout.row_bytes;
    const uint32_t values =
        shared_.address(shared_.layout.values + static_cast<uint32_t>(ring_.at) * shared_.layout.plane_bytes) +
        static_cast<uint32_t>(lane % 8 + lane / 16 * 8) * row_bytes + static_cast<uint32_t>(lane / 8 % 2 * 16);
    const uint32_t weights = shared_.address(shared_.layout.weights) + static_cast<uint32_t>(lane) * 16;
#pragma unroll
    for (int i = 0; i < kChannelTiles; ++i) {
      const int32_t channel_tile = warp_ + kAttendWarps * i;
      if (channel_tile * 16 >= params_.layer.head_dim) continue;
      uint32_t a[kSteps][4];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        load_matrices_transposed(a[k], values + static_cast<uint32_t>(channel_tile) * 32 + k * 16 * row_bytes);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        float other[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // two chains wait half as long
#pragma unroll
        for (int k = 0; k < kSteps; k += 2) {
          uint32_t b[4];
          load_matrices_transposed(b, weights + (n * kTileRows + k * 16) * 16);
          multiply_add<T>(state.o[i][n], a[k], b[0], b[1]);
          multiply_add<T>(other, a[k + 1], b[2], b[3]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) state.o[i][n][e] += other[e];
      }
    }
  }

  // Where the unit's m and l are: written and read in turn in two places, so that a slow warp may still read the last.
  __device__ float* unit_m(uint32_t turn) const {
    return shared_.template as<float>(shared_.layout.unit_states) + turn * 2 * params_.max_columns;
  }
  __device__ float* unit_l(uint32_t turn) const { return unit_m(turn) + params_.max_columns; }

  // Merges a finished span into the unit, of which it may be the first.
  template <int kColumnTiles>
  __device__ void merge_span(State<kColumnTiles>& state, bool first, float (&o)[kChannelTiles][kColumnTiles][4]) {
    auto* sums = shared_.template as<float>(shared_.layout.column_sum);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float l = state.l[n][e];
#pragma unroll
        for (int step = 4; step < 32; step *= 2) l += __shfl_xor_sync(~0u, l, step);
        if (lane_id() < 4) sums[warp_ * 8 * kColumnTiles + column_of(n, e)] = l;
      }
    }
    sync();
    const uint32_t next = turn_ ^ 1;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int32_t c = column_of(n, e);
        float l = sums[c];
#pragma unroll
        for (int w = 1; w < kKeyWarps; ++w) l += sums[w * 8 * kColumnTiles + c];
        const MergeFactors f = merge_factors(first ? -INFINITY : unit_m(turn_)[c], state.m[n][e]);
#pragma unroll
        for (int i = 0; i < kChannelTiles; ++i) {
          o[i][n][e] = merged(first ? 0.0f : o[i][n][e], state.o[i][n][e], f);
          o[i][n][e + 2] = merged(first ? 0.0f : o[i][n][e + 2], state.o[i][n][e + 2], f);
        }
        if (warp_ == 0 && lane_id() < 4) {
          unit_m(next)[c] = f.m;
          unit_l(next)[c] = merged(first ? 0.0f : unit_l(turn_)[c], l, f);
        }
      }
    }
    turn_ = next;
  }

  // Writes the unit's partials, or the rows themselves where it is all that they attend.
  template <int kColumnTiles>
  __device__ void store_unit(const Job& job, const Column* columns, int32_t unit, bool empty,
                             const float (&o)[kChannelTiles][kColumnTiles][4]) const {
    const AttentionLayer& layer = params_.layer;
    const int32_t d = layer.head_dim;
    const bool writes_sums = warp_ == 0 && lane_id() < 4;
    sync();  // the last merge's m and l
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int32_t c = column_of(n, e);
        const Column& column = columns[c];
        if (column.part == nullptr) continue;
        const float m = empty ? -INFINITY : unit_m(turn_)[c], l = empty ? 0.0f : unit_l(turn_)[c];
        T* out = static_cast<T*>(layer.out) + out_row(column) * d;
        float* part = column.part + (unit - job.unit0) * column.stride;
        const float inverse = inverse_sum(l);
#pragma unroll
        for (int i = 0; i < kChannelTiles; ++i) {
          const int32_t channel = channel_of(i);
          if (channel >= d) continue;
          const float low = empty ? 0.0f : o[i][n][e], high = empty ? 0.0f : o[i][n][e + 2];
          if (column.direct != 0) {
            out[channel] = narrow<T>(low * inverse);
            out[channel + 8] = narrow<T>(high * inverse);
          } else {
            part[2 + channel] = low;
            part[2 + channel + 8] = high;
          }
        }
        if (!writes_sums) continue;
        if (column.direct == 0) {
          *reinterpret_cast<float2*>(part) = make_float2(m, l);
        } else if (layer.lse != nullptr) {
          layer.lse[out_row(column)] = natural_lse(m, l);
        }
      }
    }
  }

  // Counts the item's partials for each of its sequences; folds those that are complete.
  __device__ void arrive(const Job& job) const {
    if (job.n_members == 1 && job.n_parts == 1) return;
    const int32_t units = job.unit_end - job.unit_begin;
    auto* complete = shared_.template as<int32_t>(shared_.layout.flags);
    __threadfence();
    for (int32_t m = 0; m < job.n_members; ++m) {
      const int32_t seq = job.n_members == 1 ? job.seq : params_.plan.members[job.member0 + m].seq;
      const int32_t expected = job.n_members == 1 ? job.n_parts : partials_of(params_.plan, params_.layer.seqs[seq]);
      if (expected == 1) continue;
      sync();
      if (threadIdx.x == 0) {
        uint32_t* done = params_.plan.done + static_cast<int64_t>(seq) * params_.layer.kv.n_kv_heads + job.g;
        const uint32_t before = atomicAdd(done, static_cast<uint32_t>(units));
        *complete = before + units == static_cast<uint32_t>(expected);
        if (*complete) *done = 0;
        __threadfence();
      }
      sync();
      if (*complete) fold_sequence<T>(params_, seq, job.g);
    }
  }

  const Params& params_;
  const Shared& shared_;
  const int32_t warp_;
  uint32_t turn_ = 0;
  RingCursor ring_;
};

}  // namespace pare::cuda::decode
