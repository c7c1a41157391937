// Whether a BlockPlan says no more than "every row attends every earlier key": what kernels that know causal masks
// alone can run.
#pragma once

#include <cstdint>
#include <span>

#include "pare/status.h"
#include "plan/block_plan.h"

namespace pare {

// BlockPlan::flags. kPlanCudnn: the plan is causal, and cuDNN is to compute it; on CUDA only.
enum : uint16_t { kPlanCudnn = 1 };

// Ok iff the plan's tiles hold every prefill row of `seqs` with all n_heads heads, and each attends [0, its position].
// kUnsupported names what else is there. Host pointers. Cost: linear in tiles and sequences.
Status require_causal_plan(const BlockPlan& plan, std::span<const SeqStep> seqs, int32_t n_heads);

}  // namespace pare
