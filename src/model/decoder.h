// The decoder-only transformer that llama, qwen2, qwen3 and gemma3 share: what differs between them are switches of
// ModelConfig.
#pragma once

#include <memory>
#include <vector>

#include "model/model.h"
#include "model/weights.h"

namespace pare {

struct DecoderLayer {
  const float *attn_norm = nullptr, *attn_post_norm = nullptr, *ffn_norm = nullptr, *ffn_post_norm = nullptr;  // [E]
  const float *q_norm = nullptr, *k_norm = nullptr;                     // [D], qk_norm only
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;  // [H*D], [K*D], qkv_bias only
  ops::Weight q, k, v, o;                                               // [H*D, E], [K*D, E], [K*D, E], [E, H*D]
  ops::Weight gate, up, down;                                           // [F, E], [F, E], [E, F]
};

class Decoder : public Model {
 public:
  static Expected<std::unique_ptr<Model>> load(ModelConfig config, const ModelFile& file, const WeightPlace& place);

  size_t workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t logit_rows, int32_t tile_rows) const override;
  void forward(ExecContext& ctx, const StepInputs& inputs, Tensor* out) const override;

 private:
  explicit Decoder(ModelConfig config) : Model(std::move(config)) {}
  Status read_weights(const ModelFile& file, const WeightPlace& place);

  // One layer's halves, both adding to the residual x [T, E].
  void attention(ExecContext& ctx, int32_t l, const StepInputs& inputs, const ops::RopeTable& rope, Tensor& x,
                 ops::LinearInput* heads) const;
  void project_heads(ExecContext& ctx, const DecoderLayer& layer, const ops::LinearInput& heads, Tensor& x) const;
  void feed_forward(ExecContext& ctx, const DecoderLayer& layer, Tensor& x) const;

  WeightStore store_;
  ops::Weight embedding_, head_;  // [V, E]; the same bytes when tied
  const float* output_norm_ = nullptr;
  std::vector<DecoderLayer> layers_;
  std::vector<double> inv_freq_, inv_freq_sliding_;
};

}  // namespace pare
