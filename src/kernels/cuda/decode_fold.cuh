// States (m, l, O), their merge, and the fold of a sequence's partials by the block that finishes its last one.
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

// The part of a state that one thread folds: m, l and two channels.
struct PairState {
  float m = -INFINITY, l = 0.0f, x = 0.0f, y = 0.0f;
  __device__ void merge(const PairState& src) {
    const MergeFactors f = merge_factors(m, src.m);
    m = f.m;
    l = merged(l, src.l, f);
    x = merged(x, src.x, f);
    y = merged(y, src.y, f);
  }
};

// Folds all partials of a sequence for KV head g into out and lse. Called by the attending warps; partials of other
// blocks are read past L1.
template <typename T>
__device__ void fold_sequence(const Params& params, int32_t seq_index, int32_t g) {
  const AttentionLayer& layer = params.layer;
  const SeqStep seq = layer.seqs[seq_index];
  const int32_t d = layer.head_dim, pairs = d / 2, heads = seq.heads == 0 ? layer.n_heads : seq.heads;
  const int64_t slot_floats = static_cast<int64_t>(layer.n_heads) * (d + 2);
  const int32_t rows = seq.n_q * params.group;
  for (int32_t at = static_cast<int32_t>(threadIdx.x); at < rows * pairs; at += kAttendThreads) {
    const int32_t row = at / pairs, pair = at % pairs;
    const int32_t t = seq.q_row + row / params.group, head = g * layer.qa + row % params.group * layer.qb;
    if (head >= heads) continue;
    const float* row_parts = params.plan.parts + (static_cast<int64_t>(g) * rows + row) * (d + 2);
    PairState octet, section, total;
    int64_t octet_at = -1;
    int32_t section_at = -1;
    for (int32_t f = 0; f < seq.n_folds; ++f) {
      const Fold fold = params.plan.folds[seq.fold0 + f];
      if (fold.section != section_at) {
        section.merge(octet);
        total.merge(section);
        octet = section = PairState();
        octet_at = -1;
        section_at = fold.section;
      }
      constexpr int32_t kAhead = 8;  // partials in flight
      for (int32_t first = 0; first < fold.n_parts; first += kAhead) {
        float2 ml[kAhead], xy[kAhead];
#pragma unroll
        for (int32_t k = 0; k < kAhead; ++k) {
          if (first + k >= fold.n_parts) break;
          const float* part = row_parts + (fold.part0 + static_cast<int64_t>(first + k) * seq.n_q) * slot_floats;
          ml[k] = __ldcg(reinterpret_cast<const float2*>(part));
          xy[k] = __ldcg(reinterpret_cast<const float2*>(part + 2) + pair);
        }
#pragma unroll
        for (int32_t k = 0; k < kAhead; ++k) {
          if (first + k >= fold.n_parts) break;
          const int64_t place =
              fold.unit == 1 ? (fold.span0 + first + k) / kOctetSpans : fold.span0 / kOctetSpans + first + k;
          if (place != octet_at) {
            section.merge(octet);
            octet = PairState();
            octet_at = place;
          }
          octet.merge({ml[k].x, ml[k].y, xy[k].x, xy[k].y});
        }
      }
    }
    section.merge(octet);
    total.merge(section);
    const float inverse = inverse_sum(total.l);
    const int64_t out_row = static_cast<int64_t>(t) * layer.n_heads + head;
    reinterpret_cast<uint32_t*>(layer.out)[out_row * pairs + pair] =
        narrow_pair<T>(total.x * inverse, total.y * inverse);
    if (layer.lse != nullptr && pair == 0) layer.lse[out_row] = natural_lse(total.m, total.l);
  }
}

}  // namespace pare::cuda::decode
