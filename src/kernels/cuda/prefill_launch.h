// Between the entry and the files that instantiate kernels, one head dimension each.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace pare::cuda::prefill {

struct Arguments;

// Launches the Hopper kernel of a head dimension on `blocks` blocks.
cudaError_t launch_hopper_64(const Arguments& args, bool bf16, const CUtensorMap& page_map,
                             const CUtensorMap& granule_map, int blocks, cudaStream_t stream);
cudaError_t launch_hopper_96(const Arguments& args, bool bf16, const CUtensorMap& page_map,
                             const CUtensorMap& granule_map, int blocks, cudaStream_t stream);
cudaError_t launch_hopper_128(const Arguments& args, bool bf16, const CUtensorMap& page_map,
                              const CUtensorMap& granule_map, int blocks, cudaStream_t stream);
cudaError_t launch_hopper_256(const Arguments& args, bool bf16, const CUtensorMap& page_map,
                              const CUtensorMap& granule_map, int blocks, cudaStream_t stream);
cudaError_t launch_plain(const Arguments& args, bool bf16, int blocks, cudaStream_t stream);

}  // namespace pare::cuda::prefill
