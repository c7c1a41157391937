// ExecContext: where and how the ops of one step run. Passed to every op; holds no model and no request.
#pragma once

#include <cstdint>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/cpu_level.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "tensor/tensor.h"

namespace pare {

// What a step did, for statistics lines and benches. Bytes are those that had to be read once, not cache traffic.
struct ExecCounters {
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t kv_rows = 0;
  uint64_t keys_visited = 0;
  uint64_t macs = 0;
};

class ExecContext {
 public:
  // `pool` outlives the context. The arena holds the temporaries of one step; the planner sizes it.
  ExecContext(ThreadPool* threads, CpuLevel cpu_level, Arena step_arena)
      : pool(*threads),
        level(cpu_level),
        linear(linear_kernels(cpu_level)),
        elementwise(elementwise_kernels(cpu_level)),
        attention(attention_kernels(cpu_level)),
        arena(std::move(step_arena)) {}

  ThreadPool& pool;
  Device device;
  CpuLevel level;
  const LinearKernels& linear;
  const ElementwiseKernels& elementwise;
  const AttentionKernels& attention;
  Arena arena;
  ExecCounters counters;
};

}  // namespace pare
