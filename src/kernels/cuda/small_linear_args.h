// What a launch of the small linear kernel gets, and how K is divided. Between small_linear.cc, which plans and
// dispatches, and the files that hold the kernels of some types each.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_format.h"
#include "kernels/cuda/linear_output.h"
#include "kernels/cuda/small_linear.h"

namespace pare::cuda::small {

// Tiles of eight tokens, the N of mma.m16n8k16, that a kernel is made for: 1, 2 or 4.
constexpr int token_tiles_of(int64_t t) { return t <= 8 ? 1 : t <= 16 ? 2 : 4; }
inline constexpr int kMaxKWarps = 8;

// A warp's unit of work is a pair of row tiles: two neighbours of one weight, or the same tile of gate and up. A block
// holds warps / k_warps pairs at a time, each by k_warps warps that divide the block's slice of K; slices are divided
// among blocks. So K has slices * k_warps parts, cut between records: part p begins at record p * records / parts.
// Where records are fewer than parts, which is where a weight is small and time is latency, parts are cut between units
// instead, and a record's header may be read by several warps.
struct Plan {
  int slices = 1, k_warps = 1;
  constexpr int parts() const { return slices * k_warps; }
};
// Units between two places where a part may begin.
constexpr int cut_units(const DeviceFormat& f, int64_t units, const Plan& plan) {
  return plan.parts() > units / f.units ? 1 : f.units;
}

// Warps of a block, and blocks that share a multiprocessor: 16 warps in all have the registers that a kernel needs. The
// activations of more than 8 tokens take the room of a second block.
constexpr int most_warps(int token_tiles) { return token_tiles == 1 ? 8 : 16; }
constexpr int blocks_at_once(int token_tiles) { return token_tiles == 1 ? 2 : 1; }

// Activations of the block's slice in shared memory: [8 * token tiles][columns + kPadColumns]. The padding puts the
// rows of one column into different banks.
inline constexpr int kPadColumns = 8;

// A stage of a warp's ring is a unit of both tiles. Records of several units have their headers in places of their own;
// a header comes with the first of its units that is wanted.
constexpr int stage_tile_bytes(const DeviceFormat& f) { return f.units > 1 ? unit_quant_bytes(f) : record_bytes(f); }
constexpr int ring_header_bytes(const DeviceFormat& f) { return f.units > 1 ? header_bytes(f) : 0; }
// So many that 16 warps of a multiprocessor keep enough bytes under way for the memory's latency, and no more than
// the units of a record: then two headers are enough for parts of whole records. Parts of a unit may need one a stage.
constexpr int stage_count(const DeviceFormat& f) {
  const int count = 6144 / (2 * stage_tile_bytes(f));
  return count < 2 ? 2 : count > 4 ? 4 : count;
}
constexpr int header_places(const DeviceFormat& f, int cut) { return cut < f.units ? stage_count(f) : 2; }
constexpr int ring_bytes(const DeviceFormat& f, int cut) {
  return 2 * (stage_count(f) * stage_tile_bytes(f) + header_places(f, cut) * ring_header_bytes(f));
}

// Columns of the widest slice of K.
constexpr int64_t slice_columns(const DeviceFormat& f, int64_t units, const Plan& plan) {
  const int64_t cut = cut_units(f, units, plan);
  return ((units / cut + plan.slices - 1) / plan.slices) * cut * unit_columns(f);
}
// Where a block's warps meet to add a token tile of both tiles: bytes of each warp.
inline constexpr int kReduceBytes = 2 * 32 * 16;
constexpr int64_t shared_bytes(const DeviceFormat& f, int64_t units, const Plan& plan, int token_tiles) {
  const int64_t tokens = 8 * token_tiles, columns = slice_columns(f, units, plan), warps = most_warps(token_tiles);
  return tokens * (columns + kPadColumns) * 2 + (has_minimum(f.scales) ? tokens * (columns / sum_columns(f)) * 4 : 0) +
         warps * (ring_bytes(f, cut_units(f, units, plan)) + kReduceBytes);
}

struct Args {
  OutputRows outputs[kMaxSmallOutputs];  // `first`: pair. With `glu`: gate, up; y is gate's
  int32_t n_outputs;
  bool glu;
  Activation activation;
  SmallLinearInput x;
  int32_t pairs, units, columns;           // columns: slice_columns
  int32_t cut, header_places, ring_bytes;  // by the functions of these names
  int64_t tile_bytes;
  Plan plan;
  int32_t slice_blocks;  // blocks that share a slice: pairs go around among them
  // With several slices: [pairs][slices][token tiles][2 tiles][32 lanes] of four sums, and how many of a pair's slices
  // have come.
  float4* partials;
  uint32_t* arrived;
};

// One for each type, defined where its kernels are.
template <DType kType>
Status launch_small(const Args& args, Stream stream, bool pdl);

// Two types in one launch of up to 8 tokens: the first `first_blocks` blocks are those of parts[0] alone, the others
// those of parts[1]. Each part is what its type would be launched with, with counters and partials of its own.
struct MixedArgs {
  Args parts[2];
  int32_t first_blocks;
};

// For the pairs of types that files are made of (small_linear_mixed_*.cu).
template <DType kFirst, DType kSecond>
Status launch_mixed(const MixedArgs& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
