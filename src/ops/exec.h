// ExecContext: where and how the ops of one step run. Passed to every op; holds no model and no request.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/arena.h"
#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/cpu_level.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "pare/attention_observer.h"
#include "tensor/tensor.h"

namespace pare::ops {
class DeviceOps;
}

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
  // On the CPU. `pool` outlives the context. The arena holds the temporaries of one step; the planner sizes it.
  ExecContext(ThreadPool* threads, CpuLevel cpu_level, Arena step_arena);
  // On an accelerator when `accelerator_ops` is given: the arena is then over its memory.
  ExecContext(ThreadPool* threads, CpuLevel cpu_level, Arena step_arena,
              std::unique_ptr<ops::DeviceOps> accelerator_ops);
  ~ExecContext();

  ThreadPool& pool;
  std::unique_ptr<ops::DeviceOps> device_ops;  // null: the CPU
  Device device;
  CpuLevel level;
  const LinearKernels& linear;
  const ElementwiseKernels& elementwise;
  const AttentionKernels& attention;
  Arena arena;                          // temporaries, where the ops run
  Arena tables;                         // what the host writes for one step; ops see it after upload_step
  AttentionObserver on_attention;       // may be empty
  ExecCounters counters, launch_begin;  // launch_begin: as they stood when the step at hand was launched
};

}  // namespace pare
