// Models of published shapes with random weights: what a model of that size costs, without its file. For speed only.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "io/model_file.h"
#include "pare/status.h"
#include "tensor/dtype.h"

namespace pare {

// Sizes as a published config.json has them.
struct ModelShape {
  std::string_view name;  // "llama-3.1-8b"
  std::string_view type;  // of the architecture: "llama", "qwen2", "qwen3"
  int32_t layers = 0, dim = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn_dim = 0, vocab = 0, context = 0;
  double rope_base = 0.0;
  double rope_factor = 0.0;  // of llama3 scaling over 8,192 tokens, with frequency factors 1 and 4; 0: no scaling
  double norm_eps = 1e-6;
  bool tied = false;  // the head is the embedding table
};

std::span<const ModelShape> published_shapes();
// kNotFound lists the names.
Expected<ModelShape> find_shape(std::string_view name);

// A model of this shape with every matrix in `dtype`: values of a normal distribution of deviation 0.02, norms of ones,
// and a tokenizer of 256 bytes. All tensors share one buffer little larger than the largest of them. kInvalidArgument
// when a row does not consist of whole blocks, kUnsupported when there is no encoder for the format.
Expected<ModelFile> random_model(const ModelShape& shape, DType dtype);

}  // namespace pare
