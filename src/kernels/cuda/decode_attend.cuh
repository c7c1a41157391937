// The attending warps of the decode kernel. Keys lie on the long side of every product, so that up to 8 query rows cost
// what one costs: S = K Q' (16 keys of the tile a warp), then O' = V' P (16 channels a warp); the softmax between them
// needs the block twice: for the columns' maxima, and for the weights.
#pragma once

#include "kernels/cuda/decode_fold.cuh"
#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

template <typename T, int kTileRows, int kChannelTiles>
class Attend {
 public:
  __device__ Attend(const Params& params, const SharedLayout& layout, std::byte* shared)
      : params_(params),
        layout_(layout),
        shared_(shared),
        address_(shared_address(shared)),
        columns_(reinterpret_cast<Column*>(shared + layout.columns)),
        warp_(static_cast<int32_t>(threadIdx.x) / 32) {}

  __device__ void run() {
    walk_tasks(params_, [&](const Task& task) {
      const int32_t passes = passes_of(params_, task);
      for (int32_t p = 0; p < passes; ++p) {
        const Pass pass = make_pass(params_, task, p);
        set_up_columns(task, pass);
        if (task.absent()) {
          write_identities(task, pass);
        } else if (pass.count <= 8) {
          attend<1>(task, pass);
        } else if (pass.count <= 16) {
          attend<2>(task, pass);
        } else if (pass.count <= 32 || kChannelTiles > 1) {
          attend<4>(task, pass);
        } else if constexpr (kChannelTiles == 1) {
          attend<8>(task, pass);
        }
      }
      arrive(task);
    });
  }

 private:
  static constexpr int kKeyWarps = kTileRows / 16;  // warps that have keys

  __device__ static int32_t thread() { return static_cast<int32_t>(threadIdx.x); }
  __device__ static void sync() { named_barrier(kAttendBarrier, kAttendThreads); }

  // Fills columns_ and the queries, two terms of 16 bits each where one does not hold a scaled query exactly.
  __device__ void set_up_columns(const Task& task, const Pass& pass) {
    const AttentionLayer& layer = params_.layer;
    const int32_t d = layer.head_dim;
    sync();  // the last pass is done with them
    if (thread() < padded_columns(pass)) {
      Column column{};
      if (thread() < pass.count) {
        const int32_t index = pass.first + thread(), r = index % params_.group;
        const QueryRow row = locate_row(params_, task, index / params_.group);
        const SeqStep& seq = layer.seqs[row.seq];
        column.t = seq.q_row + row.i;
        column.head = task.g * layer.qa + r * layer.qb;
        column.pos = seq.pos + row.i + task.shift;
        column.limit = task.causal ? min(task.row_end, column.pos + 1) : task.row_end;
        column.stride = static_cast<int64_t>(seq.n_q) * layer.n_heads * (d + 2);
        column.direct = partials_of(params_.plan, seq) == 1;
        if (column.head < (seq.heads == 0 ? layer.n_heads : seq.heads)) {
          column.part = params_.plan.parts +
                        (static_cast<int64_t>(row.part0) * layer.n_heads +
                         static_cast<int64_t>(task.g) * seq.n_q * params_.group + row.i * params_.group + r) *
                            (d + 2);
        }
      }
      columns_[thread()] = column;
    }
    sync();
    two_terms_ = task.format.chan >= 0;
    if (!task.absent() && task.reads_keys()) load_queries(task, pass);
    sync();
  }

  __device__ static int32_t padded_columns(const Pass& pass) {
    return pass.count <= 8 ? 8 : pass.count <= 16 ? 16 : pass.count <= 32 ? 32 : 64;
  }

  __device__ void load_queries(const Task& task, const Pass& pass) {
    const AttentionLayer& layer = params_.layer;
    const int32_t columns = padded_columns(pass), width = task.format.k_width, d = layer.head_dim;
    const T* q = static_cast<const T*>(layer.q);
    std::byte* terms = shared_ + layout_.queries;
    if (!two_terms_) {
      const int32_t chunks = width / 8;
      for (int32_t at = thread(); at < columns * chunks; at += kAttendThreads) {
        const int32_t c = at / chunks, chunk = at % chunks;
        uint4 value{0, 0, 0, 0};
        if (columns_[c].part != nullptr) {
          const int64_t row = static_cast<int64_t>(columns_[c].t) * layer.n_heads + columns_[c].head;
          value = *reinterpret_cast<const uint4*>(q + row * d + chunk * 8);
        }
        *reinterpret_cast<uint4*>(terms + c * layout_.row_bytes + chunk * 16) = value;
      }
      return;
    }
    for (int32_t at = thread(); at < columns * width; at += kAttendThreads) {
      const int32_t c = at / width, i = at % width;
      float value = 0.0f;
      if (columns_[c].part != nullptr) {
        const int64_t row = static_cast<int64_t>(columns_[c].t) * layer.n_heads + columns_[c].head;
        const Channel channel = layer.kv.channels[task.format.chan + i];
        value = widen(q[row * d + channel.id]) * channel.alpha;
      }
      const T high = narrow<T>(value);
      T* term = reinterpret_cast<T*>(terms + c * layout_.row_bytes);
      term[i] = high;
      term[i + layout_.query_bytes / sizeof(T)] = narrow<T>(value - widen(high));
    }
  }

  // Partials of a head that keeps no rows of this zone.
  __device__ void write_identities(const Task& task, const Pass& pass) {
    const int32_t d = params_.layer.head_dim;
    for (int32_t c = warp_; c < pass.count; c += kAttendWarps) {
      const Column& column = columns_[c];
      if (column.part == nullptr) continue;
      for (int32_t unit = task.unit_begin; unit < task.unit_end; ++unit) {
        float* part = column.part + (unit - task.unit0) * column.stride;
        for (int32_t i = lane_id(); i < d + 2; i += 32) part[i] = i == 0 ? -INFINITY : 0.0f;
        if (column.direct == 0) continue;
        const int64_t row = static_cast<int64_t>(column.t) * params_.layer.n_heads + column.head;
        for (int32_t i = lane_id(); i < d; i += 32) static_cast<T*>(params_.layer.out)[row * d + i] = narrow<T>(0.0f);
        if (params_.layer.lse != nullptr && lane_id() == 0) params_.layer.lse[row] = -INFINITY;
      }
    }
  }

  // The state of 8 kColumnTiles columns. A lane holds columns 8 n + 2t and 8 n + 2t + 1 of m and l, and of O channels
  // g and g + 8 of its warp's channel tiles.
  template <int kColumnTiles>
  struct State {
    float m[kColumnTiles][2], l[kColumnTiles][2];
    float o[kChannelTiles][kColumnTiles][4];
    __device__ void clear() {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          m[n][e] = -INFINITY;
          l[n][e] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kChannelTiles; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) o[i][n][e] = 0.0f;
        }
      }
    }
    __device__ void merge(const State& src) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const MergeFactors f = merge_factors(m[n][e], src.m[n][e]);
          m[n][e] = f.m;
          l[n][e] = merged(l[n][e], src.l[n][e], f);
#pragma unroll
          for (int i = 0; i < kChannelTiles; ++i) {
            o[i][n][e] = merged(o[i][n][e], src.o[i][n][e], f);
            o[i][n][e + 2] = merged(o[i][n][e + 2], src.o[i][n][e + 2], f);
          }
        }
      }
    }
  };

  template <int kColumnTiles>
  __device__ void attend(const Task& task, const Pass& pass) {
    State<kColumnTiles> unit_state, span_state;
    for (int32_t unit = task.unit_begin; unit < task.unit_end; ++unit) {
      unit_state.clear();
      const int32_t last = min((unit + 1) * task.unit_spans, task.span_end);
      for (int32_t span = max(unit * task.unit_spans, task.span_begin); span < last; ++span) {
        span_state.clear();
        bool any = false;
        walk_span<kTileRows>(task, pass, span, [&](const Tile& tile) {
          any = true;
          attend_tile(task, pass, tile, span_state);
        });
        if (!any) continue;
        sum_columns(span_state);
        unit_state.merge(span_state);
      }
      store_unit(task, unit, unit_state);
    }
  }

  template <int kColumnTiles>
  __device__ void attend_tile(const Task& task, const Pass& pass, const Tile& tile, State<kColumnTiles>& state) {
    float s[kColumnTiles][4];
    const bool has_keys = warp_ < kKeyWarps;
    const uint32_t stage = static_cast<uint32_t>(at_.stage);
    mbarrier_wait(barrier_at(layout_, address_, kKeysFull, at_.stage, params_.stages), at_.parity);
    if (has_keys) {
      if (task.reads_keys()) {
        multiply_keys(task, address_ + layout_.keys + stage * layout_.plane_bytes, s);
      } else {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
      }
      finish_logits(task, pass, tile, s);
    }
    // Row numbers and log weights are read, too.
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(barrier_at(layout_, address_, kKeysEmpty, at_.stage, params_.stages));

    auto* column_max = reinterpret_cast<float*>(shared_ + layout_.column_max);
    if (has_keys) store_maxima(s, column_max);
    sync();
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int32_t column = 8 * n + 2 * (lane_id() % 4) + e;
        float m = state.m[n][e];
#pragma unroll
        for (int w = 0; w < kKeyWarps; ++w) m = fmaxf(m, column_max[w * 8 * kColumnTiles + column]);
        const float base = m == -INFINITY ? 0.0f : m;
        const float keep = exp2_approx(state.m[n][e] - base);
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
        std::byte* weights =
            shared_ + layout_.weights + (n * kTileRows + warp_ * 16 + lane_id() / 4) * 16 + lane_id() % 4 * 4;
        *reinterpret_cast<uint32_t*>(weights) = narrow_pair<T>(s[n][0], s[n][1]);
        *reinterpret_cast<uint32_t*>(weights + 8 * 16) = narrow_pair<T>(s[n][2], s[n][3]);
      }
    }
    sync();
    mbarrier_wait(barrier_at(layout_, address_, kValuesFull, at_.stage, params_.stages), at_.parity);
    add_values(address_ + layout_.values + stage * layout_.plane_bytes, state);
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(barrier_at(layout_, address_, kValuesEmpty, at_.stage, params_.stages));
    at_.advance(params_.stages);
  }

  // s[n] = the warp's 16 keys times the columns of tile n.
  template <int kColumnTiles>
  __device__ void multiply_keys(const Task& task, uint32_t keys, float (&s)[kColumnTiles][4]) const {
    const int32_t lane = lane_id(), steps = task.format.k_width / 16;
    const uint32_t key_row = static_cast<uint32_t>(warp_ * 16 + lane % 16),
                   key_column = static_cast<uint32_t>(lane / 16) * 16;
    const uint32_t key_address = keys + key_row * layout_.row_bytes + key_column;
    const uint32_t query_address = address_ + layout_.queries + static_cast<uint32_t>(lane % 8) * layout_.row_bytes +
                                   static_cast<uint32_t>(lane / 8) * 16;
    const uint32_t terms = two_terms_ ? 2 : 1;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll 2
    for (int32_t step = 0; step < steps; step += 2) {
      uint32_t a[2][4];
      const bool second = step + 1 < steps;
      load_matrices(a[0], key_address + static_cast<uint32_t>(step) * 32);
      if (second) load_matrices(a[1], key_address + static_cast<uint32_t>(step) * 32 + 32);
      for (uint32_t term = 0; term < terms; ++term) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          uint32_t b[4];
          load_matrices(b, query_address + term * layout_.query_bytes + 8 * n * layout_.row_bytes +
                               static_cast<uint32_t>(step) * 32);
          multiply_add<T>(s[n], a[0], b[0], b[1]);
          if (second) multiply_add<T>(s[n], a[1], b[2], b[3]);
        }
      }
    }
  }

  // Dot products to logits in log2 units; -inf where a column does not attend a key.
  template <int kColumnTiles>
  __device__ void finish_logits(const Task& task, const Pass& pass, const Tile& tile,
                                float (&s)[kColumnTiles][4]) const {
    const int32_t slot = warp_ * 16 + lane_id() / 4, in_rings = at_.stage * kTileRows + slot;
    const auto* rows = reinterpret_cast<const int32_t*>(shared_ + layout_.rows) + in_rings;
    const auto* weights = reinterpret_cast<const float*>(shared_ + layout_.log_weights) + in_rings;
    if (!task.scored) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s[n][e] *= params_.factor;
          if (params_.cap != 0.0f) s[n][e] = params_.cap * (1.0f - 2.0f / (exp2_approx(s[n][e]) + 1.0f));
        }
      }
      if (task.format.lw != kNoPlane) {
        const float low = weights[0], high = weights[8];
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          s[n][0] = __fmaf_rn(low, kLog2e, s[n][0]);
          s[n][1] = __fmaf_rn(low, kLog2e, s[n][1]);
          s[n][2] = __fmaf_rn(high, kLog2e, s[n][2]);
          s[n][3] = __fmaf_rn(high, kLog2e, s[n][3]);
        }
      }
    }
    const bool whole = task.picked ? tile.first + kTileRows <= tile.total && pass.all_see(task, task.row0, task.row_end)
                                   : tile.first >= tile.lo && tile.first + kTileRows <= tile.hi &&
                                         pass.all_see(task, tile.first, tile.first + kTileRows);
    if (whole && !task.scored) return;
    const int32_t row[2] = {rows[0], rows[8]};
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const Column& column = columns_[8 * n + 2 * (lane_id() % 4) + e % 2];
        const int32_t j = row[e / 2];
        const bool sees = j >= 0 && j < column.limit && (j < task.sink || column.pos - j < task.window);
        if (task.scored && sees && column.part != nullptr) {
          const int64_t scores =
              (static_cast<int64_t>(column.t) * params_.layer.n_heads + column.head) * (task.row_end - task.row0);
          s[n][e] = params_.plan.scores[scores + j - task.row0];
        }
        if (!sees) s[n][e] = -INFINITY;
      }
    }
  }

  template <int kColumnTiles>
  __device__ void store_maxima(const float (&s)[kColumnTiles][4], float* column_max) const {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float m = fmaxf(s[n][e], s[n][e + 2]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, step));
        if (lane_id() < 4) column_max[(warp_ * kColumnTiles + n) * 8 + 2 * lane_id() + e] = m;
      }
    }
  }

  template <int kColumnTiles>
  __device__ void add_values(uint32_t values, State<kColumnTiles>& state) const {
    const int32_t lane = lane_id();
    const uint32_t row = static_cast<uint32_t>(lane % 8 + lane / 16 * 8),
                   channel = static_cast<uint32_t>(lane / 8 % 2 * 8);
    const uint32_t weight_address = address_ + layout_.weights + static_cast<uint32_t>(lane) * 16;
#pragma unroll
    for (int i = 0; i < kChannelTiles; ++i) {
      const int32_t channel_tile = warp_ + kAttendWarps * i;
      if (channel_tile * 16 >= params_.layer.head_dim) continue;
      const uint32_t value_address =
          values + row * layout_.row_bytes + (static_cast<uint32_t>(channel_tile) * 16 + channel) * 2;
#pragma unroll
      for (int step = 0; step < kTileRows / 16; step += 2) {
        uint32_t a[2][4];
        load_matrices_transposed(a[0], value_address + step * 16 * layout_.row_bytes);
        load_matrices_transposed(a[1], value_address + (step + 1) * 16 * layout_.row_bytes);
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          uint32_t b[4];
          load_matrices_transposed(b, weight_address + (n * kTileRows + step * 16) * 16);
          multiply_add<T>(state.o[i][n], a[0], b[0], b[1]);
          multiply_add<T>(state.o[i][n], a[1], b[2], b[3]);
        }
      }
    }
  }

  // l of a lane counts the keys that it saw itself; from here on it counts the span's.
  template <int kColumnTiles>
  __device__ void sum_columns(State<kColumnTiles>& state) const {
    auto* sums = reinterpret_cast<float*>(shared_ + layout_.column_sum);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float l = state.l[n][e];
#pragma unroll
        for (int step = 4; step < 32; step *= 2) l += __shfl_xor_sync(~0u, l, step);
        if (lane_id() < 4) sums[(warp_ * kColumnTiles + n) * 8 + 2 * lane_id() + e] = l;
      }
    }
    sync();
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int32_t column = 8 * n + 2 * (lane_id() % 4) + e;
        float l = sums[column];
#pragma unroll
        for (int w = 1; w < kKeyWarps; ++w) l += sums[w * 8 * kColumnTiles + column];
        state.l[n][e] = l;
      }
    }
  }

  template <int kColumnTiles>
  __device__ void store_unit(const Task& task, int32_t unit, const State<kColumnTiles>& state) const {
    const AttentionLayer& layer = params_.layer;
    const int32_t g = lane_id() / 4, t = lane_id() % 4, d = layer.head_dim;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const Column& column = columns_[8 * n + 2 * t + e];
        if (column.part == nullptr) continue;
        const float m = state.m[n][e], l = state.l[n][e];
        if (column.direct != 0) {
          const int64_t row = static_cast<int64_t>(column.t) * layer.n_heads + column.head;
          T* out = static_cast<T*>(layer.out) + row * d;
          const float inverse = inverse_sum(l);
#pragma unroll
          for (int i = 0; i < kChannelTiles; ++i) {
            const int32_t channel = (warp_ + kAttendWarps * i) * 16 + g;
            if (channel >= d) continue;
            out[channel] = narrow<T>(state.o[i][n][e] * inverse);
            out[channel + 8] = narrow<T>(state.o[i][n][e + 2] * inverse);
          }
          if (layer.lse != nullptr && warp_ == 0 && g == 0) layer.lse[row] = natural_lse(m, l);
          continue;
        }
        float* part = column.part + (unit - task.unit0) * column.stride;
#pragma unroll
        for (int i = 0; i < kChannelTiles; ++i) {
          const int32_t channel = (warp_ + kAttendWarps * i) * 16 + g;
          if (channel >= d) continue;
          part[2 + channel] = state.o[i][n][e];
          part[2 + channel + 8] = state.o[i][n][e + 2];
        }
        if (warp_ == 0 && g == 0) *reinterpret_cast<float2*>(part) = make_float2(m, l);
      }
    }
  }

  // Counts the item's partials for each of its sequences; folds those that are complete.
  __device__ void arrive(const Task& task) {
    const int32_t units = task.unit_end - task.unit_begin, kv_heads = params_.layer.kv.n_kv_heads;
    auto* complete = reinterpret_cast<int32_t*>(shared_ + layout_.flags);
    __threadfence();
    for (int32_t m = 0; m < task.n_members; ++m) {
      const int32_t seq = params_.plan.members[task.member0 + m].seq;
      const int32_t expected = partials_of(params_.plan, params_.layer.seqs[seq]);
      if (expected == 1) continue;
      sync();
      if (thread() == 0) {
        uint32_t* done = params_.plan.done + static_cast<int64_t>(seq) * kv_heads + task.g;
        const uint32_t before = atomicAdd(done, static_cast<uint32_t>(units));
        *complete = before + units == static_cast<uint32_t>(expected);
        if (*complete) *done = 0;
        __threadfence();
      }
      sync();
      if (*complete) fold_sequence<T>(params_, seq, task.g);
    }
  }

  const Params& params_;
  const SharedLayout& layout_;
  std::byte* shared_;
  uint32_t address_;
  Column* columns_;
  int32_t warp_;
  bool two_terms_ = false;
  RingCursor at_;
};

}  // namespace pare::cuda::decode
