#include "ops/exec.h"

#include "ops/device_ops.h"

namespace pare {

ExecContext::ExecContext(ThreadPool* threads, CpuLevel cpu_level, Arena step_arena,
                         std::unique_ptr<ops::DeviceOps> accelerator_ops)
    : pool(*threads),
      device_ops(std::move(accelerator_ops)),
      device(device_ops ? device_ops->device() : Device{}),
      level(cpu_level),
      linear(linear_kernels(cpu_level)),
      elementwise(elementwise_kernels(cpu_level)),
      attention(attention_kernels(cpu_level)),
      arena(std::move(step_arena)) {}

ExecContext::ExecContext(ThreadPool* threads, CpuLevel cpu_level, Arena step_arena)
    : ExecContext(threads, cpu_level, std::move(step_arena), nullptr) {}

ExecContext::~ExecContext() = default;

}  // namespace pare
