#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/row_ops.h"

namespace pare::cuda {
namespace {

constexpr int kBlock = 256;

__global__ void __launch_bounds__(kBlock) rope_table_kernel(RopeTableArgs args) {
  wait_for_inputs();
  start_dependents();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (at >= args.rows * args.half) return;
  const int64_t t = at / args.half;
  double sin, cos;
  sincos(args.positions[t] * args.inv_freq[at - t * args.half], &sin, &cos);
  args.cos[at] = args.magnitude * static_cast<float>(cos);
  args.sin[at] = args.magnitude * static_cast<float>(sin);
}

// A head lies in a group of lanes. A lane holds kPairs pairs of four columns; the two of a pair are rotated into each
// other, and beyond the rotated part of a head they are neighbours that stay what they are.
template <int kPairs>
struct Head {
  Four low[kPairs], high[kPairs];
};

struct PairPlace {
  int low, high;  // columns
  bool present, rotated;
};
__device__ __forceinline__ PairPlace place_of(int pair, int head_dim, int rot) {
  const int rotated_pairs = rot / 8;
  const bool rotated = pair < rotated_pairs;
  const int low = rotated ? 4 * pair : rot + 8 * (pair - rotated_pairs);
  return {low, low + (rotated ? rot / 2 : 4), 8 * pair < head_dim, rotated};
}

template <typename T>
__device__ __forceinline__ T* row_of(const HeadsArgs& args, uint64_t plane, const RowFormat& format, int32_t dst) {
  std::byte* page = args.pools[format.pool] + plane + static_cast<uint64_t>(dst / kPageRows) * format.page_bytes;
  return reinterpret_cast<T*>(page) + static_cast<int64_t>(dst % kPageRows) * args.head_dim;
}

template <int kPairs, typename T>
__device__ __forceinline__ void store_head(T* out, const HeadsArgs& args, int lane, int lanes,
                                           const Head<kPairs>& head) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const PairPlace place = place_of(p * lanes + lane, args.head_dim, args.rot);
    if (!place.present) continue;
    store_four(out + place.low, head.low[p]);
    store_four(out + place.high, head.high[p]);
  }
}

// Heads of a row in the order of the step: queries, keys, values.
template <int kPairs, typename T>
__device__ __forceinline__ void load_head(const HeadsArgs& args, int64_t t, int head, int lane, int lanes,
                                          Head<kPairs>* out) {
  const T* x;
  if (head < args.n_heads) {
    x = static_cast<const T*>(args.q) + t * args.q_pitch + head * args.head_dim;
  } else if (head < args.n_heads + args.n_kv_heads) {
    x = static_cast<const T*>(args.k) + t * args.k_pitch + (head - args.n_heads) * args.head_dim;
  } else {
    x = static_cast<const T*>(args.v) + t * args.v_pitch + (head - args.n_heads - args.n_kv_heads) * args.head_dim;
  }
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const PairPlace place = place_of(p * lanes + lane, args.head_dim, args.rot);
    out->low[p] = place.present ? load_four(x + place.low) : Four{};
    out->high[p] = place.present ? load_four(x + place.high) : Four{};
  }
}

template <int kPairs>
__device__ __forceinline__ float sum_of_squares(const Head<kPairs>& head, int lanes) {
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      squares = fmaf(head.low[p].v[j], head.low[p].v[j], squares);
      squares = fmaf(head.high[p].v[j], head.high[p].v[j], squares);
    }
  }
  return sum_lanes(squares, lanes);
}

template <int kPairs>
__device__ __forceinline__ void apply_norm(const HeadsArgs& args, const float* weight, float squares, int lane,
                                           int lanes, Head<kPairs>* head) {
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(args.head_dim) + args.eps);
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const PairPlace place = place_of(p * lanes + lane, args.head_dim, args.rot);
    if (!place.present) continue;
    const Four low = load_four(weight + place.low), high = load_four(weight + place.high);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      head->low[p].v[j] = head->low[p].v[j] * inverse * low.v[j];
      head->high[p].v[j] = head->high[p].v[j] * inverse * high.v[j];
    }
  }
}

template <int kPairs>
struct Angles {
  Four cos[kPairs], sin[kPairs];
};

template <int kPairs>
__device__ __forceinline__ void rotate(const Angles<kPairs>& angles, Head<kPairs>* head) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float a = head->low[p].v[j], b = head->high[p].v[j];
      head->low[p].v[j] = fmaf(a, angles.cos[p].v[j], -(b * angles.sin[p].v[j]));
      head->high[p].v[j] = fmaf(b, angles.cos[p].v[j], a * angles.sin[p].v[j]);
    }
  }
}

// A group of blockDim.x lanes takes kHeads heads of one row, whose angles it reads once.
template <int kHeads, int kPairs, typename T, typename Q>
__global__ void __launch_bounds__(kBlock) heads_kernel(HeadsArgs args) {
  wait_for_inputs();
  start_dependents();
  const int lane = threadIdx.x, lanes = blockDim.x;
  const int all_heads = args.n_heads + (args.dst ? 2 * args.n_kv_heads : 0);
  const unsigned groups_per_row = (all_heads + kHeads - 1) / kHeads, group = blockIdx.x * blockDim.y + threadIdx.y;
  // Lanes beyond the last row go on, for the shuffles, with the last row's heads, and store nothing.
  const bool present = group / groups_per_row < args.rows;
  const int64_t t = present ? group / groups_per_row : args.rows - 1;
  const int first = static_cast<int>(group % groups_per_row) * kHeads;

  Head<kPairs> head[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    load_head<kPairs, T>(args, t, min(first + h, all_heads - 1), lane, lanes, &head[h]);
  }
  Angles<kPairs> angles;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const PairPlace place = place_of(p * lanes + lane, args.head_dim, args.rot);
    angles.cos[p] = Four{{1.0f, 1.0f, 1.0f, 1.0f}};
    angles.sin[p] = Four{};
    if (!place.rotated) continue;
    angles.cos[p] = load_four(args.cos + t * (args.rot / 2) + place.low);
    angles.sin[p] = load_four(args.sin + t * (args.rot / 2) + place.low);
  }
  const int32_t dst = args.dst ? args.dst[t] : -1;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int at = first + h;
    const bool query = at < args.n_heads, value = at >= args.n_heads + args.n_kv_heads;
    const float squares = args.q_norm || args.k_norm ? sum_of_squares(head[h], lanes) : 0.0f;
    if (!value) {
      const float* weight = query ? args.q_norm : args.k_norm;
      if (weight) apply_norm(args, weight, squares, lane, lanes, &head[h]);
      if (args.rot > 0) rotate(angles, &head[h]);
    }
    if (!present || at >= all_heads) continue;
    if (query) {
      Q* out = static_cast<Q*>(args.q_out) + (t * args.n_heads + at) * args.head_dim;
      store_head(out, args, lane, lanes, head[h]);
    } else if (dst >= 0) {
      const RowFormat& format = args.formats[(at - args.n_heads) % args.n_kv_heads];
      const uint64_t plane = value ? format.v : format.k;
      if ((value ? format.v_codec : format.k_codec) == Codec::F16) {
        store_head(row_of<__half>(args, plane, format, dst), args, lane, lanes, head[h]);
      } else {
        store_head(row_of<__nv_bfloat16>(args, plane, format, dst), args, lane, lanes, head[h]);
      }
    }
  }
}

template <int kHeads, int kPairs, typename T>
Status launch_heads(const HeadsArgs& args, Stream stream, bool pdl) {
  const int pairs = args.head_dim / 8;
  const int lanes = std::clamp(static_cast<int>(std::bit_ceil(static_cast<unsigned>(pairs))), 1, 32);
  const int all_heads = args.n_heads + (args.dst ? 2 * args.n_kv_heads : 0);
  const int64_t groups = args.rows * ceil_div(all_heads, kHeads);
  PARE_CHECK(groups <= INT32_MAX / 2);
  // A few rows are spread over many small blocks.
  const int threads = groups * lanes >= int64_t{kBlock} * 512 ? kBlock : 64;
  const dim3 block(lanes, threads / lanes), grid(static_cast<unsigned>(ceil_div<int64_t>(groups, block.y)));
  return args.q_type == DType::BF16
             ? launch(heads_kernel<kHeads, kPairs, T, __nv_bfloat16>, grid, block, 0, stream, pdl, args)
             : launch(heads_kernel<kHeads, kPairs, T, __half>, grid, block, 0, stream, pdl, args);
}

template <typename T>
Status dispatch_heads(const HeadsArgs& args, Stream stream, bool pdl) {
  // Below this many rows a lane with one head answers sooner than one with four.
  constexpr int64_t kFewRows = 128;
  if (args.head_dim > 512) return launch_heads<1, 4, T>(args, stream, pdl);
  if (args.head_dim > 256) return launch_heads<1, 2, T>(args, stream, pdl);
  return args.rows < kFewRows ? launch_heads<1, 1, T>(args, stream, pdl) : launch_heads<4, 1, T>(args, stream, pdl);
}

}  // namespace

Status rope_table(const RopeTableArgs& args, Stream stream, bool pdl) {
  if (args.rows == 0 || args.half == 0) return ok_status();
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(args.rows * args.half, kBlock)));
  return launch(rope_table_kernel, grid, dim3(kBlock), 0, stream, pdl, args);
}

Status heads(const HeadsArgs& args, Stream stream, bool pdl) {
  PARE_CHECK(args.head_dim % 16 == 0 && args.head_dim <= 1024);
  PARE_CHECK(args.rot % 8 == 0 && args.rot <= args.head_dim);
  PARE_CHECK(args.q_pitch % 8 == 0 && args.k_pitch % 8 == 0 && args.v_pitch % 8 == 0);
  PARE_CHECK(args.type == DType::F32 || args.type == DType::BF16);
  PARE_CHECK(args.q_type == DType::BF16 || args.q_type == DType::F16);
  if (args.rows == 0) return ok_status();
  return args.type == DType::F32 ? dispatch_heads<float>(args, stream, pdl)
                                 : dispatch_heads<__nv_bfloat16>(args, stream, pdl);
}

}  // namespace pare::cuda
