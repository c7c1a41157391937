// What a model is: sizes and switches read from its file, validated once, never changed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_file.h"
#include "kernels/elementwise.h"
#include "pare/status.h"

namespace pare {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

struct RopeConfig {
  double base = 10'000.0;
  int32_t rot = 0;  // rotated channels of a head, even
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double original_context = 0.0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // YaRN
  double attention_factor = 0.0;                         // YaRN; 0 = 0.1 ln(factor) + 1
  std::vector<float> freq_factors;                       // GGUF rope_freqs.weight: divides each frequency
};

// Angular frequency of each rotated pair [rot/2], scaling applied.
std::vector<double> rope_inv_freq(const RopeConfig& rope);
// What cos and sin are multiplied with (YaRN; 1 otherwise).
float rope_magnitude(const RopeConfig& rope);

struct ModelConfig {
  std::string arch;  // "llama", "qwen2", ...
  bool encoder = false;
  int32_t n_layers = 0;     // L
  int32_t dim = 0;          // E
  int32_t n_heads = 0;      // H
  int32_t n_kv_heads = 0;   // K
  int32_t head_dim = 0;     // D
  int32_t ffn_dim = 0;      // F
  int32_t vocab = 0;        // V
  int32_t context_max = 0;  // tokens
  int32_t type_vocab = 0;   // encoders: token types
  float norm_eps = 1e-5f;
  Activation activation = Activation::kSilu;
  bool qkv_bias = false, qk_norm = false, post_norms = false;
  bool norm_plus_one = false;     // the file stores RMS weights minus one (gemma from safetensors)
  bool rows_interleaved = false;  // Q and K rows stored for interleaved RoPE (GGUF llama)
  bool normalize_embedding = false;
  float embed_scale = 1.0f;
  float attention_scale = 1.0f;
  float logit_softcap = 0.0f;
  int32_t window = 0;            // sliding layers attend keys with i - j < window; 0 = no such layers
  std::vector<uint8_t> sliding;  // [L] 1 = sliding layer
  RopeConfig rope, rope_sliding;

  bool is_sliding(int32_t layer) const { return window > 0 && sliding[layer] != 0; }
  // KV bytes of one token over all layers in fp16, dense.
  int64_t kv_bytes_per_token() const { return int64_t{2} * 2 * n_layers * n_kv_heads * head_dim; }
};

// Sizes within limits.h, heads divisible, everything a layer needs: errors name the field.
Status validate(const ModelConfig& config);

}  // namespace pare
