// States (m, l, O), their merge, and what the attending warps of a block do that finishes the last partial of an octet
// (a warp takes a query row of a head at a time) or of a sequence (a thread takes four channels of a row). Partials of
// other blocks are read past L1.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/mma.cuh"

namespace pare::cuda::decode {

// How two states combine: m' = larger, every other component = src * from + dst * keep. Merging an identity (l = 0,
// m = -inf) on either side gives the other side.
struct MergeFactors {
  float m, keep, from;
};
__device__ inline MergeFactors merge_factors(float dst_m, float src_m) {
  const float m = fmaxf(dst_m, src_m), base = m == -INFINITY ? 0.0f : m;
  return {m, exp2_approx(dst_m - base), exp2_approx(src_m - base)};
}
__device__ inline float merged(float dst, float src, const MergeFactors& f) {
  return __fmaf_rn(src, f.from, dst * f.keep);
}

__device__ inline float natural_lse(float m, float l) {
  return l == 0.0f ? -INFINITY : (m + log2f(l)) * (1.0f / kLog2e);
}
__device__ inline float inverse_sum(float l) { return l == 0.0f ? 0.0f : 1.0f / l; }

// The part of a state that one lane folds: m, l and channels 2 p and 2 p + 1 for p = lane, lane + 32, ...
template <int kPairs>
struct LaneState {
  float m = -INFINITY, l = 0.0f;
  float2 o[kPairs] = {};
  __device__ void merge(const LaneState& src) {
    const MergeFactors f = merge_factors(m, src.m);
    m = f.m;
    l = merged(l, src.l, f);
#pragma unroll
    for (int32_t i = 0; i < kPairs; ++i) {
      o[i].x = merged(o[i].x, src.o[i].x, f);
      o[i].y = merged(o[i].y, src.o[i].y, f);
    }
  }
};

// Up to kAhead states, the loads of all in flight together. m and l of state k are with lane k.
template <int kAhead, int kPairs>
struct LaneStates {
  static_assert(kAhead <= 32);
  float2 sums, o[kAhead][kPairs];
  // Of state k < n, m and l are at sums_of(k) and the channels at channels_of(k); pairs [pair, pairs) are there.
  template <typename SumsOf, typename ChannelsOf>
  __device__ void load(int32_t n, int32_t pair, int32_t pairs, SumsOf sums_of, ChannelsOf channels_of) {
    if (lane_id() < n) sums = __ldcg(reinterpret_cast<const float2*>(sums_of(lane_id())));
#pragma unroll
    for (int32_t k = 0; k < kAhead; ++k) {
      if (k >= n) break;
      const auto* channels = reinterpret_cast<const float2*>(channels_of(k));
#pragma unroll
      for (int32_t i = 0; i < kPairs; ++i) {
        o[k][i] = pair + 32 * i < pairs ? __ldcg(channels + pair + 32 * i) : make_float2(0.0f, 0.0f);
      }
    }
  }
  // Called by all lanes.
  __device__ LaneState<kPairs> at(int32_t k) const {
    LaneState<kPairs> state;
    state.m = __shfl_sync(~0u, sums.x, k);
    state.l = __shfl_sync(~0u, sums.y, k);
#pragma unroll
    for (int32_t i = 0; i < kPairs; ++i) state.o[i] = o[k][i];
    return state;
  }
};

__device__ inline int32_t active_heads(const AttentionLayer& layer, const SeqStep& seq) {
  return seq.heads == 0 ? layer.n_heads : seq.heads;
}

// Calls on_row(row, pair) for the query rows of a sequence for KV head g, in each 32 kPairs pairs of channels for
// a warp; rows of heads that are not active are left out.
template <int kPairs, typename OnRow>
__device__ inline void walk_rows(const Params& params, const SeqStep& seq, int32_t g, OnRow on_row) {
  const AttentionLayer& layer = params.layer;
  const int32_t stretches = (layer.head_dim / 2 + 32 * kPairs - 1) / (32 * kPairs);
  const int32_t tasks = seq.n_q * params.group * stretches, heads = active_heads(layer, seq);
#pragma unroll 1
  for (int32_t at = static_cast<int32_t>(threadIdx.x) / 32; at < tasks; at += kAttendWarps) {
    const int32_t row = at / stretches, head = g * layer.qa + row % params.group * layer.qb;
    if (head < heads) on_row(row, at % stretches * 32 * kPairs + lane_id());
  }
}

// Where a sequence's partials of a query row are.
struct RowParts {
  float* slot0;           // the row's place in slot 0
  int64_t slot, partial;  // floats from a slot to the next, and from a partial to the next
  __device__ RowParts(const Params& params, const SeqStep& seq, int32_t g, int32_t row) {
    const int32_t part_floats = params.layer.head_dim + 2;
    slot0 = params.plan.parts + (static_cast<int64_t>(g) * seq.n_q * params.group + row) * part_floats;
    slot = static_cast<int64_t>(params.layer.n_heads) * part_floats;
    partial = seq.n_q * slot;
  }
};

// Merges the octet of spans whose first partial is at `slot` of a sequence, for KV head g. Its channels take the place
// of the first partial's; its m and l that of the second one's first two channels, which nobody but the lane that
// writes there reads: warps need not wait for each other.
template <int kPairs>
__device__ void merge_octet(const Params& params, const SeqStep& seq, int32_t g, int32_t slot) {
  walk_rows<kPairs>(params, seq, g, [&](int32_t row, int32_t pair) {
    const int32_t pairs = params.layer.head_dim / 2;
    const RowParts parts(params, seq, g, row);
    float* first = parts.slot0 + slot * parts.slot;
    LaneStates<kOctetSpans, kPairs> states;
    const auto partial = [&](int32_t k) { return first + k * parts.partial; };
    states.load(kOctetSpans, pair, pairs, partial, [&](int32_t k) { return partial(k) + 2; });
    LaneState<kPairs> octet;
#pragma unroll
    for (int32_t k = 0; k < kOctetSpans; ++k) octet.merge(states.at(k));
#pragma unroll
    for (int32_t i = 0; i < kPairs; ++i) {
      if (pair + 32 * i < pairs) reinterpret_cast<float2*>(first + 2)[pair + 32 * i] = octet.o[i];
    }
    if (pair == 0) *reinterpret_cast<float2*>(partial(1) + 2) = make_float2(octet.m, octet.l);
  });
}

// What there is to fold of a fold's partials: where whole octets of spans were merged, single spans up to the first of
// them, these, and the spans behind them.
struct FoldPieces {
  int32_t head, octets, count;
  __device__ FoldPieces(const Fold& fold, bool octets_merged) {
    head = octets_merged && fold.unit == 1 ? min(fold.n_parts, -fold.span0 & (kOctetSpans - 1)) : fold.n_parts;
    octets = (fold.n_parts - head) / kOctetSpans;
    count = fold.n_parts - octets * (kOctetSpans - 1);
  }
  // The (first) partial of piece i.
  __device__ int32_t partial(int32_t i) const { return i + min(max(i - head, 0), octets) * (kOctetSpans - 1); }
  __device__ bool is_octet(int32_t i) const { return i >= head && i < head + octets; }
};

// A sequence whose partials are merged, as the plan has it. It is read before the partials' arrivals are counted: the
// fences there empty L1.
struct Folded {
  SeqStep seq;
  int32_t partials;  // in all
  Fold first;
};

// Folds all partials of a sequence for KV head g into out and lse. A thread takes four channels of a row: kAhead of its
// partials are on their way together, and no lane waits for another. Four, since one round of threads then does for the
// heads of a group.
template <typename T, int32_t kAhead>
__device__ void fold_sequence(const Params& params, const Folded& folded, int32_t g) {
  using State = LaneState<2>;
  const AttentionLayer& layer = params.layer;
  const SeqStep& seq = folded.seq;
  const bool octets_merged = folded.partials > kFoldAtOnce;
  const int32_t fours = layer.head_dim / 4, rows = seq.n_q * params.group, heads = active_heads(layer, seq);
  for (int32_t at = static_cast<int32_t>(threadIdx.x); at < rows * fours; at += kAttendThreads) {
    const int32_t row = at / fours, four = at % fours, head = g * layer.qa + row % params.group * layer.qb;
    if (head >= heads) continue;
    const RowParts parts(params, seq, g, row);
    State octet, section, total;
    int32_t octet_at = -1, section_at = -1;
    for (int32_t f = 0; f < seq.n_folds; ++f) {
      const Fold fold = f == 0 ? folded.first : params.plan.folds[seq.fold0 + f];
      if (fold.section != section_at) {
        section.merge(octet);
        total.merge(section);
        octet = section = State();
        octet_at = -1;
        section_at = fold.section;
      }
      const FoldPieces pieces(fold, octets_merged);
      const float* of_fold = parts.slot0 + fold.part0 * parts.slot;
      for (int32_t first = 0; first < pieces.count; first += kAhead) {
        float2 sums[kAhead], channels[kAhead][2];
#pragma unroll
        for (int32_t k = 0; k < kAhead; ++k) {
          // Beyond the end the last one again: a branch between loads would have each wait for the one before.
          const int32_t i = min(first + k, pieces.count - 1);
          const float* part = of_fold + pieces.partial(i) * parts.partial;
          channels[k][0] = __ldcg(reinterpret_cast<const float2*>(part + 2) + 2 * four);
          channels[k][1] = __ldcg(reinterpret_cast<const float2*>(part + 2) + 2 * four + 1);
          // Those of a merged octet lie in its second partial (merge_octet).
          sums[k] = __ldcg(reinterpret_cast<const float2*>(part + (pieces.is_octet(i) ? parts.partial + 2 : 0)));
        }
#pragma unroll
        for (int32_t k = 0; k < kAhead; ++k) {
          if (first + k >= pieces.count) break;
          const int32_t place = fold.unit == 1 ? (fold.span0 + pieces.partial(first + k)) / kOctetSpans
                                               : fold.span0 / kOctetSpans + first + k;
          if (place != octet_at) {
            section.merge(octet);
            octet = State();
            octet_at = place;
          }
          octet.merge({sums[k].x, sums[k].y, {channels[k][0], channels[k][1]}});
        }
      }
    }
    section.merge(octet);
    total.merge(section);
    const float inverse = inverse_sum(total.l);
    const int64_t out_row = static_cast<int64_t>(seq.q_row + row / params.group) * layer.n_heads + head;
    reinterpret_cast<uint2*>(layer.out)[out_row * fours + four] =
        make_uint2(narrow_pair<T>(total.o[0].x * inverse, total.o[0].y * inverse),
                   narrow_pair<T>(total.o[1].x * inverse, total.o[1].y * inverse));
    if (layer.lse != nullptr && four == 0) layer.lse[out_row] = natural_lse(total.m, total.l);
  }
}

}  // namespace pare::cuda::decode
