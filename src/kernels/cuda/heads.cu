#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/launch.cuh"

namespace pare::cuda {
namespace {

constexpr int kBlock = 256;

__global__ void __launch_bounds__(kBlock) rope_table_kernel(RopeTableArgs args) {
  wait_for_inputs();
  start_dependents();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (at >= args.rows * args.half) return;
  const int64_t t = at / args.half;
  double sin, cos;
  sincos(args.positions[t] * args.inv_freq[at - t * args.half], &sin, &cos);
  args.cos[at] = args.magnitude * static_cast<float>(cos);
  args.sin[at] = args.magnitude * static_cast<float>(sin);
}

template <int kHeads, int kPairs, typename T, typename Q>
__global__ void __launch_bounds__(kBlock) heads_kernel(HeadsArgs args) {
  wait_for_inputs();
  start_dependents();
  const unsigned group = blockIdx.x * blockDim.y + threadIdx.y;
  transform_heads<kHeads, kPairs, T, Q>(args, group, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
}

template <int kHeads, int kPairs, typename T>
Status launch_heads(const HeadsArgs& args, Stream stream, bool pdl) {
  const int lanes = lanes_of_head(args.head_dim);
  const int64_t groups = args.rows * ceil_div(heads_of_row(args), kHeads);
  PARE_CHECK(groups <= INT32_MAX / 2);
  // A few rows are spread over many small blocks.
  const int threads = groups * lanes >= int64_t{kBlock} * 512 ? kBlock : 64;
  const dim3 block(lanes, threads / lanes), grid(static_cast<unsigned>(ceil_div<int64_t>(groups, block.y)));
  return args.q_type == DType::BF16
             ? launch(heads_kernel<kHeads, kPairs, T, __nv_bfloat16>, grid, block, 0, stream, pdl, args)
             : launch(heads_kernel<kHeads, kPairs, T, __half>, grid, block, 0, stream, pdl, args);
}

template <typename T>
Status dispatch_heads(const HeadsArgs& args, Stream stream, bool pdl) {
  // Below this many rows a lane with one head answers sooner than one with several.
  constexpr int64_t kFewRows = 128;
  constexpr int kHeadsOfLane = sizeof(T) == 2 ? 4 : 2;  // 128 bytes in flight
  if (args.head_dim > 512) return launch_heads<1, 2, T>(args, stream, pdl);
  return args.rows < kFewRows ? launch_heads<1, 1, T>(args, stream, pdl)
                              : launch_heads<kHeadsOfLane, 1, T>(args, stream, pdl);
}

}  // namespace

Status rope_table(const RopeTableArgs& args, Stream stream, bool pdl) {
  if (args.rows == 0 || args.half == 0) return ok_status();
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(args.rows * args.half, kBlock)));
  return launch(rope_table_kernel, grid, dim3(kBlock), 0, stream, pdl, args);
}

Status heads(const HeadsArgs& args, Stream stream, bool pdl) {
  PARE_CHECK(args.head_dim % 16 == 0 && args.head_dim <= 1024);
  PARE_CHECK(args.rot % 16 == 0 && args.rot <= args.head_dim);
  PARE_CHECK(args.q_pitch % 8 == 0 && args.k_pitch % 8 == 0 && args.v_pitch % 8 == 0);
  PARE_CHECK(args.type == DType::F32 || args.type == DType::BF16);
  PARE_CHECK(args.q_type == DType::BF16 || args.q_type == DType::F16);
  if (args.rows == 0) return ok_status();
  return args.type == DType::F32 ? dispatch_heads<float>(args, stream, pdl)
                                 : dispatch_heads<__nv_bfloat16>(args, stream, pdl);
}

}  // namespace pare::cuda
