// Times of the CUDA prefill kernel for one plan over one prompt, with random operands.
#pragma once

#include <string>
#include <vector>

#include "eval/attention_bench.h"
#include "eval/cuda/kernel_run.h"
#include "kernels/cuda/cudnn_attention.h"
#include "plan/block_plan.h"

namespace pare::cuda {

inline constexpr int kPrefillTileRows = 128;

struct HostPlan {
  std::vector<QTile> tiles;
  std::vector<KeyList> lists{1};
  std::vector<Range> ranges;
  std::vector<int32_t> cols;
  std::vector<uint32_t> bits;
  double pairs = 0;                 // attended (row, key) pairs of all heads
  CudnnAttention* cudnn = nullptr;  // runs it in place of our kernel, the copy of its rows included; the plan is causal
};

// One layer's attention of `rows` rows that are a whole prompt.
Status measure_prefill(KernelRun& run, const std::string& group, const std::string& name, const HostPlan& plan,
                       const AttentionShape& shape, int rows);

}  // namespace pare::cuda
