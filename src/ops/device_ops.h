// DeviceOps: the ops of ops.h and sample.h on an accelerator, and the life of a step there. The functions of those
// headers forward to it when the context has one; nobody else calls it.
//
// A step: begin_step hands out the host tables of this parity; plans and inputs are written into them; upload copies
// them beside the step that still runs and makes plans and tensors name the device's copy; between begin_launch and
// end_launch the ops are queued, or an earlier capture of the same launches is replayed; finish_step waits. At most two
// steps are alive, of different parity.
//
// Errors: ops queue work and cannot fail at once. The first error is kept and returned by end_launch or finish_step.
// One thread.
#pragma once

#include <initializer_list>
#include <span>

#include "ops/accelerator.h"
#include "ops/ops.h"
#include "ops/sample.h"
#include "ops/step.h"

namespace pare::ops {

class DeviceOps {
 public:
  virtual ~DeviceOps() = default;

  virtual Accelerator& accelerator() = 0;
  virtual Device device() const = 0;

  // --- memory of a step ---
  // Once: all memory that steps will use. Returns the arena of temporaries.
  virtual Expected<Arena> allocate(const StepMemory& memory, const KvView& kv) = 0;
  virtual int32_t preferred_tile_rows(int32_t group, int32_t head_dim) const = 0;
  virtual Arena begin_step(int parity) = 0;  // tables in pinned host memory
  virtual SampleBatch stage(Arena& tables, const SampleRow* rows, int64_t n) = 0;
  virtual void upload(StepPlans& plans, std::span<Tensor* const> tensors, SampleBatch* batch, Arena& tables) = 0;
  // False: the same launches were replayed, the caller must not queue them.
  virtual bool begin_launch(const StepPlans& plans, std::span<Tensor* const> tensors, const SampleBatch& batch) = 0;
  virtual Status end_launch() = 0;
  // Weight bytes and products of the step at hand, kept with its captured launches so that replays count too; null
  // where nothing is kept.
  virtual ExecCounters* launch_cost() = 0;
  // Bytes of stored rows that the step's decode rows read, every layer.
  virtual uint64_t decode_kv_bytes() const = 0;
  virtual Status finish_step(int parity) = 0;
  virtual StepSpan step_span(int parity) const = 0;
  // Waits for everything queued and copies; for observers and tests.
  virtual Status read(void* host, const void* device, size_t bytes) = 0;

  // --- ops.h, the same contracts ---
  virtual Tensor make_activations(Arena& arena, std::initializer_list<int64_t> shape) = 0;
  virtual void embed(const Weight& table, const Tensor& ids, float scale, Tensor& out) = 0;
  virtual void rms_norm(const Tensor& x, const float* weight, float eps, LinearInput& out) = 0;
  virtual void rms_norm_add(Tensor& x, const float* weight, float eps, Tensor& residual) = 0;
  virtual void layer_norm(const Tensor& x, const float* weight, const float* bias, float eps, LinearInput& out) = 0;
  virtual void linear(const LinearInput& x, std::span<const LinearOutput> outputs) = 0;
  virtual void glu_linear(Arena& arena, const LinearInput& x, const Weight& gate, const Weight& up, Activation act,
                          LinearInput& out) = 0;
  virtual void linear_activate(Arena& arena, const LinearInput& x, const Weight& w, const float* bias, Activation act,
                               LinearInput& out) = 0;
  virtual RopeTable make_rope_table(Arena& arena, const Tensor& positions, std::span<const double> inv_freq,
                                    float magnitude) = 0;
  virtual void attend_layer(Arena& arena, const StepPlans& plans, int32_t l, float logit_scale,
                            const HeadTransform& heads, Tensor& q, Tensor& k, const Tensor& v, LinearInput& out) = 0;
  virtual void copy_pages(const StepPlans& plans) = 0;
  virtual void move_rows(const StepPlans& plans, std::span<const RowMove> moves) = 0;  // queues them; moves: host
  virtual void gather_rows(const Tensor& x, const Tensor& rows, Tensor& out) = 0;
  virtual void add(const Tensor& x, Tensor& y) = 0;
  virtual void add_row(const float* row, Tensor& y) = 0;
  virtual void copy(const Tensor& x, Tensor& y) = 0;
  virtual void scale(float factor, Tensor& x) = 0;
  virtual void softcap(float cap, Tensor& x) = 0;
  virtual void mean_pool(const Tensor& x, const Tensor& begin, bool normalize, Tensor& out) = 0;

  // --- sample.h ---
  virtual void sample(Arena& arena, const SampleBatch& batch, const Tensor& logits, const SampleOutput& out,
                      Tensor& last_tokens) = 0;
  virtual void select_tokens(const Tensor& known, const Tensor& slots, const Tensor& last_tokens, Tensor& out) = 0;
  virtual void store_token(Arena& tables, int64_t row, int32_t slot, Tensor& last_tokens) = 0;

  // Arena bytes that the ops of the same name take, for the planner.
  virtual size_t glu_workspace_bytes(int64_t rows, int64_t n) const = 0;
  virtual size_t sample_workspace_bytes(int64_t rows, int64_t vocab) const = 0;
};

}  // namespace pare::ops
