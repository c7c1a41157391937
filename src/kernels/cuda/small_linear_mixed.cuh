// Outputs of two types in one launch of small_linear.h. For the *.cu files that instantiate it.
//
// A block runs the one-type kernel's body for its own part, so that no sum changes; what is saved is a launch, and what
// a few blocks alone on the card wait for.
#pragma once

#include <algorithm>

#include "kernels/cuda/small_linear_kernel.cuh"

namespace pare::cuda::small {

template <DType kFirst, DType kSecond>
__global__ void __launch_bounds__(32 * most_warps(1), blocks_at_once(1))
    small_linear_mixed_kernel(const __grid_constant__ MixedArgs args) {
  __shared__ uint32_t last_flags[most_warps(1)];
  const int block = static_cast<int>(blockIdx.x);
  if (block < args.first_blocks) {
    multiply_block<kFirst, 1>(args.parts[0], block, last_flags);
  } else {
    multiply_block<kSecond, 1>(args.parts[1], block - args.first_blocks, last_flags);
  }
}

template <DType kFirst, DType kSecond>
Status launch_mixed(const MixedArgs& args, Stream stream, bool pdl) {
  const Args &first = args.parts[0], &second = args.parts[1];
  const int64_t bytes = std::max(shared_bytes(*device_format(kFirst), first.units, first.plan, 1),
                                 shared_bytes(*device_format(kSecond), second.units, second.plan, 1));
  const auto kernel = small_linear_mixed_kernel<kFirst, kSecond>;
  PARE_RETURN_IF_ERROR(allow_shared_memory(kernel, static_cast<size_t>(bytes)));
  const dim3 grid(static_cast<unsigned>(args.first_blocks + second.plan.slices * second.slice_blocks));
  return launch(kernel, grid, dim3(32 * most_warps(1)), static_cast<size_t>(bytes), stream, pdl, args);
}

}  // namespace pare::cuda::small
