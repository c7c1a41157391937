// What a launch of the batch linear kernel gets, and how its work is divided. Between batch_linear.cc, which plans and
// dispatches, and the files that hold the kernels of some types each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/batch_linear.h"
#include "kernels/cuda/device_format.h"
#include "kernels/cuda/linear_output.h"

namespace pare::cuda::batch {

// A tile is 64 rows, the M of wgmma: four row tiles of the packed format, of gate and up two each. A chunk is the part
// of K that a stage of the ring holds: a record, or several of one unit. A cluster of `slices` blocks takes tiles, each
// block the chunks of its slice; within a block, warpgroups take chunks in turn. Each block of a cluster finishes the
// same share of every tile: the others send it theirs.
inline constexpr int kTileParts = 4;

constexpr int chunk_units(const DeviceFormat& f) { return f.units > 1 ? f.units : f.plain == 4 || f.bytes ? 2 : 4; }
constexpr int chunk_columns(const DeviceFormat& f) { return chunk_units(f) * unit_columns(f); }
constexpr int chunk_bytes(const DeviceFormat& f) {  // of a row tile
  return f.units > 1 ? record_bytes(f) : chunk_units(f) * record_bytes(f);
}
constexpr int stage_bytes(const DeviceFormat& f) { return kTileParts * chunk_bytes(f); }
constexpr int64_t chunks_of(const DeviceFormat& f, int64_t k) { return (k + chunk_columns(f) - 1) / chunk_columns(f); }

// Warpgroups that multiply. Quants are bound by instructions, plain values by bytes.
constexpr int multiplying_groups(const DeviceFormat& f) { return f.plain != 0 ? 2 : 3; }
// A warpgroup more adds and writes; of another, one warp fetches weights.
constexpr int block_threads(const DeviceFormat& f) { return 128 * (multiplying_groups(f) + 2); }
// Registers of a thread: what a block is launched with, of which the last two warpgroups leave some to the others.
inline constexpr int kAddingRegisters = 56, kFetchingRegisters = 40;
constexpr int multiplying_registers(const DeviceFormat& f) {
  const int groups = multiplying_groups(f), launched = 65536 / block_threads(f) / 8 * 8;
  return ((groups + 2) * launched - kAddingRegisters - kFetchingRegisters) / groups / 8 * 8;
}

inline constexpr int kMaxSlices = 8;  // blocks of a cluster that every card can place
inline constexpr int kSlots = 2;      // tiles whose sums may be on their way between blocks
// Of the ring, a multiple of the groups: a stage is always the same group's. Otherwise a group could wait for a phase
// of a barrier before the one before it, another group's, has ended, and take the one before that for it.
inline constexpr int kMaxStages = 16;
constexpr int ring_stages(const DeviceFormat& f, int64_t bytes) {
  const int64_t fit = bytes / stage_bytes(f), groups = multiplying_groups(f);
  return static_cast<int>((fit < kMaxStages ? fit : kMaxStages) / groups * groups);
}
inline constexpr int kStripColumns = 64;  // 128 bytes of bf16: a swizzled row of the batch operand

// Sums of a tile: [8-token block][row tile][32 lanes] of four.
template <int kTokens>
constexpr int64_t tile_sum_bytes() {
  return int64_t{64} * kTokens * 4;
}

// Bytes of shared memory, in this order; the ring takes the rest.
struct Layout {
  int64_t rows, received, parts, sums, barriers, ring;
  constexpr int64_t before_ring() const { return rows + received + parts + sums + barriers; }
};
template <int kTokens>
constexpr Layout layout_of(const DeviceFormat& f, int64_t slice_columns, int slices) {
  Layout l{};
  l.rows = (slice_columns + kStripColumns - 1) / kStripColumns * kTokens * 128;
  l.received = slices > 1 ? kSlots * tile_sum_bytes<kTokens>() : 0;
  l.parts = multiplying_groups(f) * tile_sum_bytes<kTokens>();
  l.sums = has_minimum(f.scales) ? slice_columns / sum_columns(f) * kTokens * 4 : 0;
  l.barriers = 1024;
  l.ring = 0;
  return l;
}

struct Args {
  OutputRows outputs[kMaxSmallOutputs];  // `first`: tile. With `glu`: gate, up; y is gate's
  int32_t n_outputs;
  bool glu;
  Activation activation;
  SmallLinearInput x;
  int32_t tiles, chunks, slices, slice_chunks;  // slice s: chunks [s * slice_chunks, (s + 1) * slice_chunks)
  int32_t clusters, stages;
  int64_t tile_bytes;  // of a row tile of the packed weight
};

// Clusters of this many blocks, each with all of a multiprocessor's shared memory, that the card places at once.
int clusters_at_once(int slices);

// One for each type, defined where its kernels are.
template <DType kType>
Status launch_batch(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::batch
