// The kernel of batch_linear.h. For the *.cu files that instantiate it.
//
// One warp fetches weights into a ring of stages. Warpgroups take the stages in turn, widen quants to operands of wgmma
// and multiply them with the block's slice of the batch. A last warpgroup adds what they and the other blocks of the
// cluster have of a tile and writes it, while the next tile is being multiplied.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/batch_linear_args.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_output.cuh"

namespace pare::cuda::batch {

// Barriers, as addresses in shared memory.
struct Barriers {
  uint32_t full, empty;             // [stage]
  uint32_t parts_full, parts_free;  // what the warpgroups have of a tile
  uint32_t received;                // [slot][row tile]: all slices' sums of this block's share of a tile
  uint32_t slots_free;              // [slot][row tile]: all blocks' places for them
  __device__ explicit Barriers(uint32_t at)
      : full(at),
        empty(full + 8 * kMaxStages),
        parts_full(empty + 8 * kMaxStages),
        parts_free(parts_full + 8),
        received(parts_free + 8),
        slots_free(received + 8 * kSlots * kTileParts) {}
};

template <DType kType, int kTokens>
struct Shape {
  static constexpr DeviceFormat f = *device_format(kType);
  static constexpr int kGroups = multiplying_groups(f), kAccs = kTokens / 2;  // a lane's floats of a tile
  static constexpr int kBlocks = kTokens / 8;                                 // of 8 tokens
  static constexpr int kSumLanes = kBlocks * kTileParts * 32;                 // float4s of a tile
  static constexpr int kAdding = 128 * kGroups, kFetching = kAdding + 128;    // first threads
};

// This block's share: tiles first, first + step, ...; chunks [0, chunks) of its slice.
struct Share {
  int first, step, chunks;
};

// Row tile `part` of the tile. Beyond a weight's last row tile the last is read again and its product dropped.
__device__ __forceinline__ const std::byte* find_part(const Args& args, int tile, int part) {
  if (args.glu) {
    const OutputRows& out = args.outputs[part / 2];
    return out.weight + min(2 * tile + part % 2, (out.n - 1) / kTileRows) * args.tile_bytes;
  }
  const OutputRows& out = args.outputs[output_of(args, tile)];
  return out.weight + min(kTileParts * (tile - out.first) + part, (out.n - 1) / kTileRows) * args.tile_bytes;
}

// The warp that fetches. Lane p brings row tile p.
template <DType kType, int kTokens>
__device__ void fetch_weights(const Args& args, const Share& share, int first_chunk, uint32_t ring, Barriers barriers) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kChunk = chunk_bytes(f);
  const int lane = threadIdx.x % 32;
  int stage = 0;
  uint32_t parity = 1;  // the first round of stages is free
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
    const std::byte* part = lane < kTileParts ? find_part(args, tile, lane) : nullptr;
    for (int c = 0; c < share.chunks; ++c) {
      const int64_t offset = static_cast<int64_t>(first_chunk + c) * kChunk;
      const auto bytes = static_cast<uint32_t>(min(static_cast<int64_t>(kChunk), args.tile_bytes - offset));
      const uint32_t full = barriers.full + 8 * stage;
      if (lane == 0) {
        hopper::barrier_wait(barriers.empty + 8 * stage, parity);
        hopper::barrier_arrive_expect(full, kTileParts * bytes);
      }
      __syncwarp();
      if (lane < kTileParts) {
        hopper::copy_bulk(ring + stage * stage_bytes(f) + lane * kChunk, part + offset, bytes, full);
      }
      if (++stage == args.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

// The slice's columns of x as the other operand of wgmma: strips of 64 columns, [strip][token][128 swizzled bytes],
// zero beyond the rows and beyond K. By the warpgroups that multiply; asynchronous.
template <DType kType, int kTokens>
__device__ __forceinline__ void stage_rows(const Args& args, int first_column, int strips, uint32_t rows) {
  const int tokens = static_cast<int>(args.x.t), k = static_cast<int>(args.x.k);
  const int items = strips * kTokens * 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < items; i += Shape<kType, kTokens>::kAdding) {
    // Eight neighbouring threads read 128 bytes of a row.
    const int piece = i % 8, token = i / 8 % kTokens, strip = i / (8 * kTokens);
    const int column = first_column + strip * kStripColumns + 8 * piece;
    const int bytes = token < tokens ? 2 * min(8, max(0, k - column)) : 0;
    const uint16_t* from = args.x.x + (bytes > 0 ? token * args.x.ld + column : 0);
    const uint32_t to = rows + (strip * kTokens + token) * 128 + ((piece ^ (token % 8)) * 16);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  }
  hopper::copy_async_commit();
}

// sums[group][token] of the staged rows, groups of sum_columns.
template <DType kType, int kTokens>
__device__ void sum_groups(const std::byte* rows, int strips, float* sums) {
  constexpr int kColumns = sum_columns(*device_format(kType)), kPieces = kColumns / 8;
  constexpr int kStripGroups = kStripColumns / kColumns;
  for (int i = threadIdx.x; i < strips * kStripGroups * kTokens; i += Shape<kType, kTokens>::kAdding) {
    const int token = i % kTokens, group = i / kTokens;
    const std::byte* row = rows + (group / kStripGroups * kTokens + token) * 128;
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int piece = group % kStripGroups * kPieces + p;
      const uint4 v = *reinterpret_cast<const uint4*>(row + (piece ^ (token % 8)) * 16);
      const float2 a = unpack_bf16x2(v.x), b = unpack_bf16x2(v.y), c = unpack_bf16x2(v.z), d = unpack_bf16x2(v.w);
      sum += ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
    }
    sums[i] = sum;
  }
}

// Bytes from the operand of a chunk's first 16 columns to that of 16 from `column` of the chunk on.
template <int kTokens>
__device__ __forceinline__ constexpr uint32_t operand_offset(int column) {
  return column / kStripColumns * (kTokens * 128) + column % kStripColumns * 2;
}

// A group's products, which still lack its scales.
template <DType kType, int kTokens>
struct Dots {
  static constexpr bool kHalves = has_halves(device_format(kType)->scales);
  float x[kHalves ? 2 : 1][kTokens / 2];
  GroupScales scales;
};

template <DType kType, int kTokens>
__device__ __forceinline__ void add_scaled(const Dots<kType, kTokens>& dots, const float* sums,
                                           float (&acc)[kTokens / 2]) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kHalves = Dots<kType, kTokens>::kHalves ? 2 : 1;
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc[4 * n + i] = fmaf(dots.scales.d[h][i / 2], dots.x[h][4 * n + i], acc[4 * n + i]);
      }
      if constexpr (has_minimum(f.scales)) {
        const float2 sum = *reinterpret_cast<const float2*>(sums + h * kTokens + 8 * n);
        // Quants keep the 128 that brought them into bf16.
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float minimum = fmaf(-128.0f, dots.scales.d[h][i / 2], dots.scales.m[h][i / 2]);
          acc[4 * n + i] = fmaf(minimum, i % 2 == 0 ? sum.x : sum.y, acc[4 * n + i]);
        }
      }
    }
  }
}

// acc += kUnits units of this warp's row tile, from unit `first` of the chunk on, times the batch. `column`: the
// chunk's first of the slice. `sums`: this lane's tokens' of the chunk's first group.
template <DType kType, int kTokens, int kUnits>
__device__ __forceinline__ void multiply_units(const std::byte* chunk, int first, const hopper::Operand<128>& batch,
                                               const float* sums, int lane, float (&acc)[kTokens / 2]) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kUnitGroups = unit_groups(f), kGroups = kUnits * kUnitGroups;
  constexpr int kUnitStep = f.units > 1 ? unit_quant_bytes(f) : record_bytes(f);
  if constexpr (f.scales == DeviceScales::kNone) {
    Fragment<kType> w[kUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      w[u] = make_fragment<kType>(load_unit<kType>(chunk + (first + u) * kUnitStep, lane), 0);
    }
    hopper::wgmma_fence();
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int term = 0; term < kTerms<kType>; ++term) {
          hopper::wgmma_rows(acc, w[u].a[step][term],
                             batch.at(operand_offset<kTokens>((first + u) * unit_columns(f) + 16 * step)), 1);
        }
      }
    }
    hopper::wgmma_commit();
    hopper::wgmma_wait<0>();
    hopper::pin(acc);
  } else {
    constexpr int kSums = kGroupColumns / sum_columns(f) * kTokens;  // floats of a group
    Dots<kType, kTokens> dots[2];
    Fragment<kType> w[2];
    // A unit is loaded while the one before is multiplied: no load crosses a wait by itself.
    UnitQuants<kType> quants[2];
    UnitScales scales[2];
    const auto load = [&](int u) {
      const std::byte* at = chunk + (first + u) * kUnitStep;
      quants[u % 2] = load_unit<kType>(at, lane);
      const std::byte* header = f.units > 1 ? chunk + header_offset(f) : at + header_offset(f);
      scales[u % 2] = load_unit_scales<kType>(header, f.units > 1 ? first + u : 0, lane);
    };
    load(0);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int u = g / kUnitGroups, unit = first + u;
      if (g % kUnitGroups == 0 && u + 1 < kUnits) load(u + 1);
      Dots<kType, kTokens>& dot = dots[g % 2];
      w[g % 2] = make_fragment<kType, has_minimum(f.scales)>(quants[u % 2], g % kUnitGroups);
      dot.scales = group_scales<kType>(scales[u % 2], g % kUnitGroups);
      const int column = unit * unit_columns(f) + g % kUnitGroups * kGroupColumns;
      constexpr int kLast = Dots<kType, kTokens>::kHalves ? 1 : 0;
      hopper::wgmma_fence();
      hopper::wgmma_rows(dot.x[0], w[g % 2].a[0][0], batch.at(operand_offset<kTokens>(column)), 0);
      hopper::wgmma_rows(dot.x[kLast], w[g % 2].a[1][0], batch.at(operand_offset<kTokens>(column + 16)), 1 - kLast);
      hopper::wgmma_commit();
      if (g > 0) {
        hopper::wgmma_wait<1>();
        Dots<kType, kTokens>& before = dots[(g + 1) % 2];
        for (auto& x : before.x) hopper::pin(x);
        add_scaled<kType, kTokens>(before, sums + (first * kUnitGroups + g - 1) * kSums, acc);
      }
    }
    hopper::wgmma_wait<0>();
    Dots<kType, kTokens>& last = dots[(kGroups + 1) % 2];
    for (auto& x : last.x) hopper::pin(x);
    add_scaled<kType, kTokens>(last, sums + (first * kUnitGroups + kGroups - 1) * kSums, acc);
  }
}

// The warpgroups that multiply.
template <DType kType, int kTokens>
__device__ void multiply_tiles(const Args& args, const Share& share, int first_chunk, const std::byte* ring,
                               uint32_t rows, const float* sums, float4* parts, Barriers barriers) {
  using S = Shape<kType, kTokens>;
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kUnits = chunk_units(f), kColumns = chunk_columns(f);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % kTileParts, group = warp / kTileParts;
  const int all_units = static_cast<int>(records_of(f, args.x.k)) * f.units;
  const float* lane_sums = sums + lane % 4 * 2;
  int stage = group;
  uint32_t parity = 0, parts_parity = 1;
  int chunk = group;  // the next of this group's chunks, counted from the tile's first
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
    float acc[S::kAccs] = {};
    for (; chunk < share.chunks; chunk += S::kGroups) {
      const uint32_t at = 8 * stage;
      hopper::barrier_wait(barriers.full + at, parity);
      const std::byte* weights = ring + stage * stage_bytes(f) + part * chunk_bytes(f);
      const float* chunk_sums = lane_sums + chunk * (kColumns / sum_columns(f)) * kTokens;
      const hopper::Operand<128> batch(rows + operand_offset<kTokens>(chunk * kColumns), 0, 8 * 128);
      const int units = min(kUnits, all_units - (first_chunk + chunk) * kUnits);
      if (units == kUnits) {
        multiply_units<kType, kTokens, kUnits>(weights, 0, batch, chunk_sums, lane, acc);
      } else if constexpr (f.units == 1) {
#pragma unroll 1
        for (int u = 0; u < units; ++u) {
          multiply_units<kType, kTokens, 1>(weights, u, batch, chunk_sums, lane, acc);
        }
      }
      __syncwarp();
      if (lane == 0) hopper::barrier_arrive(barriers.empty + at);
      stage += S::kGroups;
      if (stage >= args.stages) {
        stage = group;
        parity ^= 1;
      }
    }
    chunk -= share.chunks;
    hopper::barrier_wait(barriers.parts_free, parts_parity);
    parts_parity ^= 1;
    float4* to = parts + group * S::kSumLanes + part * 32 + lane;
#pragma unroll
    for (int n = 0; n < S::kBlocks; ++n) {
      to[n * kTileParts * 32] = make_float4(acc[4 * n], acc[4 * n + 1], acc[4 * n + 2], acc[4 * n + 3]);
    }
    __syncwarp();
    if (lane == 0) hopper::barrier_arrive(barriers.parts_full);
  }
}

// The warps that add and write. Each is on its own with its part of every tile: a row tile, or of gate and up two for
// half of the tokens. What one lane writes at once is an item: four sums, or four of gate and of up.
template <DType kType, int kTokens>
__device__ void add_tiles(const Args& args, const Share& share, const float4* parts, float4* received,
                          Barriers barriers) {
  using S = Shape<kType, kTokens>;
  constexpr int kPartSums = S::kBlocks * 32;  // float4s of a part
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32 % kTileParts, slices = args.slices;
  const int rank = static_cast<int>(slices > 1 ? hopper::cluster_rank() : 0);
  const int depth = args.glu ? 2 : 1, rows = S::kBlocks / depth;  // float4s of an item, items of a lane
  const int own_items = rows * 32 / slices, own_sums = kPartSums / slices;
  const auto write_item = [&](int tile, int item, const float4& first, const float4& second) {
    const int row = item / 32, item_lane = item % 32, tokens = static_cast<int>(args.x.t);
    if (args.glu) {
      emit(args.outputs[0], (2 * tile + part % 2) * kTileRows, part / 2 * (S::kBlocks / 2) + row, item_lane, tokens,
           gate_times_up(args.activation, first, second));
    } else {
      const OutputRows& out = args.outputs[output_of(args, tile)];
      emit(out, (kTileParts * (tile - out.first) + part) * kTileRows, row, item_lane, tokens, first);
    }
  };
  // Where the sums of a tile go on their way between blocks: [slot][slice][part][own sums].
  struct Slot {
    uint32_t full, free, parity;
    const float4* sums;
  };
  const auto slot_of = [&](int sent) {
    const int slot = sent % kSlots;
    return Slot{barriers.received + 8 * (slot * kTileParts + part),
                barriers.slots_free + 8 * (slot * kTileParts + part), static_cast<uint32_t>(sent / kSlots) & 1,
                received + slot * S::kSumLanes + part * own_sums};
  };
  // Each block gets its share of the items from all.
  const auto send = [&](const Slot& slot, const float4(&sums)[S::kBlocks]) {
    hopper::barrier_wait_cluster(slot.free, slot.parity ^ 1);
    const uint32_t at = hopper::shared_address(slot.sums + rank * (kTileParts * own_sums));
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) {
      const int item = (args.glu ? i / 2 : i) * 32 + lane, owner = item / own_items;
      const int offset = item % own_items * depth + (args.glu ? i % 2 : 0);
      hopper::store_async(hopper::map_to_block(at + 16 * offset, owner), sums[i],
                          hopper::map_to_block(slot.full, owner));
    }
    if (lane == 0) hopper::barrier_arrive_expect(slot.full, kPartSums * 16);
    __syncwarp();
  };
#ifdef PARE_FAULT_LINEAR_LAST_SLICE
  const int summed = slices - 1;
#else
  const int summed = slices;
#endif
  const auto finish = [&](const Slot& slot, int tile) {
    hopper::barrier_wait_cluster(slot.full, slot.parity);
    for (int item = lane; item < own_items; item += 32) {
      float4 total[2] = {};
#pragma unroll
      for (int d = 0; d < 2; ++d) {
        if (d == depth) break;
        const float4* from = slot.sums + item * depth + d;
        total[d] = from[0];
        for (int s = 1; s < summed; ++s) add(from[s * (kTileParts * own_sums)], &total[d]);
      }
      write_item(tile, rank * own_items + item, total[0], total[1]);
    }
    __syncwarp();
    if (lane < slices) hopper::barrier_arrive_remote(hopper::map_to_block(slot.free, lane));
  };
  uint32_t parity = 0;
  int sent = 0, sent_tile = 0;
  for (int tile = share.first; tile < args.tiles; tile += share.step) {
    hopper::barrier_wait(barriers.parts_full, parity);
    parity ^= 1;
    float4 sums[S::kBlocks];
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) {
      const int block = args.glu ? part / 2 * (S::kBlocks / 2) + i / 2 : i;
      const int place = (block * kTileParts + (args.glu ? part % 2 + i % 2 * 2 : part)) * 32 + lane;
      sums[i] = parts[place];
#pragma unroll
      for (int g = 1; g < S::kGroups; ++g) add(parts[g * S::kSumLanes + place], &sums[i]);
    }
    __syncwarp();
    if (lane == 0) hopper::barrier_arrive(barriers.parts_free);
    if (slices > 1) {
      // The tile before is finished while this one's sums are on their way.
      send(slot_of(sent), sums);
      if (sent > 0) finish(slot_of(sent - 1), sent_tile);
      ++sent;
      sent_tile = tile;
    } else {
#pragma unroll
      for (int i = 0; i < S::kBlocks; ++i) {
        if (!args.glu) write_item(tile, 32 * i + lane, sums[i], {});
        if (args.glu && i % 2 == 0) write_item(tile, 16 * i + lane, sums[i], sums[i + 1]);
      }
    }
  }
  if (sent > 0) finish(slot_of(sent - 1), sent_tile);
}

template <DType kType, int kTokens>
__global__ void __launch_bounds__(block_threads(*device_format(kType)), 1)
    batch_linear_kernel(const __grid_constant__ Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using S = Shape<kType, kTokens>;
  constexpr DeviceFormat f = *device_format(kType);
  extern __shared__ __align__(1024) std::byte shared[];
  start_dependents();

  const int thread = static_cast<int>(threadIdx.x), slice = static_cast<int>(blockIdx.x) % args.slices;
  const int first_chunk = slice * args.slice_chunks;
  const Share share = {static_cast<int>(blockIdx.x) / args.slices, args.clusters,
                       max(0, min(args.slice_chunks, args.chunks - first_chunk))};
  const Layout layout = layout_of<kTokens>(f, args.slice_chunks * chunk_columns(f), args.slices);
  std::byte* rows = shared;
  auto* received = reinterpret_cast<float4*>(rows + layout.rows);
  auto* parts = reinterpret_cast<float4*>(rows + layout.rows + layout.received);
  auto* sums = reinterpret_cast<float*>(rows + layout.rows + layout.received + layout.parts);
  const std::byte* ring = shared + layout.before_ring();
  const Barriers barriers(hopper::shared_address(ring) - static_cast<uint32_t>(layout.barriers));

  if (thread == 0) {
    for (int s = 0; s < args.stages; ++s) {
      hopper::barrier_init(barriers.full + 8 * s, 1);
      hopper::barrier_init(barriers.empty + 8 * s, 4);
    }
    hopper::barrier_init(barriers.parts_full, 4 * S::kGroups);
    hopper::barrier_init(barriers.parts_free, 4);
    for (int s = 0; s < kSlots * kTileParts; ++s) {
      hopper::barrier_init(barriers.received + 8 * s, 1);
      hopper::barrier_init(barriers.slots_free + 8 * s, static_cast<uint32_t>(args.slices));
    }
    hopper::fence_barrier_init();
  }
  __syncthreads();
  if (args.slices > 1) hopper::cluster_sync();

  if (thread >= S::kFetching) {
    hopper::shrink_registers<kFetchingRegisters>();
    // Weights are nobody's output: they come while the launch before is still running.
    if (thread < S::kFetching + 32) {
      fetch_weights<kType, kTokens>(args, share, first_chunk, hopper::shared_address(ring), barriers);
    }
    wait_for_inputs();
  } else if (thread >= S::kAdding) {
    hopper::shrink_registers<kAddingRegisters>();
    wait_for_inputs();
    add_tiles<kType, kTokens>(args, share, parts, received, barriers);
  } else {
    hopper::grow_registers<multiplying_registers(f)>();
    wait_for_inputs();
    const int strips = (args.slice_chunks * chunk_columns(f) + kStripColumns - 1) / kStripColumns;
    stage_rows<kType, kTokens>(args, first_chunk * chunk_columns(f), strips, hopper::shared_address(rows));
    hopper::copy_async_wait<0>();
    hopper::fence_async_proxy();
    hopper::named_barrier_sync(1, S::kAdding);
    if constexpr (has_minimum(f.scales)) {
      sum_groups<kType, kTokens>(rows, strips, sums);
      hopper::named_barrier_sync(1, S::kAdding);
    }
    multiply_tiles<kType, kTokens>(args, share, first_chunk, ring, hopper::shared_address(rows), sums, parts, barriers);
  }
  // No block leaves while another may still write to its memory.
  if (args.slices > 1) {
    __syncwarp();
    hopper::cluster_sync();
  }
#endif
}

template <DType kType>
Status launch_batch(const Args& args, Stream stream, bool pdl) {
  constexpr DeviceFormat f = *device_format(kType);
  constexpr int kTokens = static_cast<int>(kMaxBatchTokens);
  const auto kernel = batch_linear_kernel<kType, kTokens>;
  const Layout layout = layout_of<kTokens>(f, args.slice_chunks * chunk_columns(f), args.slices);
  const auto bytes = static_cast<size_t>(layout.before_ring() + int64_t{args.stages} * stage_bytes(f));
  PARE_RETURN_IF_ERROR(allow_shared_memory(kernel, bytes));
  const dim3 grid(static_cast<unsigned>(args.clusters * args.slices));
  return launch_clusters(kernel, grid, dim3(block_threads(f)), static_cast<unsigned>(args.slices), bytes, stream, pdl,
                         args);
}

}  // namespace pare::cuda::batch
