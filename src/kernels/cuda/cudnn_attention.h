// Prompt attention of dense layers through cuDNN (cudnn_graph.h), for comparison with prefill_attention.h: the same
// rows, the same store, the same output.
//
// Keys and values are gathered out of their pages into plain rows first, [K][S][D] each, layer by layer. cuDNN takes
// paged keys too, but does not say that it leaves out values behind a sequence's last row instead of multiplying them
// by weights of zero, and here they may be NaNs (plan/kv_layout.h). The copy reads and writes 8 S K D bytes: by an
// H100's rates 10 K / H percent of the attention of a chunk of 4,096 rows, 40 K / H of 1,024. Each (rows, keys) that a
// sequence brings anew waits a second or two for its kernel (cudnn_graph.h).
//
// Not here: log-sum-exp, softcap, windows, fewer active heads, other head maps than (H / K, 1). kUnsupported names it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cudnn_graph.h"
#include "pare/status.h"
#include "plan/block_plan.h"
#include "tensor/cuda/device_memory.h"

namespace pare::cuda {

// Rows [0, rows) of one sequence and layer out of their pages (zone full, Order::Rows, 16-bit codecs): k, v become
// [K][rows][D], 16-byte aligned. Every pointer is device memory; one launch, no allocation.
struct GatherPagesArgs {
  KvView kv;
  int32_t kv_layer = 0, page0 = 0;  // page0: into kv.page_ids
  int32_t rows = 0;
  void *k = nullptr, *v = nullptr;
};
Status gather_pages(const GatherPagesArgs& args, Stream stream);

// What one engine's prompts need. Device memory is taken by create() alone.
class CudnnAttention {
 public:
  struct Limits {
    int32_t heads = 0, kv_heads = 0, head_dim = 0;
    int64_t max_keys = 0;  // of a sequence
    DType dtype = DType::BF16;
  };
  // Compiles two kernels that are of no other use, so that what cuDNN does not have, NVRTC included, is known before
  // the first prompt: seconds. kUnsupported as there; kResourceExhausted: 4 max_keys K D bytes and cuDNN's workspace.
  static Expected<CudnnAttention> create(const Limits& limits);

  // Attention of the prefill rows of `seqs` (host memory; page0 into layer.kv.page_ids), whose plan is causal
  // (plan/causal_plan.h): two launches and more for each sequence. layer.seqs is not read. Not for captured steps.
  Status attend(const AttentionLayer& layer, std::span<const SeqStep> seqs, Stream stream);

  CudnnGraphs& graphs() { return *graphs_; }

 private:
  explicit CudnnAttention(const Limits& limits) : limits_(limits) {}
  Status check_layer(const AttentionLayer& layer) const;

  Limits limits_;
  std::unique_ptr<CudnnGraphs> graphs_;
  DeviceBuffer keys_, values_, workspace_;
};

}  // namespace pare::cuda
