// Between the entry and the files that instantiate kernels, one head dimension each.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention.h"

namespace pare::cuda::prefill {

inline constexpr int32_t kMaxTileRows = 128;

// A kernel's arguments, but the tensor maps.
struct Arguments {
  KvView kv;
  BlockPlan plan;
  const SeqStep* seqs;
  const void* q;
  void* out;
  float* lse;
  uint32_t* tickets;  // [2]: the next item to hand out; blocks that are done
  int32_t kv_layer, n_heads, head_dim, qa, qb, n_rows;
  int32_t pool;      // of the layer's pages
  int32_t group;     // R
  int32_t pack;      // heads of a KV head that one item takes
  float scale_log2;  // scale * log2(e): logits to powers of two; with a cap 2 log2(e) * scale / cap
  float cap_log2;    // softcap * log2(e); 0: none
};
// Whether the code that this card loaded is Hopper's: a build for older cards runs here too, with empty Hopper kernels.
bool has_hopper_code();
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
