// The BERT-style encoder: bidirectional attention, learned positions, post-norms. Output: hidden rows [T, E].
#pragma once

#include <memory>
#include <vector>

#include "model/model.h"
#include "model/weights.h"

namespace pare {

struct EncoderLayer {
  ops::Weight q, k, v, o, up, down;
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr;
  const float *up_bias = nullptr, *down_bias = nullptr;
  const float *attn_norm = nullptr, *attn_norm_bias = nullptr, *ffn_norm = nullptr, *ffn_norm_bias = nullptr;
};

class Encoder : public Model {
 public:
  static Expected<std::unique_ptr<Model>> load(ModelConfig config, const ModelFile& file, const WeightPlace& place);

  size_t workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t logit_rows, int32_t tile_rows) const override;
  void forward(ExecContext& ctx, const StepInputs& inputs, Tensor* out) const override;

 private:
  explicit Encoder(ModelConfig config) : Model(std::move(config)) {}
  Status read_weights(const ModelFile& file, const WeightPlace& place);

  WeightStore store_;
  ops::Weight tokens_, positions_;  // [V, E], [context, E]
  const float *embed_norm_ = nullptr, *embed_norm_bias_ = nullptr;
  std::vector<EncoderLayer> layers_;
  const float* type_row_ = nullptr;  // [E]: every token is of type 0
};

}  // namespace pare
