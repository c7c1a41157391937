// Model: weights plus a forward pass. Immutable after load, so any number of engines may run one model, each with its
// own execution context and KV store.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "model/config.h"
#include "ops/accelerator.h"
#include "ops/ops.h"
#include "pare/status.h"
#include "plan/step.h"

namespace pare {

// One step's work, all of it tensors where the model lives.
struct StepInputs {
  Tensor tokens;      // [T] i32 ids in [0, V)
  Tensor positions;   // [T] i32 absolute positions
  Tensor logit_rows;  // [n] i32 rows of T whose logits are wanted, ascending; encoders: rows is empty
  const StepPlans* plans = nullptr;
};

struct WeightPlace;

class Model {
 public:
  virtual ~Model() = default;

  const ModelConfig& config() const { return config_; }
  // Bytes of packed weights held.
  uint64_t weight_bytes() const { return store_bytes_; }
  // Weight bytes that a one-token step must read: every matrix once, one embedding row.
  uint64_t decode_weight_bytes() const { return decode_bytes_; }

  // Arena bytes that forward takes for at most `rows` rows of which `logit_rows` want logits, on `threads` threads.
  virtual size_t workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t logit_rows, int32_t tile_rows) const = 0;

  // Runs the step. Decoders fill out [n, V] with logits; encoders fill out [T, E] with the last hidden rows. The
  // caller checked ids and positions. Takes from ctx.arena and gives back all of it.
  virtual void forward(ExecContext& ctx, const StepInputs& inputs, Tensor* out) const = 0;

 protected:
  explicit Model(ModelConfig config) : config_(std::move(config)) {}
  ModelConfig config_;
  uint64_t store_bytes_ = 0, decode_bytes_ = 0;
};

// Where a model's weights go: this machine's memory, or a card's.
struct WeightPlace {
  ThreadPool* pool = nullptr;                     // packs them; used during the load only
  std::shared_ptr<ops::Accelerator> accelerator;  // null: host memory
};

// Reads configuration and weights of any registered architecture. Errors name the file's architecture, field or
// tensor.
Expected<std::unique_ptr<Model>> load_model(const ModelFile& file, const WeightPlace& place);
// The configuration alone: cheap, for `inspect`.
Expected<ModelConfig> read_model_config(const ModelFile& file);

// A family of models: how to recognise and read one. Registered in registry.cc.
struct Architecture {
  std::string_view gguf_name;  // general.architecture
  std::string_view hf_type;    // model_type in config.json
  Expected<ModelConfig> (*read_config)(const ModelFile& file);
  Expected<std::unique_ptr<Model>> (*load)(ModelConfig config, const ModelFile& file, const WeightPlace& place);
};
std::span<const Architecture> architectures();

}  // namespace pare
