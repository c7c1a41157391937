// The kernel of small_linear.h. For the *.cu files that instantiate it.
//
// Each warp streams the weights of its own row tiles and its own part of K through its own ring in shared memory; the
// activations of the block's slice stay there for all of its row tiles. So no barrier stands in the main loop.
#pragma once

#include <cuda_bf16.h>

#include "base/check.h"
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/normed_rows.cuh"
#include "kernels/cuda/small_linear_args.h"

namespace pare::cuda::small {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void copy_async(uint32_t to, const std::byte* from, bool present) {
  // Zeros where there is nothing to copy: a zero scale or weight adds nothing.
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present ? 16 : 0));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&b)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address));
}
__device__ __forceinline__ void multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The two tiles of a pair. Beyond a weight's last tile the last is read again and its product dropped.
struct TilePair {
  const std::byte* tile[2];
};
__device__ __forceinline__ int output_of(const Args& args, int pair) {
  int o = 0;
  while (o + 1 < args.n_outputs && pair >= args.outputs[o + 1].first_pair) ++o;
  return o;
}
__device__ __forceinline__ TilePair find_tiles(const Args& args, int pair) {
  if (args.glu) {
    const int64_t offset = pair * args.tile_bytes;
    return {{args.outputs[0].weight + offset, args.outputs[1].weight + offset}};
  }
  const Args::Output& out = args.outputs[output_of(args, pair)];
  const int tile = 2 * (pair - out.first_pair), last = (out.n - 1) / kTileRows;
  return {{out.weight + tile * args.tile_bytes, out.weight + min(tile + 1, last) * args.tile_bytes}};
}

// A warp's part of K and the pairs that it walks, in order.
struct Walk {
  int first_pair, pair_step, record_begin, record_end;
};

// Keeps the ring ahead of the multiplication: the same walk, stages earlier.
template <DType kType>
class Fetcher {
 public:
  __device__ Fetcher(const Args& args, const Walk& walk, std::byte* ring, int lane)
      : args_(args), walk_(walk), ring_(shared_address(ring)), lane_(lane), pair_(walk.first_pair) {
    begin_pair();
  }

  // Fetches the next stage into `slot`; an empty group of copies after the last.
  __device__ __forceinline__ void fetch(int slot) {
    constexpr DeviceFormat f = *device_format(kType);
    constexpr int kRecord = record_bytes(f), kTileStage = stage_records(f) * kRecord, kPieces = 2 * kTileStage / 16;
    if (pair_ < args_.pairs) {
      const int valid = min(stage_records(f), walk_.record_end - record_) * kRecord;
      const int64_t offset = int64_t{record_} * kRecord;
      const uint32_t to = ring_ + slot * (2 * kTileStage);
#pragma unroll
      for (int first = 0; first < kPieces; first += 32) {
        const int at = (first + lane_) * 16;
        if (first + 32 <= kPieces || at < 2 * kTileStage) {
          const int half = at >= kTileStage ? 1 : 0, within = at - half * kTileStage;
          const bool present = within < valid;
          copy_async(to + at, (half == 0 ? tiles_.tile[0] : tiles_.tile[1]) + offset + (present ? within : 0), present);
        }
      }
      record_ += stage_records(f);
      if (record_ >= walk_.record_end) {
        pair_ += walk_.pair_step;
        begin_pair();
      }
    }
    commit_copies();
  }

 private:
  __device__ __forceinline__ void begin_pair() {
    record_ = walk_.record_begin;
    if (pair_ < args_.pairs) tiles_ = find_tiles(args_, pair_);
  }

  const Args& args_;
  const Walk walk_;
  const uint32_t ring_;
  const int lane_;
  int pair_, record_ = 0;
  TilePair tiles_{};
};

// acc += weights of one stage times activations. `x` is where this lane's row of load_matrices begins for the stage's
// first column, `sums` where its two tokens' sums of the first group lie.
template <DType kType, int kTokenTiles>
__device__ __forceinline__ void multiply_stage(const std::byte* stage, uint32_t x, uint32_t x_tile_bytes,
                                               const float* sums, int lane, float (&acc)[2][kTokenTiles][4]) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kRecord = record_bytes(f), kTileStage = stage_records(f) * kRecord;
  constexpr int kSums = kGroupColumns / sum_columns(f);
#pragma unroll
  for (int r = 0; r < stage_records(f); ++r) {
    const std::byte* record = stage + r * kRecord;
    const RecordBase base[2] = {load_record_base<kType>(record, lane),
                                load_record_base<kType>(record + kTileStage, lane)};
#pragma unroll(f.groups > 2 ? 2 : 1)
    for (int g = 0; g < f.groups; ++g) {
      uint32_t b[kTokenTiles][4];
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        load_matrices(x + n * x_tile_bytes + (r * f.groups + g) * (kGroupColumns * 2), b[n]);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const std::byte* half = record + m * kTileStage;
        const Fragment<kType> w = load_fragment<kType>(half, g, lane);
        if constexpr (f.scales == DeviceScales::kNone) {
#pragma unroll
          for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
            for (int i = 0; i < 2 * kTerms<kType>; ++i) {
              const int step = i / kTerms<kType>;
              multiply(w.a[step][i % kTerms<kType>], b[n][2 * step], b[n][2 * step + 1], acc[m][n]);
            }
          }
        } else {
          const GroupScales s = load_group_scales<kType>(half, base[m], g, lane);
#pragma unroll
          for (int n = 0; n < kTokenTiles; ++n) {
            float dot[2][4] = {};
            multiply(w.a[0][0], b[n][0], b[n][1], dot[0]);
            multiply(w.a[1][0], b[n][2], b[n][3], dot[has_halves(f.scales) ? 1 : 0]);
#pragma unroll
            for (int h = 0; h < (has_halves(f.scales) ? 2 : 1); ++h) {
#pragma unroll
              for (int i = 0; i < 4; ++i) acc[m][n][i] = fmaf(s.d[h][i / 2], dot[h][i], acc[m][n][i]);
              if constexpr (has_minimum(f.scales)) {
                const int group = (r * f.groups + g) * kSums + h;
                const float2 sum = *reinterpret_cast<const float2*>(sums + group * (8 * kTokenTiles) + 8 * n);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                  acc[m][n][i] = fmaf(s.m[h][i / 2], i % 2 == 0 ? sum.x : sum.y, acc[m][n][i]);
                }
              }
            }
          }
        }
      }
    }
  }
}

// Columns [first, first + args.columns) of the input as bf16, zero beyond the rows and beyond K.
template <int kTokenTiles>
__device__ void stage_rows(const Args& args, int first, __nv_bfloat16* rows) {
  const int pitch = args.columns + kPadColumns, k = static_cast<int>(args.x.k);
  for (int t = threadIdx.x / 32; t < 8 * kTokenTiles; t += kWarps) {
    const uint16_t* from = args.x.x + t * args.x.ld;
#pragma unroll 8
    for (int c = threadIdx.x % 32 * 8; c < args.columns; c += 32 * 8) {
      const int left = t < args.x.t ? k - (first + c) : 0;
      uint4 v{};
      if (left > 0) v = *reinterpret_cast<const uint4*>(from + first + c);
      if (left > 0 && left < 8) {
        uint32_t* words = &v.x;
        for (int i = 0; i < 4; ++i) words[i] &= (2 * i < left ? 0xffffu : 0u) | (2 * i + 1 < left ? 0xffff0000u : 0u);
      }
      *reinterpret_cast<uint4*>(rows + t * pitch + c) = v;
    }
  }
}

// sums[group][token] of the staged rows, groups of kColumns.
template <int kTokenTiles, int kColumns>
__device__ void sum_groups(const Args& args, const __nv_bfloat16* rows, float* sums) {
  constexpr int kTokens = 8 * kTokenTiles;
  const int pitch = args.columns + kPadColumns, items = args.columns / kColumns * kTokens;
  for (int i = threadIdx.x; i < items; i += kThreads) {
    const auto* at = reinterpret_cast<const uint4*>(rows + i % kTokens * pitch + i / kTokens * kColumns);
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < kColumns / 8; ++part) {
      const uint4 v = at[part];
      const float2 a = unpack_bf16x2(v.x), b = unpack_bf16x2(v.y), c = unpack_bf16x2(v.z), d = unpack_bf16x2(v.w);
      sum += ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
    }
    sums[i] = sum;
  }
}

// The k_warps warps that share a pair.
struct WarpGroup {
  int k_warps, barrier;
  __device__ __forceinline__ void sync() const {
    if (k_warps == 1) {
      __syncwarp();
    } else {
      asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(32 * k_warps) : "memory");
    }
  }
};

// Adds the parts of a pair in ascending order and writes what the last of them completes. A value is (tile of the pair,
// token tile, accumulator register) of a lane.
template <int kTokenTiles>
__device__ __forceinline__ void finish_pair(const Args& args, int pair, int slice, const WarpGroup& group, int k_warp,
                                            int lane, const float (&acc)[2][kTokenTiles][4], float* reduce,
                                            uint32_t* last_flag) {
  constexpr int kValues = 8 * kTokenTiles;
  float* own = reduce + k_warp * kValues * 32 + lane;
#pragma unroll
  for (int v = 0; v < kValues; ++v) own[v * 32] = acc[v / (4 * kTokenTiles)][v / 4 % kTokenTiles][v % 4];
  group.sync();

  const auto block_sum = [&](int v) {
    float sum = reduce[v * 32 + lane];
    for (int w = 1; w < group.k_warps; ++w) sum += reduce[(w * kValues + v) * 32 + lane];
    return sum;
  };
  const int slices = args.plan.slices;
  float* parts = args.partials + int64_t{pair} * slices * kValues * 32 + lane;
  if (slices > 1) {
    for (int v = k_warp; v < kValues; v += group.k_warps) parts[(slice * kValues + v) * 32] = block_sum(v);
    __threadfence();
    group.sync();
    if (k_warp == 0 && lane == 0) {
      const bool last = atomicAdd(args.arrived + pair, 1) == static_cast<uint32_t>(slices - 1);
      if (last) args.arrived[pair] = 0;
      *last_flag = last;
    }
    group.sync();
    const bool last = *last_flag;
    if (!last) return;
    __threadfence();
  }
  const auto total = [&](int v) {
    if (slices == 1) return block_sum(v);
    float sum = __ldcg(parts + v * 32);
    for (int s = 1; s < slices; ++s) sum += __ldcg(parts + (s * kValues + v) * 32);
    return sum;
  };

  const int g = lane / 4, c = lane % 4;
  if (args.glu) {
    const Args::Output& out = args.outputs[0];
    for (int v = k_warp; v < kValues / 2; v += group.k_warps) {
      const int row = pair * kTileRows + g + v % 4 / 2 * 8, token = v / 4 * 8 + 2 * c + v % 2;
      const float gate = total(v), up = total(v + kValues / 2);
      if (row >= out.n || token >= args.x.t) continue;
      static_cast<__nv_bfloat16*>(out.y)[token * out.ld_y + row] =
          __float2bfloat16_rn(activate(args.activation, gate) * up);
    }
  } else {
    const Args::Output& out = args.outputs[output_of(args, pair)];
    for (int v = k_warp; v < kValues; v += group.k_warps) {
      const int tile = 2 * (pair - out.first_pair) + v / (kValues / 2);
      const int row = tile * kTileRows + g + v % 4 / 2 * 8, token = v / 4 % kTokenTiles * 8 + 2 * c + v % 2;
      if (row >= out.n || token >= args.x.t) continue;
      float y = total(v);
      if (out.bias != nullptr) y += out.bias[row];
      const int64_t at = token * out.ld_y + row;
      if (out.bf16) {
        static_cast<__nv_bfloat16*>(out.y)[at] = __float2bfloat16_rn(y);
      } else {
        float* to = static_cast<float*>(out.y) + at;
        *to = out.accumulate ? *to + y : y;
      }
    }
  }
}

template <DType kType, int kTokenTiles>
__global__ void __launch_bounds__(kThreads, kTokenTiles <= 2 ? 2 : 1)
    small_linear_kernel(const __grid_constant__ Args args) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kStageColumns = stage_records(f) * record_columns(f), kStages = stage_count(f);
  constexpr int kTokens = 8 * kTokenTiles;
  extern __shared__ uint4 shared[];
  __shared__ uint32_t last_flags[kWarps];
  start_dependents();

  const int pitch = args.columns + kPadColumns;
  auto* rows = reinterpret_cast<__nv_bfloat16*>(shared);
  auto* sums = reinterpret_cast<float*>(rows + kTokens * pitch);
  auto* ring = reinterpret_cast<std::byte*>(sums) +
               (has_minimum(f.scales) ? args.columns / sum_columns(f) * kTokens * sizeof(float) : 0);
  auto* reduce = reinterpret_cast<float*>(ring + kWarps * kStages * stage_bytes(f));

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, k_warps = args.plan.k_warps;
  const int row_warps = kWarps / k_warps, row_warp = warp / k_warps, k_warp = warp % k_warps;
  const int slice = blockIdx.x / args.plan.slice_blocks, block = blockIdx.x % args.plan.slice_blocks;
  const int parts = args.plan.slices * k_warps, part = slice * k_warps + k_warp;
  const auto part_begin = [&](int p) { return static_cast<int>(int64_t{p} * args.records / parts); };
  const int slice_begin = part_begin(slice * k_warps);
  const Walk walk = {block * row_warps + row_warp, args.plan.slice_blocks * row_warps, part_begin(part),
                     part_begin(part + 1)};
  ring += warp * kStages * stage_bytes(f);

  // Weights are nobody's output: they come while the launch before is still running.
  Fetcher<kType> fetcher(args, walk, ring, lane);
#pragma unroll
  for (int s = 0; s < kStages; ++s) fetcher.fetch(s);

  wait_for_inputs();
  if (args.x.x != nullptr) {
    stage_rows<kTokenTiles>(args, slice_begin * record_columns(f), rows);
  } else {
    norm_rows<kTokenTiles>(args, slice_begin * record_columns(f), reduce, rows);
  }
  __syncthreads();
  if constexpr (has_minimum(f.scales)) {
    sum_groups<kTokenTiles, sum_columns(f)>(args, rows, sums);
    __syncthreads();
  }

  const WarpGroup group = {k_warps, 1 + row_warp};
  float* group_reduce = reduce + row_warp * k_warps * (8 * kTokenTiles * 32);
  const int first_column = (walk.record_begin - slice_begin) * record_columns(f);
  // load_matrices: lanes 8j to 8j + 7 name the rows of columns 8j to 8j + 7.
  const uint32_t x = shared_address(rows + lane % 8 * pitch + lane / 8 * 8 + first_column);
  const float* lane_sums = sums + first_column / sum_columns(f) * kTokens + lane % 4 * 2;
  int slot = 0;
  for (int pair = walk.first_pair; pair < args.pairs; pair += walk.pair_step) {
    float acc[2][kTokenTiles][4] = {};
    int column = 0;
    for (int record = walk.record_begin; record < walk.record_end; record += stage_records(f)) {
      wait_copies<kStages - 1>();
      __syncwarp();
      multiply_stage<kType, kTokenTiles>(ring + slot * stage_bytes(f), x + column * 2, 16 * pitch,
                                         lane_sums + column / sum_columns(f) * kTokens, lane, acc);
      __syncwarp();
      fetcher.fetch(slot);
      slot = slot + 1 == kStages ? 0 : slot + 1;
      column += kStageColumns;
    }
    finish_pair<kTokenTiles>(args, pair, slice, group, k_warp, lane, acc, group_reduce, last_flags + row_warp);
    group.sync();  // the next pair writes the same places
  }
}

template <DType kType, int kTokenTiles>
Status launch_tiles(const Args& args, Stream stream, bool pdl) {
  const int64_t bytes = shared_bytes(*device_format(kType), args.records, args.plan, kTokenTiles);
  const auto kernel = small_linear_kernel<kType, kTokenTiles>;
  PARE_RETURN_IF_ERROR(allow_shared_memory(kernel, static_cast<size_t>(bytes)));
  const dim3 grid(static_cast<unsigned>(args.plan.slices * args.plan.slice_blocks));
  return launch(kernel, grid, dim3(kThreads), static_cast<size_t>(bytes), stream, pdl, args);
}

template <DType kType>
Status launch_small(const Args& args, Stream stream, bool pdl) {
  if (args.x.t <= 8) return launch_tiles<kType, 1>(args, stream, pdl);
  if (args.x.t <= 16) return launch_tiles<kType, 2>(args, stream, pdl);
  return launch_tiles<kType, 4>(args, stream, pdl);
}

}  // namespace pare::cuda::small
