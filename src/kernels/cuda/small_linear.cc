#include "kernels/cuda/small_linear.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/linear_launch.h"
#include "kernels/cuda/small_linear_args.h"
#include "tensor/cuda/status.h"

namespace pare::cuda {
namespace {

using small::Args;
using small::MixedArgs;
using small::Plan;
using Group = TypeGroup<Args>;

// Pairs whose slices are counted; the counts lie in front of the workspace, in the same place for every launch, so that
// one launch's sums never lie where another expects zeros. The second type of a launch counts behind the first.
constexpr int64_t kMaxCountedPairs = 16384, kCountBytes = 2 * kMaxCountedPairs * sizeof(uint32_t);
// K is divided for this many multiprocessors whatever the card has, so that cards agree bit for bit.
constexpr int kPlannedProcessors = 132;

struct Card {
  int processors = 0;
  int64_t shared_bytes = 0, block_shared_bytes = 0;  // of a multiprocessor; of a block
};
const Card& card() {
  // One kind of card in a process.
  static const Card found = [] {
    Card c;
    int device = 0, processors = 0, bytes = 0, all_bytes = 0;
    if (cudaGetDevice(&device) == cudaSuccess) {
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
      cudaDeviceGetAttribute(&all_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    }
    c.processors = std::max(1, processors);
    c.shared_bytes = std::max(48 * 1024, all_bytes);
    c.block_shared_bytes = std::max(48 * 1024, bytes);
    return c;
  }();
  return found;
}

// Seconds, roughly, of all pairs under a plan, for whichever plan is least.
double cost_of(const DeviceFormat& f, int64_t pairs, int64_t units, const Plan& plan) {
  constexpr double kCardWarps = 16 * kPlannedProcessors, kBandwidth = 3.0e12;
  constexpr double kUnitLatency = 0.25e-6;  // of a warp alone
  const int64_t cut = small::cut_units(f, units, plan), part = ceil_div<int64_t>(units / cut, plan.parts()) * cut;
  // What a warp reads for a part, in units.
  const auto headers = static_cast<double>(cut < f.units ? ceil_div<int64_t>(part, f.units) + 1 : part / f.units);
  const double read = static_cast<double>(part) + headers * small::ring_header_bytes(f) / small::stage_tile_bytes(f);
  // The units that a warp's share of adding and writing is worth.
  const double adding = plan.k_warps > 1 ? 2.0 : 1.5;
  const double unit = kCardWarps * 2 * small::stage_tile_bytes(f) / kBandwidth;
  const double items = static_cast<double>(pairs * plan.slices * plan.k_warps);
  const double all = items * (read + adding) / kCardWarps * unit;
  const double last = static_cast<double>(part) * kUnitLatency * std::ceil(items / kCardWarps / 4);
  const double meeting = plan.k_warps > 1 ? 0.3e-6 : 0.1e-6;
  // Sums of slices go through the second-level cache twice; a warp waits while its own are on their way, and the last
  // one to come for all.
  const double slices = plan.slices > 1 ? 1.5e-6 * std::ceil(items / kCardWarps) + 1.0e-6 + 2.0e-6 / plan.k_warps +
                                              static_cast<double>(pairs * plan.slices) * 8192.0 / kBandwidth
                                        : 0.0;
  const double staging = 0.15e-9 * static_cast<double>(small::slice_columns(f, units, plan));
  return all + last + meeting + slices + staging;
}

// Every choice must suit 32 tokens: the plan is the same for all.
Plan plan_of(const DeviceFormat& f, int64_t pairs, int64_t units) {
  constexpr int kMaxSlices = 64;
  Plan best{0, 0};
  double best_cost = std::numeric_limits<double>::infinity();
  for (Plan p; p.slices <= (pairs <= kMaxCountedPairs ? kMaxSlices : 1); ++p.slices) {
    for (p.k_warps = 1; p.k_warps <= small::kMaxKWarps; p.k_warps *= 2) {
      if (p.parts() > units) break;
      if (small::shared_bytes(f, units, p, 4) > card().block_shared_bytes) break;
      const double cost = cost_of(f, pairs, units, p);
      if (cost >= best_cost) continue;
      best = p;
      best_cost = cost;
    }
  }
  return best;
}

int64_t pairs_of(int64_t n) { return ceil_div<int64_t>(tiles_of(n), 2); }

// What a slice of a pair leaves for the last to come.
int64_t part_bytes(int64_t t) { return 2 * small::token_tiles_of(t) * 32 * int64_t{sizeof(float4)}; }
int64_t partial_bytes(const Plan& plan, int64_t pairs, int64_t t) {
  return plan.slices > 1 ? pairs * plan.slices * part_bytes(t) : 0;
}

// Slices of pairs, at most, of a launch whose largest weight is this one of `together`, or whose gate it is: so that
// any pairs from one weight's to all weights' are allowed for. Plans are not monotonous, and a model has few shapes.
int64_t most_parts(const DeviceWeight& weight, int64_t together) {
  const DeviceFormat* f = device_format(weight.dtype);
  if (f == nullptr) return 0;
  static std::mutex mutex;
  static std::map<std::array<int64_t, 4>, int64_t> known;
  const int64_t units = records_of(*f, weight.k) * f->units, least = pairs_of(weight.n);
  const std::lock_guard lock(mutex);
  const auto [at, is_new] = known.try_emplace({static_cast<int64_t>(weight.dtype), units, weight.n, together}, 0);
  if (!is_new) return at->second;
  for (int64_t pairs = least; pairs <= std::max<int64_t>(2, together) * least && pairs <= kMaxCountedPairs; ++pairs) {
    const Plan plan = plan_of(*f, pairs, units);
    if (plan.slices > 1) at->second = std::max(at->second, pairs * plan.slices);
  }
  return at->second;
}

Status dispatch(DType dtype, const Args& args, Stream stream, bool pdl) {
  return with_type(dtype, [&]<DType kType>() { return small::launch_small<kType>(args, stream, pdl); });
}

int64_t shared_bytes_of(DType dtype, const Args& args) {
  return small::shared_bytes(*device_format(dtype), args.units, args.plan, small::token_tiles_of(args.x.t));
}

// Blocks of so many bytes of shared memory that the card runs at once.
int64_t blocks_at_once(int64_t bytes, int token_tiles) {
  const int64_t room = card().shared_bytes / (bytes + 1024);
  return card().processors * std::clamp<int64_t>(room, 1, small::blocks_at_once(token_tiles));
}

int64_t blocks_of(const Args& args) { return int64_t{args.plan.slices} * args.slice_blocks; }

// Blocks of a slice that have each warp walk one pair at most.
int64_t one_round(const Args& args) {
  const int64_t row_warps = small::most_warps(small::token_tiles_of(args.x.t)) / args.plan.k_warps;
  return ceil_div<int64_t>(args.pairs, row_warps);
}

// Pairs of the multiprocessor that has most of them, roughly: blocks fill multiprocessors in turn.
int64_t busiest_pairs(const Args& args, int64_t slice_blocks) {
  const int64_t processors = card().processors, blocks = ceil_div(args.plan.slices * slice_blocks, processors);
  const int64_t longer = args.plan.slices * (args.pairs % slice_blocks);  // blocks with a pair more
  return blocks * (args.pairs / slice_blocks) + std::min(blocks, ceil_div(longer, processors));
}

// Divides pairs among at most `blocks` blocks: one round of them if there is room, or more blocks with fewer pairs
// where that leaves the busiest multiprocessor a quarter less to do. Not for plain weights, which bytes bound and not
// instructions: a second block on a multiprocessor then only keeps the next launch out (Llama-3.1-8B's shape in bf16:
// 163 tokens/s instead of 171).
void set_blocks(bool plain, int64_t blocks, Args* args) {
  const int64_t slices = args->plan.slices, most = std::clamp<int64_t>(blocks / slices, 1, args->pairs);
  int64_t best = std::min(most, one_round(*args));
  for (int64_t each = 1; !plain && each <= small::blocks_at_once(1); ++each) {
    const int64_t filling = std::min(most, each * card().processors / slices);
    if (filling > best && 4 * busiest_pairs(*args, filling) <= 3 * busiest_pairs(*args, best)) best = filling;
  }
  args->slice_blocks = static_cast<int32_t>(best);
}

// Everything of the arguments that follows from the weights' type, K and the number of pairs.
Status finish_args(DType dtype, const SmallLinearInput& x, int64_t pairs, std::byte* workspace, Args* args) {
  const DeviceFormat* f = device_format(dtype);
  if (f == nullptr) return unsupported(fmt::format("CUDA: no matrix product with {} weights", dtype_name(dtype)));
  const int64_t units = records_of(*f, x.k) * f->units;
  args->x = x;
  args->pairs = static_cast<int32_t>(pairs);
  args->units = static_cast<int32_t>(units);
  args->tile_bytes = tile_bytes(*f, x.k);
  args->plan = plan_of(*f, pairs, units);
  if (args->plan.slices == 0) {
    return unsupported(
        fmt::format("CUDA: {} columns of {} do not fit a block's shared memory", x.k, dtype_name(dtype)));
  }
  args->cut = small::cut_units(*f, units, args->plan);
  args->header_places = small::header_places(*f, args->cut);
  args->ring_bytes = small::ring_bytes(*f, args->cut);
  args->columns = static_cast<int32_t>(small::slice_columns(*f, units, args->plan));
  set_blocks(f->plain != 0, blocks_at_once(shared_bytes_of(dtype, *args), small::token_tiles_of(x.t)), args);
  args->arrived = reinterpret_cast<uint32_t*>(workspace);
  args->partials = reinterpret_cast<float4*>(workspace + kCountBytes);
  return ok_status();
}

// Types that share a launch: what the usual mixes have in one layer.
struct MixedTypes {
  DType first, second;
  Status (*launch)(const MixedArgs& args, Stream stream, bool pdl);
};
constexpr MixedTypes kMixedTypes[] = {
    {DType::Q4_K, DType::Q6_K, small::launch_mixed<DType::Q4_K, DType::Q6_K>},
    {DType::Q5_K, DType::Q6_K, small::launch_mixed<DType::Q5_K, DType::Q6_K>},
    {DType::Q4_K, DType::Q5_K, small::launch_mixed<DType::Q4_K, DType::Q5_K>},
    {DType::Q5_0, DType::Q8_0, small::launch_mixed<DType::Q5_0, DType::Q8_0>},
    {DType::Q5_1, DType::Q8_0, small::launch_mixed<DType::Q5_1, DType::Q8_0>},
};
// Null where each has a launch of its own.
const MixedTypes* mixed_types(DType a, DType b) {
  for (const MixedTypes& types : kMixedTypes) {
    if ((types.first == a && types.second == b) || (types.first == b && types.second == a)) return &types;
  }
  return nullptr;
}

// Both groups have their arguments for launches of their own. Only blocks and places in the workspace change.
Status launch_mixed(const MixedTypes& types, const Group& a, const Group& b, Stream stream, bool pdl) {
  const Group &first = a.dtype == types.first ? a : b, &second = a.dtype == types.first ? b : a;
  MixedArgs mixed{{first.args, second.args}, 0};
  Args &one = mixed.parts[0], &other = mixed.parts[1];
  const int token_tiles = small::token_tiles_of(one.x.t);
  other.arrived += kMaxCountedPairs;
  other.partials += partial_bytes(one.plan, one.pairs, one.x.t) / int64_t{sizeof(float4)};
  const int64_t bytes = std::max(shared_bytes_of(first.dtype, one), shared_bytes_of(second.dtype, other));
  const int64_t blocks = blocks_at_once(bytes, token_tiles);
  if (blocks_of(one) + blocks_of(other) > blocks) {
    // By what each has to read, but a round of each if there is room.
    const int64_t reads = one.pairs * one.tile_bytes, all_reads = reads + other.pairs * other.tile_bytes;
    const int64_t least = one.plan.slices * one_round(one), rest = other.plan.slices * one_round(other);
    int64_t share = std::clamp<int64_t>(blocks * reads / all_reads, 1, blocks - 1);
    if (least + rest <= blocks) share = std::clamp(share, least, blocks - rest);
    set_blocks(false, share, &one);
    set_blocks(false, blocks - share, &other);
  }
  mixed.first_blocks = static_cast<int32_t>(blocks_of(one));
  return types.launch(mixed, stream, pdl);
}

void check_input(const SmallLinearInput& x) {
  PARE_CHECK(x.t >= 1 && x.t <= kMaxSmallTokens && x.k >= 1 && x.ld >= x.k);
  if (x.x != nullptr) {
    PARE_CHECK(x.ld % 8 == 0);
  } else {
    PARE_CHECK(x.residual != nullptr && x.norm_weight != nullptr && x.t <= kMaxFusedNormTokens && x.k % 4 == 0 &&
               x.ld % 4 == 0);
  }
}

}  // namespace

size_t small_linear_workspace_bytes(std::span<const DeviceWeight> weights, int64_t t) {
  // Which of the weights share a launch is not known here. Launches that two types share have one token tile, and two
  // groups' sums of one are less than a group's of two or four.
  const auto together = static_cast<int64_t>(std::min<size_t>(weights.size(), kMaxSmallOutputs));
  int64_t most = 0;
  for (const DeviceWeight& weight : weights) most = std::max(most, most_parts(weight, together));
  const int token_tiles = small::token_tiles_of(t);
  return static_cast<size_t>(kCountBytes + most * part_bytes(t) * (token_tiles == 1 ? 2 : 1));
}

Status small_linear(const SmallLinearInput& x, std::span<const SmallLinearOutput> outputs, std::byte* workspace,
                    Stream stream, bool pdl) {
  check_input(x);
  auto groups = group_by_type<Args>(x.k, outputs, pairs_of);
  for (Group& group : groups.all()) {
    PARE_RETURN_IF_ERROR(finish_args(group.dtype, x, group.units, workspace, &group.args));
  }
  const bool mixes = small::token_tiles_of(x.t) == 1;
  bool launched[kMaxSmallOutputs] = {};
  for (int i = 0; i < groups.count; ++i) {
    if (launched[i]) continue;
    const Group& group = groups.items[i];
    const MixedTypes* types = nullptr;
    for (int j = i + 1; j < groups.count && mixes && types == nullptr; ++j) {
      if (launched[j]) continue;
      types = mixed_types(group.dtype, groups.items[j].dtype);
      if (types == nullptr) continue;
      PARE_RETURN_IF_ERROR(launch_mixed(*types, group, groups.items[j], stream, pdl));
      launched[j] = true;
    }
    if (types == nullptr) PARE_RETURN_IF_ERROR(dispatch(group.dtype, group.args, stream, pdl));
  }
  return ok_status();
}

Status small_glu(const SmallLinearInput& x, const DeviceWeight& gate, const DeviceWeight& up, Activation act,
                 uint16_t* y, int64_t ld_y, std::byte* workspace, Stream stream, bool pdl) {
  check_input(x);
  Args args{};
  PARE_RETURN_IF_ERROR(set_glu(x.k, gate, up, act, y, ld_y, &args));
  PARE_RETURN_IF_ERROR(finish_args(gate.dtype, x, tiles_of(gate.n), workspace, &args));
  return dispatch(gate.dtype, args, stream, pdl);
}

}  // namespace pare::cuda
