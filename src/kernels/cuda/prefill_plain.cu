// Prefill attention for any card: one warp a query row, no tensor cores. Slow; its use is that the plan's meaning is
// executed everywhere, and a second opinion on the Hopper kernel.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_walk.cuh"

namespace pare::cuda::prefill {
namespace {

constexpr int kWarps = 8, kMaxChannels = 8;  // channels of a lane: D <= 256

template <typename T>
__device__ float2 widen(uint32_t pair) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&pair));
  if constexpr (std::is_same_v<T, __half>) return __half22float2(*reinterpret_cast<__half2*>(&pair));
}
template <typename T>
__device__ float widen(T x) {
  return static_cast<float>(x);
}

// One query row: its channels in shared memory, its state in registers, channel c = lane + 32 i in out[i].
template <typename T>
struct RowState {
  const Arguments& args;
  const KeyPages& pages;
  const T *pool, *query;
  Row row;
  int32_t sink;
  float max = -INFINITY, sum = 0.0f, out[kMaxChannels] = {};

  // Attends the lane's key; kNone: none. Warp-wide.
  __device__ void attend(int32_t key) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const bool seen = key < row.limit && (key < sink || key > row.lo);
    const int64_t at = seen ? pages.row(key) : 0;
    float s = -INFINITY;
    if (seen) {
      const auto* k = reinterpret_cast<const uint4*>(pool + (pages.k_row + at) * args.head_dim);
      s = 0.0f;
      for (int c = 0; c < args.head_dim / 8; ++c) {
        const uint4 eight = k[c];
        const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 x = widen<T>(pairs[i]);
          s = fmaf(widen(query[8 * c + 2 * i]), x.x, s);
          s = fmaf(widen(query[8 * c + 2 * i + 1]), x.y, s);
        }
      }
      s *= args.scale_log2;
      if (args.cap_log2 != 0.0f) s = args.cap_log2 * (1.0f - 2.0f / (exp2f(fminf(s, 64.0f)) + 1.0f));
    }
    float m = fmaxf(max, s);
    for (int step = 16; step > 0; step /= 2) m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, step));
    if (m == -INFINITY) return;
    const float p = exp2f(s - m), scale = exp2f(max - m);
    max = m;
    sum = fmaf(sum, scale, p);
    const float weight = widen(static_cast<T>(p));
#pragma unroll
    for (int i = 0; i < kMaxChannels; ++i) out[i] *= scale;
    for (uint32_t lanes = __ballot_sync(kAllLanes, seen); lanes != 0; lanes &= lanes - 1) {
      const int from = __ffs(static_cast<int>(lanes)) - 1;
      const T* v = pool + (pages.v_row + __shfl_sync(kAllLanes, at, from)) * args.head_dim;
      const float w = __shfl_sync(kAllLanes, weight, from);
#pragma unroll
      for (int i = 0; i < kMaxChannels; ++i) {
        const int c = lane + 32 * i;
        if (c < args.head_dim) out[i] = fmaf(w, widen(v[c]), out[i]);
      }
    }
  }

  __device__ void store() {
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    const int64_t to = static_cast<int64_t>(row.t) * args.n_heads + row.head;
#pragma unroll
    for (int i = 0; i < kMaxChannels; ++i) {
      const int c = lane + 32 * i;
      if (c < args.head_dim) static_cast<T*>(args.out)[to * args.head_dim + c] = static_cast<T>(out[i] * inverse);
    }
    constexpr float kLn2 = 0.693147180559945309f;
    if (args.lse != nullptr && lane == 0) args.lse[to] = sum == 0.0f ? -INFINITY : (max + log2f(sum)) * kLn2;
  }
};

template <typename T>
__global__ void __launch_bounds__(kWarps * 32) prefill_plain(const __grid_constant__ Arguments args) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const ItemOrder order(args);
  const int64_t count = order.count();
  for (int64_t index = blockIdx.x; index < count; index += gridDim.x) {
    Item item;
    int32_t pack;
    order.locate(index, &item.tile, &item.kv_head, &pack);
    const QTile tile = args.plan.tiles[item.tile];
    const KeyPages pages(args, tile, item.kv_head);
    const int32_t end = min(args.group, (pack + 1) * args.pack);
    for (int32_t r = pack * args.pack; next_head_run(args, tile, r, end, &item); r = item.r_end) {
      const KeyList list = args.plan.lists[item.list];
      for (int32_t i = warp; i < tile.rows * (item.r_end - item.r_begin); i += kWarps) {
        const Row row = item_row(args, tile, item, list, i);
        if (row.t < 0) continue;
        const T* query =
            static_cast<const T*>(args.q) + (static_cast<int64_t>(row.t) * args.n_heads + row.head) * args.head_dim;
        RowState<T> state{args, pages, reinterpret_cast<const T*>(args.kv.pools[args.pool]), query, row, list.sink};
        GranuleWalk walk(args.plan, list, tile, row.limit);
        int32_t lo, hi;
        while (walk.next_run(&lo, &hi)) {
          for (int32_t j = lo * kGranuleKeys; j < hi * kGranuleKeys; j += 32) {
            state.attend(j + lane < hi * kGranuleKeys ? j + lane : kNone);
          }
        }
        for (int32_t c = 0; c < list.n_col; c += 32) {
          int32_t key = c + lane < list.n_col ? args.plan.cols[list.col0 + c + lane] : kNone;
          if (key >= row.limit || walk.visits(key / kGranuleKeys)) key = kNone;
          __syncwarp();
          state.attend(key);
        }
        state.store();
      }
    }
  }
}

}  // namespace

cudaError_t launch_plain(const Arguments& args, bool bf16, int blocks, cudaStream_t stream) {
  if (bf16) {
    prefill_plain<__nv_bfloat16><<<blocks, kWarps * 32, 0, stream>>>(args);
  } else {
    prefill_plain<__half><<<blocks, kWarps * 32, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace pare::cuda::prefill
