// The life of a step: what the host writes for it, how that reaches the ops, when its results are there. On the CPU
// the ops run when they are called and all of this is nearly nothing; an accelerator runs them later (device_ops.h).
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "ops/exec.h"
#include "ops/sample.h"
#include "pare/status.h"
#include "plan/step.h"

namespace pare::ops {

// What the steps of an engine need at most. allocate_step_memory takes all of it, once, before the first step: the
// context's arena and tables, and on an accelerator what its kernels need beside them.
struct StepMemory {
  size_t arena_bytes = 0, tables_bytes = 0;
  int64_t max_sequences = 0, max_context = 0;
  int32_t n_heads = 0;                            // query heads
  uint16_t plan_flags = 0;                        // BlockPlan::flags of all plans
  int64_t decode_slots = 0;                       // SegmentPlan::parts_cap of a class at most
  std::array<size_t, kMaxPools> pool_bytes = {};  // of the store, by pool
  bool graphs = true;                             // accelerators: replay decode steps of equal shape
  bool strict = false;                            // accelerators: EngineOptions::strict
  bool timed = true;                              // accelerators: EngineOptions::step_stamps
};
Status allocate_step_memory(ExecContext& ctx, const StepMemory& memory, const KvView& kv);

// Query positions per tile that prefill runs best with, for BlockPlan::tile_rows.
int32_t preferred_tile_rows(const ExecContext& ctx, int32_t group, int32_t head_dim);

// Empties the context's arena and tables. Two steps may be alive, of parity 0 and 1.
void begin_step(ExecContext& ctx, int parity);

// Makes the plans, tensors and draws that were written into ctx.tables (or into the store) visible to the ops: on an
// accelerator they then name its copy, and the host reads them no more.
void upload_step(ExecContext& ctx, StepPlans& plans, std::span<Tensor* const> tensors, SampleBatch* batch);

bool begin_launch(ExecContext& ctx, const StepPlans& plans, std::span<Tensor* const> tensors, const SampleBatch& batch);
Status end_launch(ExecContext& ctx);

// Runs `body`, which calls ops and nothing else; or, on an accelerator that has captured the same calls before, replays
// them. What the calls are must follow from plans (their counts and addresses), tensors and batch alone.
Status launch_step(ExecContext& ctx, const StepPlans& plans, std::span<Tensor* const> tensors, const SampleBatch& batch,
                   auto&& body) {
  if (begin_launch(ctx, plans, tensors, batch)) body();
  return end_launch(ctx);
}

// Waits until the outputs of the last step of this parity are in host memory. Reports what failed on the device.
Status finish_step(ExecContext& ctx, int parity);

// When the launches of a step ran, by the accelerator's own clock: nanoseconds since some moment. From its first
// launch's first thread, once everything before has ended, to the last thread of its draws.
struct StepSpan {
  int64_t begin_ns = 0, end_ns = 0;  // both 0: not timed
};
// Of the last finished step of this parity, until the next one begins. Not timed: on the CPU, without
// StepMemory::timed, and steps that do not begin with select_tokens or draw nothing.
StepSpan step_span(const ExecContext& ctx, int parity);

// An fp32 result in host memory: the tensor itself on the CPU, else a copy in `buffer`, for which the step so far is
// waited for.
Expected<std::span<const float>> read_values(ExecContext& ctx, const Tensor& x, std::vector<float>* buffer);

// Host memory that sample() writes its results to.
Expected<std::shared_ptr<std::byte>> make_output_memory(ExecContext& ctx, size_t bytes);
// Memory where the ops run, zeroed.
Expected<std::shared_ptr<std::byte>> make_device_memory(ExecContext& ctx, size_t bytes);

}  // namespace pare::ops
