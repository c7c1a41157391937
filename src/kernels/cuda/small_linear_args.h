// What a launch of the small linear kernel gets, and how K is divided. Between small_linear.cc, which plans and
// dispatches, and the files that hold the kernels of some types each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_format.h"
#include "kernels/cuda/small_linear.h"

namespace pare::cuda::small {

inline constexpr int kWarps = 8, kThreads = 32 * kWarps;

// A warp's unit of work is a pair of row tiles: two neighbours of one weight, or the same tile of gate and up. A block
// holds kWarps / k_warps pairs at a time, each by k_warps warps that divide the block's slice of K; slices are
// divided among blocks. So K has slices * k_warps parts, which are whole records: part p is records
// [p * records / parts, (p + 1) * records / parts).
struct Plan {
  int slices = 1, k_warps = 1;
  int slice_blocks = 1;  // blocks that share a slice: pairs go around among them. No bit depends on it
};

// Activations of the block's slice in shared memory: [8 * token tiles][columns + kPadColumns]. The padding puts the
// rows of one column into different banks.
inline constexpr int kPadColumns = 8;

// Records that a warp fetches at once, and how many such stages are in flight: about 10 KiB a warp, so that 8 warps
// cover the memory's latency and two blocks fit on a multiprocessor.
constexpr int stage_records(const DeviceFormat& f) { return f.groups > 1 || f.plain != 0 ? 1 : f.bytes ? 2 : 4; }
constexpr int stage_bytes(const DeviceFormat& f) { return 2 * stage_records(f) * record_bytes(f); }
constexpr int stage_count(const DeviceFormat& f) {
  return 10240 / stage_bytes(f) < 2 ? 2 : 10240 / stage_bytes(f) > 4 ? 4 : 10240 / stage_bytes(f);
}
constexpr int sum_columns(const DeviceFormat& f) { return has_halves(f.scales) ? 16 : 32; }

// Columns of the widest slice, and room for a last stage that reaches beyond it.
constexpr int64_t slice_columns(const DeviceFormat& f, int64_t records, const Plan& plan) {
  const int64_t most = (records + plan.slices - 1) / plan.slices + (records % plan.slices != 0 ? 1 : 0);
  return ((most < records ? most : records) + stage_records(f) - 1) * record_columns(f);
}
constexpr int64_t reduce_bytes(int token_tiles) { return int64_t{kWarps} * 8 * token_tiles * 32 * 4; }
constexpr int64_t shared_bytes(const DeviceFormat& f, int64_t records, const Plan& plan, int token_tiles) {
  const int64_t tokens = 8 * token_tiles, columns = slice_columns(f, records, plan);
  return tokens * (columns + kPadColumns) * 2 + (has_minimum(f.scales) ? tokens * (columns / sum_columns(f)) * 4 : 0) +
         int64_t{kWarps} * stage_count(f) * stage_bytes(f) + reduce_bytes(token_tiles);
}

struct Args {
  struct Output {
    const std::byte* weight;
    void* y;
    const float* bias;
    int64_t ld_y;
    int32_t n, first_pair;
    bool bf16, accumulate;
  };
  Output outputs[kMaxSmallOutputs];  // with `glu`: gate, up; y is gate's
  int32_t n_outputs;
  bool glu;
  Activation activation;
  SmallLinearInput x;
  int32_t pairs, records, columns;  // columns: slice_columns
  int64_t tile_bytes;
  Plan plan;
  // With several slices: [pairs][slices][8 * token tiles][32] sums, and how many of a pair's slices have come.
  float* partials;
  uint32_t* arrived;
};

// One for each type, defined where its kernels are.
template <DType kType>
Status launch_small(const Args& args, Stream stream, bool pdl);

}  // namespace pare::cuda::small
