// Embedder: sentence vectors from an encoder. One batch is one step; every text is whole in it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kv/policy.h"
#include "kv/store.h"
#include "pare/status.h"
#include "plan/layer_map.h"
#include "runtime/loaded_model.h"

namespace pare {

class Embedder {
 public:
  // Errors: not an encoder, threads out of range, memory.
  static Expected<std::unique_ptr<Embedder>> create(std::shared_ptr<const LoadedModel> model, int32_t threads);

  int32_t dim() const { return model_->model->config().dim; }
  int32_t tokens_max() const { return model_->model->config().context_max; }

  // One vector of dim() a text: the mean of its rows, of length 1. Token lists hold 1 to tokens_max() ids. A text's
  // vector does not depend on what else is in the call.
  Expected<std::vector<std::vector<float>>> embed(std::span<const std::vector<TokenId>> texts);

 private:
  Embedder() = default;
  Status embed_batch(std::span<const std::vector<TokenId>> texts, std::vector<std::vector<float>>* out);

  std::shared_ptr<const LoadedModel> model_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<ExecContext> context_;
  uint16_t tile_rows_ = 0;
  LayerMap layers_;
  KvPolicyChoice policy_;
  std::unique_ptr<KvStore> store_;
};

}  // namespace pare
