#include "kernels/cuda/batch_linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/batch_linear_args.h"
#include "kernels/cuda/linear_launch.h"
#include "tensor/cuda/status.h"

namespace pare::cuda {
namespace {

using batch::Args;
using batch::Layout;

struct Card {
  int processors = 0;
  int64_t block_shared_bytes = 0;
};
// What the card has; no multiprocessors where the kernel does not run. One kind of card in a process.
const Card& card() {
  static const Card found = [] {
    Card c;
    int device = 0, major = 0, processors = 0, bytes = 0;
    if (cudaGetDevice(&device) == cudaSuccess) {
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    // Code for sm_90a runs on compute capability 9.0 alone.
    if (major == 9) {
      c.processors = processors;
      c.block_shared_bytes = bytes;
    }
    return c;
  }();
  return found;
}

struct Plan {
  int slices = 0, stages = 0;
  int64_t slice_chunks = 0;
};
// The division that is done first, roughly. No slices where the width does not fit.
Plan plan_of(const DeviceFormat& f, int64_t tiles, int64_t k) {
  // Of a block, measured on an H100: bytes of weights and of rows, a unit of four row tiles in one warpgroup, a tile.
  constexpr double kWeightBandwidth = 2.3e10, kRowsBandwidth = 1.0e11, kTile = 0.5e-6, kMeeting = 1.0e-6;
  const double unit = f.plain != 0 ? 0.1e-6 : 0.4e-6;
  constexpr int kMinRingBytes = 36 * 1024;  // under way, so that the memory's latency is covered
  const int64_t chunks = batch::chunks_of(f, k);
  Plan best;
  double best_cost = std::numeric_limits<double>::infinity();
  for (int slices = 1; slices <= batch::kMaxSlices && slices <= chunks; slices *= 2) {
    const int64_t slice_chunks = ceil_div<int64_t>(chunks, slices), columns = slice_chunks * batch::chunk_columns(f);
    const Layout layout = batch::layout_of<kMaxBatchTokens>(f, columns, slices);
    const int stages = batch::ring_stages(f, std::max<int64_t>(0, card().block_shared_bytes - layout.before_ring()));
    if (stages * batch::stage_bytes(f) < kMinRingBytes) continue;
    const int64_t rounds = ceil_div<int64_t>(tiles, batch::clusters_at_once(slices));
    const int64_t group_chunks = ceil_div<int64_t>(slice_chunks, batch::multiplying_groups(f));
    const double reading = static_cast<double>(slice_chunks * batch::stage_bytes(f)) / kWeightBandwidth;
    const double multiplying = static_cast<double>(group_chunks * batch::chunk_units(f)) * unit;
    const double cost = static_cast<double>(rounds) * (std::max(reading, multiplying) + kTile) +
                        static_cast<double>(columns * kMaxBatchTokens * 2) / kRowsBandwidth +
                        (slices > 1 ? kMeeting : 0.0);
    if (cost >= best_cost) continue;
    best = {slices, stages, slice_chunks};
    best_cost = cost;
  }
  return best;
}

// Everything of the arguments that follows from the weights' type, K and the number of tiles; then the launch.
Status finish_and_launch(DType dtype, const SmallLinearInput& x, int64_t tiles, Args* args, Stream stream, bool pdl) {
  const DeviceFormat* f = device_format(dtype);
  const Plan plan = f != nullptr && card().processors > 0 ? plan_of(*f, tiles, x.k) : Plan{};
  if (plan.slices == 0) {
    return unsupported(fmt::format("CUDA: no batch product with {} columns of {}", x.k, dtype_name(dtype)));
  }
  args->x = x;
  args->tiles = static_cast<int32_t>(tiles);
  args->chunks = static_cast<int32_t>(batch::chunks_of(*f, x.k));
  args->slices = plan.slices;
  args->slice_chunks = static_cast<int32_t>(plan.slice_chunks);
  args->clusters = static_cast<int32_t>(std::min<int64_t>(tiles, batch::clusters_at_once(plan.slices)));
  args->stages = plan.stages;
  args->tile_bytes = tile_bytes(*f, x.k);
  return with_type(dtype, [&]<DType kType>() { return batch::launch_batch<kType>(*args, stream, pdl); });
}

void check_input(const SmallLinearInput& x) {
  PARE_CHECK(x.t >= 1 && x.t <= kMaxBatchTokens && x.k >= 1 && x.ld >= x.k && x.x != nullptr && x.ld % 8 == 0);
}

int64_t tiles_for(int64_t n) { return ceil_div<int64_t>(tiles_of(n), batch::kTileParts); }

}  // namespace

bool batch_linear_takes(DType dtype, int64_t k) {
  const DeviceFormat* f = device_format(dtype);
  return f != nullptr && card().processors > 0 && plan_of(*f, 1, k).slices > 0;
}

Status batch_linear(const SmallLinearInput& x, std::span<const SmallLinearOutput> outputs, Stream stream, bool pdl) {
  check_input(x);
  auto groups = group_by_type<Args>(x.k, outputs, tiles_for);
  for (TypeGroup<Args>& group : groups.all()) {
    PARE_RETURN_IF_ERROR(finish_and_launch(group.dtype, x, group.units, &group.args, stream, pdl));
  }
  return ok_status();
}

Status batch_glu(const SmallLinearInput& x, const DeviceWeight& gate, const DeviceWeight& up, Activation act,
                 uint16_t* y, int64_t ld_y, Stream stream, bool pdl) {
  check_input(x);
  Args args{};
  PARE_RETURN_IF_ERROR(set_glu(x.k, gate, up, act, y, ld_y, &args));
  return finish_and_launch(gate.dtype, x, ceil_div<int64_t>(tiles_of(gate.n), 2), &args, stream, pdl);
}

}  // namespace pare::cuda
