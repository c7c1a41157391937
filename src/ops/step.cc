#include "ops/step.h"

#include "base/host_memory.h"
#include "ops/device_ops.h"

namespace pare::ops {
void begin_step(ExecContext& ctx, int parity) {
  ctx.arena.reset();
  ctx.tables.reset();
  if (ctx.device_ops) ctx.tables = ctx.device_ops->begin_step(parity);
}

void upload_step(ExecContext& ctx, StepPlans& plans, std::span<Tensor* const> tensors, SampleBatch* batch) {
  if (ctx.device_ops) ctx.device_ops->upload(plans, tensors, batch, ctx.tables);
}

bool begin_launch(ExecContext& ctx, const StepPlans& plans, std::span<Tensor* const> tensors,
                  const SampleBatch& batch) {
  if (!ctx.device_ops) return true;
  const bool run = ctx.device_ops->begin_launch(plans, tensors, batch);
  ctx.counters.kv_bytes += ctx.device_ops->decode_kv_bytes();
  ctx.launch_begin = ctx.counters;
  if (const ExecCounters* cost = ctx.device_ops->launch_cost(); cost && !run) {
    ctx.counters.weight_bytes += cost->weight_bytes;
    ctx.counters.macs += cost->macs;
  }
  return run;
}

Status end_launch(ExecContext& ctx) {
  if (!ctx.device_ops) return ok_status();
  if (ExecCounters* cost = ctx.device_ops->launch_cost()) {
    cost->weight_bytes = ctx.counters.weight_bytes - ctx.launch_begin.weight_bytes;
    cost->macs = ctx.counters.macs - ctx.launch_begin.macs;
  }
  return ctx.device_ops->end_launch();
}

Status finish_step(ExecContext& ctx, int parity) {
  return ctx.device_ops ? ctx.device_ops->finish_step(parity) : ok_status();
}

StepSpan step_span(const ExecContext& ctx, int parity) {
  return ctx.device_ops ? ctx.device_ops->step_span(parity) : StepSpan{};
}

Expected<std::span<const float>> read_values(ExecContext& ctx, const Tensor& x, std::vector<float>* buffer) {
  const size_t items = static_cast<size_t>(x.items());
  if (!ctx.device_ops) return std::span<const float>(x.as<float>(), items);
  buffer->resize(items);
  PARE_RETURN_IF_ERROR(ctx.device_ops->read(buffer->data(), x.data, items * sizeof(float)));
  return std::span<const float>(*buffer);
}

Expected<std::shared_ptr<std::byte>> make_output_memory(ExecContext& ctx, size_t bytes) {
  return ctx.device_ops ? ctx.device_ops->accelerator().allocate_pinned(bytes) : allocate_host_memory(bytes);
}

Expected<std::shared_ptr<std::byte>> make_device_memory(ExecContext& ctx, size_t bytes) {
  if (!ctx.device_ops) return allocate_host_memory(bytes);
  PARE_ASSIGN_OR_RETURN(auto memory, ctx.device_ops->accelerator().allocate(bytes));
  const std::vector<std::byte> zeros(bytes);
  PARE_RETURN_IF_ERROR(ctx.device_ops->accelerator().upload(memory.get(), zeros));
  return memory;
}

Status allocate_step_memory(ExecContext& ctx, const StepMemory& memory, const KvView& kv) {
  if (ctx.device_ops) {
    PARE_ASSIGN_OR_RETURN(ctx.arena, ctx.device_ops->allocate(memory, kv));
    return ok_status();
  }
  PARE_ASSIGN_OR_RETURN(AlignedBuffer arena, AlignedBuffer::allocate(memory.arena_bytes));
  ctx.arena = Arena(std::move(arena));
  PARE_ASSIGN_OR_RETURN(AlignedBuffer tables, AlignedBuffer::allocate(memory.tables_bytes));
  ctx.tables = Arena(std::move(tables));
  return ok_status();
}

int32_t preferred_tile_rows(const ExecContext& ctx, int32_t group, int32_t head_dim) {
  return ctx.device_ops ? ctx.device_ops->preferred_tile_rows(group, head_dim)
                        : pare::preferred_tile_rows(ctx.level, group, head_dim);
}

}  // namespace pare::ops
