// Queries, keys and values of a step's rows on their way to attention (row_ops.h: HeadsArgs), by groups of lanes. For
// *.cu files.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/row_ops.h"

namespace pare::cuda {

// A head lies in a group of lanes. A lane holds kPairs pairs of eight columns; the two of a pair are rotated into each
// other, and beyond the rotated part of a head they are neighbours that stay what they are.
struct PairPlace {
  int low, high;  // columns
  bool present, rotated;
};
__device__ __forceinline__ PairPlace place_of(int pair, int head_dim, int rot) {
  const int rotated_pairs = rot / 16;
  const bool rotated = pair < rotated_pairs;
  const int low = rotated ? 8 * pair : rot + 16 * (pair - rotated_pairs);
  return {low, low + (rotated ? rot / 2 : 8), 16 * pair < head_dim, rotated};
}

struct Eight {
  float v[8];
};

// Eight columns as they lie in memory: several heads are loaded before the first is looked at, and 16-bit values take
// half the registers until then.
template <typename T>
struct RawEight {
  static constexpr int kWords = sizeof(T) / 2;
  uint4 words[kWords];
};
template <typename T>
__device__ __forceinline__ RawEight<T> load_raw(const T* x) {
  RawEight<T> raw;
#pragma unroll
  for (int i = 0; i < RawEight<T>::kWords; ++i) raw.words[i] = reinterpret_cast<const uint4*>(x)[i];
  return raw;
}
__device__ __forceinline__ Eight unpack(const RawEight<float>& raw) {
  Eight e;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    e.v[4 * i] = __uint_as_float(raw.words[i].x);
    e.v[4 * i + 1] = __uint_as_float(raw.words[i].y);
    e.v[4 * i + 2] = __uint_as_float(raw.words[i].z);
    e.v[4 * i + 3] = __uint_as_float(raw.words[i].w);
  }
  return e;
}
__device__ __forceinline__ Eight unpack(const RawEight<__nv_bfloat16>& raw) {
  const unsigned words[] = {raw.words[0].x, raw.words[0].y, raw.words[0].z, raw.words[0].w};
  Eight e;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    e.v[2 * i] = __uint_as_float(words[i] << 16);
    e.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return e;
}
__device__ __forceinline__ Eight load_eight(const float* x) { return unpack(load_raw(x)); }

__device__ __forceinline__ unsigned pack_two(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const unsigned&>(two);
}
__device__ __forceinline__ unsigned pack_two(float low, float high, __half) {
  const __half2 two = __floats2half2_rn(low, high);
  return reinterpret_cast<const unsigned&>(two);
}
template <typename T>
__device__ __forceinline__ void store_eight(T* out, const Eight& e) {
  *reinterpret_cast<uint4*>(out) = make_uint4(pack_two(e.v[0], e.v[1], T{}), pack_two(e.v[2], e.v[3], T{}),
                                              pack_two(e.v[4], e.v[5], T{}), pack_two(e.v[6], e.v[7], T{}));
}

template <int kPairs>
struct Head {
  Eight low[kPairs], high[kPairs];
};
template <int kPairs, typename T>
struct RawHead {
  RawEight<T> low[kPairs], high[kPairs];
};

// Heads of a row in the order of the step: queries, keys, values.
template <int kPairs, typename T>
__device__ __forceinline__ void load_head(const HeadsArgs& args, int64_t t, int head, int lane, int lanes,
                                          RawHead<kPairs, T>* out) {
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
    out->low[p] = place.present ? load_raw(x + place.low) : RawEight<T>{};
    out->high[p] = place.present ? load_raw(x + place.high) : RawEight<T>{};
  }
}

template <int kPairs, typename T>
__device__ __forceinline__ void store_head(T* out, const HeadsArgs& args, int lane, int lanes,
                                           const Head<kPairs>& head) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const PairPlace place = place_of(p * lanes + lane, args.head_dim, args.rot);
    if (!place.present) continue;
    store_eight(out + place.low, head.low[p]);
    store_eight(out + place.high, head.high[p]);
  }
}

template <typename T>
__device__ __forceinline__ T* row_of(const HeadsArgs& args, uint64_t plane, const RowFormat& format, int32_t dst) {
  std::byte* page = args.pools[format.pool] + plane + static_cast<uint64_t>(dst / kPageRows) * format.page_bytes;
  return reinterpret_cast<T*>(page) + static_cast<int64_t>(dst % kPageRows) * args.head_dim;
}

// Every lane of a warp calls it, whatever its head is.
template <int kPairs>
__device__ __forceinline__ float sum_of_squares(const Head<kPairs>& head, int lanes) {
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      squares = fmaf(head.low[p].v[j], head.low[p].v[j], squares);
      squares = fmaf(head.high[p].v[j], head.high[p].v[j], squares);
    }
  }
  return sum_lanes(squares, lanes);
}

template <int kPairs>
__device__ __forceinline__ void apply_norm(const HeadsArgs& args, const float* weight, float squares, int lane,
                                           int lanes, Head<kPairs>* head) {
  const float inverse = rsqrtf(squares / static_cast<float>(args.head_dim) + args.eps);
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const PairPlace place = place_of(p * lanes + lane, args.head_dim, args.rot);
    if (!place.present) continue;
    const Eight low = load_eight(weight + place.low), high = load_eight(weight + place.high);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      head->low[p].v[j] *= inverse * low.v[j];
      head->high[p].v[j] *= inverse * high.v[j];
    }
  }
}

template <int kPairs>
struct Angles {
  Eight cos[kPairs], sin[kPairs];
};

template <int kPairs>
__device__ __forceinline__ void rotate(const Angles<kPairs>& angles, Head<kPairs>* head) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float a = head->low[p].v[j], b = head->high[p].v[j];
      head->low[p].v[j] = fmaf(a, angles.cos[p].v[j], -(b * angles.sin[p].v[j]));
      head->high[p].v[j] = fmaf(b, angles.cos[p].v[j], a * angles.sin[p].v[j]);
    }
  }
}

// Groups of lanes that a step's heads keep busy.
__host__ __device__ inline int heads_of_row(const HeadsArgs& args) {
  return args.n_heads + (args.dst ? 2 * args.n_kv_heads : 0);
}
// Lanes of a group: a power of two up to a warp.
__host__ __device__ inline int lanes_of_head(int head_dim) {
  int lanes = 1;
  while (lanes < 32 && lanes * 16 < head_dim) lanes *= 2;
  return lanes;
}

// Of row t; 1 and 0 where nothing is rotated. Without `real` nothing is read.
template <int kPairs>
__device__ __forceinline__ void load_angles(const HeadsArgs& args, int64_t t, int lane, int lanes, bool real,
                                            Angles<kPairs>* angles) {
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const PairPlace place = place_of(p * lanes + lane, args.head_dim, args.rot);
    angles->cos[p] = Eight{{1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f}};
    angles->sin[p] = Eight{};
    if (!place.rotated || !real) continue;
    angles->cos[p] = load_eight(args.cos + t * (args.rot / 2) + place.low);
    angles->sin[p] = load_eight(args.sin + t * (args.rot / 2) + place.low);
  }
}

// Head number `head` of a row (load_head) as it was read, to what attention reads. Whole warps call it.
template <int kPairs, typename T>
__device__ __forceinline__ Head<kPairs> transform_head(const HeadsArgs& args, int head, const RawHead<kPairs, T>& raw,
                                                       const Angles<kPairs>& angles, int lane, int lanes) {
  Head<kPairs> out;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    out.low[p] = unpack(raw.low[p]);
    out.high[p] = unpack(raw.high[p]);
  }
  const float squares = args.q_norm || args.k_norm ? sum_of_squares(out, lanes) : 0.0f;
  if (head < args.n_heads + args.n_kv_heads) {
    const float* weight = head < args.n_heads ? args.q_norm : args.k_norm;
    if (weight) apply_norm(args, weight, squares, lane, lanes, &out);
    rotate(angles, &out);
  }
  return out;
}

// Where a step's row goes, by its place in the store (HeadsArgs::dst).
template <int kPairs>
__device__ __forceinline__ void store_row(const HeadsArgs& args, int head, int32_t dst, int lane, int lanes,
                                          const Head<kPairs>& row) {
  const bool value = head >= args.n_heads + args.n_kv_heads;
  const RowFormat& format = args.formats[(head - args.n_heads) % args.n_kv_heads];
  const uint64_t plane = value ? format.v : format.k;
  if ((value ? format.v_codec : format.k_codec) == Codec::F16) {
    store_head(row_of<__half>(args, plane, format, dst), args, lane, lanes, row);
  } else {
    store_head(row_of<__nv_bfloat16>(args, plane, format, dst), args, lane, lanes, row);
  }
}

// Group `group` of `lanes` lanes takes kHeads heads of one row, whose angles it reads once. Whole warps call it.
template <int kHeads, int kPairs, typename T, typename Q>
__device__ __forceinline__ void transform_heads(const HeadsArgs& args, unsigned group, int lane, int lanes) {
  const int all_heads = heads_of_row(args);
  const unsigned groups_per_row = (all_heads + kHeads - 1) / kHeads;
  // Lanes beyond the last row go on, for the shuffles, with the last row's heads, and store nothing.
  const bool present = group / groups_per_row < args.rows;
  const int64_t t = present ? group / groups_per_row : args.rows - 1;
  const int first = static_cast<int>(group % groups_per_row) * kHeads;

  RawHead<kPairs, T> raw[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) load_head(args, t, min(first + h, all_heads - 1), lane, lanes, &raw[h]);
  Angles<kPairs> angles;
  load_angles(args, t, lane, lanes, true, &angles);
  const int32_t dst = args.dst ? args.dst[t] : -1;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int at = first + h;
    const Head<kPairs> head = transform_head(args, at, raw[h], angles, lane, lanes);
    if (!present || at >= all_heads) continue;
    if (at < args.n_heads) {
      Q* out = static_cast<Q*>(args.q_out) + (t * args.n_heads + at) * args.head_dim;
      store_head(out, args, lane, lanes, head);
    } else if (dst >= 0) {
      store_row(args, at, dst, lane, lanes, head);
    }
  }
}

}  // namespace pare::cuda
