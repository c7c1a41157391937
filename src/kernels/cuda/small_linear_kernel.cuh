// The kernel of small_linear.h. For the *.cu files that instantiate it.
//
// Each warp streams the weights of its own row tiles and its own part of K through its own ring in shared memory; the
// activations of the block's slice stay there for all of its row tiles. So no barrier stands in the main loop.
#pragma once

#include <cuda_bf16.h>

#include "base/check.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_output.cuh"
#include "kernels/cuda/normed_rows.cuh"
#include "kernels/cuda/small_linear_args.h"

namespace pare::cuda::small {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void copy_async(uint32_t to, const std::byte* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from));
}
// The first `bytes` of 16, zeros behind them.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
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
__device__ __forceinline__ TilePair find_tiles(const Args& args, int pair) {
  if (args.glu) {
    const int64_t offset = pair * args.tile_bytes;
    return {{args.outputs[0].weight + offset, args.outputs[1].weight + offset}};
  }
  const OutputRows& out = args.outputs[output_of(args, pair)];
  const int tile = 2 * (pair - out.first), last = (out.n - 1) / kTileRows;
  return {{out.weight + tile * args.tile_bytes, out.weight + min(tile + 1, last) * args.tile_bytes}};
}

// A warp's part of K and the pairs that it walks, in order.
struct Walk {
  int first_pair, pair_step, unit_begin, unit_end;
};

// Keeps the ring ahead of the multiplication: the same walk, stages earlier.
template <DType kType>
class Fetcher {
 public:
  __device__ Fetcher(const Args& args, const Walk& walk, uint32_t ring, int lane)
      : args_(args), walk_(walk), ring_(ring + 16 * lane), lane_bytes_(16 * lane), pair_(walk.first_pair) {
    begin_pair();
  }

  // Fetches the next stage to byte `stage` of the ring; an empty group of copies after the last.
  __device__ __forceinline__ void fetch(uint32_t stage) {
    if (left_ > 0) {
      if (kFormat.units > 1 && (unit_ == 0 || new_part_)) {
        constexpr int kHeader = header_bytes(kFormat);
        const int offset = header_offset(kFormat) - unit_ * kTileStage;
        copy_both<kHeader>(ring_ + kHeaders + header_ * (2 * kHeader), offset, offset + kTileStage - kHeader);
        header_ = header_ + 1 == args_.header_places ? 0 : header_ + 1;
      }
      copy_both<kTileStage>(ring_ + stage, 0, 0);
      --left_;
      new_part_ = false;
      // Over the header to the next record.
      int step = kTileStage;
      if (kFormat.units > 1 && ++unit_ == kFormat.units) {
        unit_ = 0;
        step += header_bytes(kFormat);
      }
      first_ += step;
      second_ += step;
      if (left_ == 0) {
        pair_ += walk_.pair_step;
        begin_pair();
      }
    }
    commit_copies();
  }

 private:
  static constexpr DeviceFormat kFormat = *device_format(kType);
  static constexpr int kTileStage = stage_tile_bytes(kFormat);
  static constexpr int kHeaders = 2 * stage_count(kFormat) * kTileStage;

  // kBytes of the first tile, then of the second, 16 bytes a lane at a time.
  template <int kBytes>
  __device__ __forceinline__ void copy_both(uint32_t to, int first_offset, int second_offset) {
#pragma unroll
    for (int at = 0; at < 2 * kBytes; at += 512) {
      const bool in_second = at >= kBytes || (at + 512 > kBytes && at + lane_bytes_ >= kBytes);
      const std::byte* from = in_second ? second_ + second_offset : first_ + first_offset;
      if (at + 512 <= 2 * kBytes || at + lane_bytes_ < 2 * kBytes) copy_async(to + at, from + at);
    }
  }
  __device__ __forceinline__ void begin_pair() {
    left_ = 0;
    if (pair_ >= args_.pairs) return;
    left_ = walk_.unit_end - walk_.unit_begin;
    const TilePair pair = find_tiles(args_, pair_);
    unit_ = walk_.unit_begin % kFormat.units;
    new_part_ = true;
    const int64_t offset =
        int64_t{walk_.unit_begin / kFormat.units} * record_bytes(kFormat) + unit_ * kTileStage + lane_bytes_;
    first_ = pair.tile[0] + offset;
    second_ = pair.tile[1] + offset - kTileStage;
  }

  const Args& args_;
  const Walk walk_;
  const uint32_t ring_;  // where this lane's bytes go
  const int lane_bytes_;
  int pair_, header_ = 0;
  int left_;      // units of this pair's part
  int unit_ = 0;  // the next one's number in its record
  bool new_part_ = true;
  // This lane's next bytes of each tile, the second's less those that the first has in the stage.
  const std::byte *first_ = nullptr, *second_ = nullptr;
};

// acc += a unit of both tiles times activations. `unit` is its number in the record. `x` is where this lane's row of
// load_matrices begins for the unit's first column, `sums` where its two tokens' sums of the first group lie.
template <DType kType, int kTokenTiles>
__device__ __forceinline__ void multiply_unit(const std::byte* stage, const std::byte* header, int unit, uint32_t x,
                                              uint32_t x_tile_bytes, const float* sums, int lane,
                                              float (&acc)[2][kTokenTiles][4]) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kSums = kGroupColumns / sum_columns(f);  // of a group
  constexpr int kHeaderStep = f.units > 1 ? header_bytes(f) : stage_tile_bytes(f);
  const UnitQuants<kType> quants[2] = {load_unit<kType>(stage, lane),
                                       load_unit<kType>(stage + stage_tile_bytes(f), lane)};
  const UnitScales scales[2] = {load_unit_scales<kType>(header, unit, lane),
                                load_unit_scales<kType>(header + kHeaderStep, unit, lane)};
#pragma unroll
  for (int g = 0; g < unit_groups(f); ++g) {
    uint32_t b[kTokenTiles][4];
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) load_matrices(x + n * x_tile_bytes + g * (kGroupColumns * 2), b[n]);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      // Quants keep the 128 that brought them into bf16 where sums of x are at hand to take it off again.
      constexpr bool kRaised = has_minimum(f.scales);
      const auto w = make_fragment<kType, kRaised>(quants[m], g);
      const GroupScales s = group_scales<kType>(scales[m], g);
      float minimum[2][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) minimum[i / 2][i % 2] = fmaf(-128.0f, s.d[i / 2][i % 2], s.m[i / 2][i % 2]);
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        if constexpr (f.scales == DeviceScales::kNone) {
#pragma unroll
          for (int i = 0; i < 2 * kTerms<kType>; ++i) {
            const int step = i / kTerms<kType>;
            multiply(w.a[step][i % kTerms<kType>], b[n][2 * step], b[n][2 * step + 1], acc[m][n]);
          }
        } else {
          float dot[2][4] = {};
          multiply(w.a[0][0], b[n][0], b[n][1], dot[0]);
          multiply(w.a[1][0], b[n][2], b[n][3], dot[has_halves(f.scales) ? 1 : 0]);
#pragma unroll
          for (int h = 0; h < kSums; ++h) {
#pragma unroll
            for (int i = 0; i < 4; ++i) acc[m][n][i] = fmaf(s.d[h][i / 2], dot[h][i], acc[m][n][i]);
            if constexpr (has_minimum(f.scales)) {
              const float2 sum = *reinterpret_cast<const float2*>(sums + ((g * kSums + h) * kTokenTiles + n) * 8);
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                acc[m][n][i] = fmaf(minimum[h][i / 2], i % 2 == 0 ? sum.x : sum.y, acc[m][n][i]);
              }
            }
          }
        }
      }
    }
  }
}

// Columns [first, first + args.columns) of the input as bf16, zero beyond the rows and beyond K. Asynchronous, as one
// group of copies.
template <int kTokenTiles>
__device__ __forceinline__ void stage_rows(const Args& args, int first, uint32_t rows) {
  const int pitch = args.columns + kPadColumns, k = static_cast<int>(args.x.k), tokens = static_cast<int>(args.x.t);
  for (int t = threadIdx.x / 32; t < 8 * kTokenTiles; t += static_cast<int>(blockDim.x / 32)) {
    const uint16_t* from = args.x.x + (t < tokens ? t * args.x.ld : 0) + first;
#pragma unroll 4
    for (int c = threadIdx.x % 32 * 8; c < args.columns; c += 32 * 8) {
      const int left = t < tokens ? min(8, max(0, k - (first + c))) : 0;
      copy_async(rows + 2 * (t * pitch + c), from + (left > 0 ? c : 0), 2 * left);
    }
  }
  commit_copies();
}

// sums[group][token] of the staged rows, groups of kColumns.
template <int kTokenTiles, int kColumns>
__device__ void sum_groups(const Args& args, const __nv_bfloat16* rows, float* sums) {
  constexpr int kTokens = 8 * kTokenTiles;
  const int pitch = args.columns + kPadColumns, items = args.columns / kColumns * kTokens;
  for (int i = threadIdx.x; i < items; i += static_cast<int>(blockDim.x)) {
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

// Where results of a pair go.
struct Target {
  int o, first_row;
};
__device__ __forceinline__ Target target_of(const Args& args, int pair) {
  if (args.glu) return {0, pair * kTileRows};
  const int o = output_of(args, pair);
  return {o, 2 * (pair - args.outputs[o].first) * kTileRows};
}

// Brings the biases of this block's first pairs into the second-level cache: they lie apart from the weights, in pages
// that nobody else has touched for a while.
__device__ __forceinline__ void prefetch_biases(const Args& args) {
  for (int o = 0; o < args.n_outputs && !args.glu; ++o) {
    const float* bias = args.outputs[o].bias;
    const int at = 32 * static_cast<int>(threadIdx.x);
    if (bias != nullptr && at < args.outputs[o].n) asm volatile("prefetch.global.L2 [%0];" ::"l"(bias + at));
  }
}

// The thread's number, as something that the compiler cannot know: what is computed from it stays where it is used and
// takes no registers from the loop over K.
__device__ __forceinline__ int thread_here() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// Adds the parts of a pair in ascending order, warps of a slice first, and writes what the last of them completes.
// `all_reduce` has kReduceBytes for each warp, `last_flags` a word.
template <int kTokenTiles>
__device__ __forceinline__ void finish_pair(const Args& args, int pair, int slice,
                                            const float (&acc)[2][kTokenTiles][4], float4* all_reduce,
                                            volatile uint32_t* last_flags) {
  const int thread = thread_here(), lane = thread % 32, slices = args.plan.slices, k_warps = args.plan.k_warps;
  const int first_warp = thread / 32 / k_warps * k_warps, k_warp = thread / 32 - first_warp;
  const WarpGroup group = {k_warps, 1 + first_warp};
  float4* reduce = all_reduce + first_warp * (kReduceBytes / 16) + lane;
  // [slices][token tiles][2 tiles][32 lanes]
  float4* parts = args.partials + int64_t{pair} * slices * (2 * kTokenTiles * 32) + lane;
  const Target target = target_of(args, pair);
  const auto emit_tile = [&](int n, int m, const float4& sums) {
    emit(args.outputs[target.o], target.first_row + m * kTileRows, n, lane, static_cast<int>(args.x.t), sums);
  };
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float(&a)[4] = acc[m][n];
      reduce[(k_warp * 2 + m) * 32] = make_float4(a[0], a[1], a[2], a[3]);
    }
    group.sync();
    const auto block_sum = [&](int m) {
      float4 sum = reduce[m * 32];
#pragma unroll
      for (int w = 1; w < kMaxKWarps; ++w) {
        if (w < k_warps) add(reduce[(w * 2 + m) * 32], &sum);
      }
      return sum;
    };
    if (args.glu && slices == 1) {
      if (k_warp == 0) emit_tile(n, 0, gate_times_up(args.activation, block_sum(0), block_sum(1)));
    } else {
      for (int m = k_warp; m < 2; m += k_warps) {
        const float4 sum = block_sum(m);
        if (slices > 1) {
          parts[(slice * (2 * kTokenTiles) + 2 * n + m) * 32] = sum;
        } else {
          emit_tile(n, m, sum);
        }
      }
    }
    group.sync();  // the next token tile writes the same places
  }
  if (slices == 1) return;

  __threadfence();
  group.sync();
  volatile uint32_t* last_flag = last_flags + first_warp;
  if (k_warp == 0 && lane == 0) {
    const bool last = atomicAdd(args.arrived + pair, 1) == static_cast<uint32_t>(slices - 1);
    if (last) args.arrived[pair] = 0;
    *last_flag = last;
  }
  group.sync();
  if (*last_flag == 0) return;
  __threadfence();
  const auto total = [&](int i) {
    float4 sum{};
    for (int first = 0; first < slices; first += 8) {
      // Loads of several slices under way before the first is needed.
      float4 some[8];
#pragma unroll
      for (int s = 0; s < 8; ++s) {
        if (first + s < slices) some[s] = __ldcg(parts + ((first + s) * (2 * kTokenTiles) + i) * 32);
      }
#pragma unroll
      for (int s = 0; s < 8; ++s) {
        if (first + s < slices) add(some[s], &sum);
      }
    }
    return sum;
  };
  if (args.glu) {
    for (int n = k_warp; n < kTokenTiles; n += k_warps) {
      const float4 gate = total(2 * n), up = total(2 * n + 1);
      emit_tile(n, 0, gate_times_up(args.activation, gate, up));
    }
  } else {
    for (int i = k_warp; i < 2 * kTokenTiles; i += k_warps) emit_tile(i / 2, i % 2, total(i));
  }
}

// All of a block's work, the `block_index`-th of those that `args` are divided among. `last_flags` is a word for each
// warp, in shared memory.
template <DType kType, int kTokenTiles>
__device__ __forceinline__ void multiply_block(const Args& args, int block_index, uint32_t* last_flags) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kTokens = 8 * kTokenTiles, kStages = stage_count(f);
  constexpr int kStageBytes = 2 * stage_tile_bytes(f), kHeaderBytes = 2 * ring_header_bytes(f);
  extern __shared__ uint4 shared[];
  start_dependents();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, k_warps = args.plan.k_warps;
  const int warps = blockDim.x / 32;
  const int pitch = args.columns + kPadColumns;
  auto* rows = reinterpret_cast<__nv_bfloat16*>(shared);
  auto* sums = reinterpret_cast<float*>(rows + kTokens * pitch);
  auto* rings = reinterpret_cast<std::byte*>(sums) +
                (has_minimum(f.scales) ? args.columns / sum_columns(f) * kTokens * sizeof(float) : 0);
  auto* reduce = reinterpret_cast<float4*>(rings + warps * args.ring_bytes);
  const std::byte* ring = rings + warp * args.ring_bytes;

  const int row_warps = warps / k_warps, row_warp = warp / k_warps, k_warp = warp % k_warps;
  const int slice = block_index / args.slice_blocks, block = block_index % args.slice_blocks;
  const int parts = args.plan.slices * k_warps, part = slice * k_warps + k_warp;
  // Parts and units are few enough for 32 bits, whose division is a fraction of that of 64.
  const auto part_begin = [&](int p) {
    const unsigned cuts = static_cast<unsigned>(args.units / args.cut);
    return static_cast<int>(static_cast<unsigned>(p) * cuts / static_cast<unsigned>(parts)) * args.cut;
  };
  const int slice_begin = part_begin(slice * k_warps);
  // Neighbouring pairs go to different blocks, so that what is left after the last whole round is spread over all.
  const Walk walk = {row_warp * args.slice_blocks + block, args.slice_blocks * row_warps, part_begin(part),
                     part_begin(part + 1)};

  // Weights are nobody's output: they come while the launch before is still running.
  Fetcher<kType> fetcher(args, walk, shared_address(ring), lane);
#pragma unroll
  for (int s = 0; s < kStages; ++s) fetcher.fetch(s * kStageBytes);

  const int first_staged = slice_begin * unit_columns(f);
  float4 norm_weight{};
  if (args.x.x == nullptr) norm_weight = prepare_norm<kTokenTiles>(args, first_staged, rows);
  prefetch_biases(args);
  wait_for_inputs();
  if (args.x.x != nullptr) {
    stage_rows<kTokenTiles>(args, first_staged, shared_address(rows));
    wait_copies<0>();
  } else {
    norm_rows(args, first_staged, norm_weight, reinterpret_cast<float*>(reduce), rows);
  }
  __syncthreads();
  if constexpr (has_minimum(f.scales)) {
    sum_groups<kTokenTiles, sum_columns(f)>(args, rows, sums);
    __syncthreads();
  }

  const int first_column = (walk.unit_begin - slice_begin) * unit_columns(f);
  const int units = walk.unit_end - walk.unit_begin, first_unit = walk.unit_begin % f.units;
  // load_matrices: lanes 8j to 8j + 7 name the rows of columns 8j to 8j + 7.
  const uint32_t first_x = shared_address(rows + lane % 8 * pitch + lane / 8 * 8 + first_column);
  const float* first_sums = sums + first_column / sum_columns(f) * kTokens + lane % 4 * 2;
  int stage_at = 0, next_header = 0;
  const std::byte* header = nullptr;
  for (int pair = walk.first_pair; pair < args.pairs; pair += walk.pair_step) {
    float acc[2][kTokenTiles][4] = {};
    uint32_t x = first_x;
    const float* unit_sums = first_sums;
    for (int unit = 0; unit < units; ++unit) {
      wait_copies<kStages - 1>();
      __syncwarp();
      const std::byte* stage = ring + stage_at;
      if constexpr (f.units > 1) {
        if (unit == 0 || (first_unit + unit) % f.units == 0) {
          header = ring + kStages * kStageBytes + next_header * kHeaderBytes;
          next_header = next_header + 1 == args.header_places ? 0 : next_header + 1;
        }
      } else {
        header = stage + header_offset(f);
      }
      multiply_unit<kType, kTokenTiles>(stage, header, (first_unit + unit) % f.units, x, 16 * pitch, unit_sums, lane,
                                        acc);
      __syncwarp();
      fetcher.fetch(stage_at);
      stage_at = stage_at + kStageBytes == kStages * kStageBytes ? 0 : stage_at + kStageBytes;
      x += 2 * unit_columns(f);
      unit_sums += unit_columns(f) / sum_columns(f) * kTokens;
    }
    finish_pair<kTokenTiles>(args, pair, slice, acc, reduce, last_flags);
  }
}

template <DType kType, int kTokenTiles>
__global__ void __launch_bounds__(32 * most_warps(kTokenTiles), blocks_at_once(kTokenTiles))
    small_linear_kernel(const __grid_constant__ Args args) {
  __shared__ uint32_t last_flags[most_warps(kTokenTiles)];
  multiply_block<kType, kTokenTiles>(args, static_cast<int>(blockIdx.x), last_flags);
}

template <DType kType, int kTokenTiles>
Status launch_tiles(const Args& args, Stream stream, bool pdl) {
  const int64_t bytes = shared_bytes(*device_format(kType), args.units, args.plan, kTokenTiles);
  const auto kernel = small_linear_kernel<kType, kTokenTiles>;
  PARE_RETURN_IF_ERROR(allow_shared_memory(kernel, static_cast<size_t>(bytes)));
  const dim3 grid(static_cast<unsigned>(args.plan.slices * args.slice_blocks));
  return launch(kernel, grid, dim3(32 * most_warps(kTokenTiles)), static_cast<size_t>(bytes), stream, pdl, args);
}

template <DType kType>
Status launch_small(const Args& args, Stream stream, bool pdl) {
  switch (token_tiles_of(args.x.t)) {
    case 1: return launch_tiles<kType, 1>(args, stream, pdl);
    case 2: return launch_tiles<kType, 2>(args, stream, pdl);
    default: return launch_tiles<kType, 4>(args, stream, pdl);
  }
}

}  // namespace pare::cuda::small
