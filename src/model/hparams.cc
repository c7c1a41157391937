#include "model/hparams.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace pare {

std::string Hparams::key(std::string_view gguf_suffix, std::string_view hf_key) const {
  if (!gguf_) return std::string(hf_key);
  if (gguf_suffix.empty()) return {};
  return gguf_suffix.find("tokenizer.") == 0 ? std::string(gguf_suffix) : fmt::format("{}.{}", arch_, gguf_suffix);
}

bool Hparams::has(std::string_view gguf_suffix, std::string_view hf_key) const {
  const std::string name = key(gguf_suffix, hf_key);
  return !name.empty() && meta_.has(name);
}

Expected<int32_t> Hparams::size(std::string_view gguf_suffix, std::string_view hf_key) const {
  PARE_ASSIGN_OR_RETURN(const int64_t value, meta_.get_int(key(gguf_suffix, hf_key), 0, INT32_MAX));
  return static_cast<int32_t>(value);
}

Expected<int32_t> Hparams::size_or(std::string_view gguf_suffix, std::string_view hf_key, int32_t fallback) const {
  const std::string name = key(gguf_suffix, hf_key);
  if (name.empty() || !meta_.has(name)) return fallback;
  PARE_ASSIGN_OR_RETURN(const int64_t value, meta_.get_int(name, 0, INT32_MAX));
  return static_cast<int32_t>(value);
}

Expected<double> Hparams::number_or(std::string_view gguf_suffix, std::string_view hf_key, double fallback) const {
  const std::string name = key(gguf_suffix, hf_key);
  if (name.empty()) return fallback;
  return meta_.get_float_or(name, fallback);
}

Status Hparams::read_decoder(ModelConfig* c, double default_base) const {
  PARE_ASSIGN_OR_RETURN(c->n_layers, size("block_count", "num_hidden_layers"));
  PARE_ASSIGN_OR_RETURN(c->dim, size("embedding_length", "hidden_size"));
  PARE_ASSIGN_OR_RETURN(c->ffn_dim, size("feed_forward_length", "intermediate_size"));
  PARE_ASSIGN_OR_RETURN(c->n_heads, size("attention.head_count", "num_attention_heads"));
  PARE_ASSIGN_OR_RETURN(c->n_kv_heads, size_or("attention.head_count_kv", "num_key_value_heads", c->n_heads));
  PARE_ASSIGN_OR_RETURN(c->context_max, size("context_length", "max_position_embeddings"));
  const int32_t derived = c->n_heads > 0 ? c->dim / c->n_heads : 0;
  PARE_ASSIGN_OR_RETURN(c->head_dim, size_or("attention.key_length", "head_dim", derived));
  PARE_ASSIGN_OR_RETURN(const int32_t value_dim, size_or("attention.value_length", "", c->head_dim));
  if (value_dim != c->head_dim) {
    return unsupported(fmt::format("value heads of {} beside key heads of {}", value_dim, c->head_dim));
  }
  PARE_ASSIGN_OR_RETURN(const double eps, number_or("attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6));
  c->norm_eps = static_cast<float>(eps);
  if (gguf_) {
    const auto* tokens = meta_.find("tokenizer.ggml.tokens");
    const auto* list = tokens ? std::get_if<std::vector<std::string>>(tokens) : nullptr;
    PARE_ASSIGN_OR_RETURN(const int64_t vocab,
                          meta_.get_int_or(fmt::format("{}.vocab_size", arch_),
                                           list ? static_cast<int64_t>(list->size()) : 0, 0, INT32_MAX));
    // The token list decides: some writers leave a stale vocab_size behind.
    c->vocab = list ? static_cast<int32_t>(list->size()) : static_cast<int32_t>(vocab);
  } else {
    PARE_ASSIGN_OR_RETURN(c->vocab, size("", "vocab_size"));
  }
  c->attention_scale = 1.0f / std::sqrt(static_cast<float>(std::max(1, c->head_dim)));
  return read_rope(c, default_base);
}

Status Hparams::read_rope(ModelConfig* c, double default_base) const {
  RopeConfig& rope = c->rope;
  // Newer Hugging Face configurations nest everything under rope_parameters.
  const std::string nested = meta_.has("rope_parameters.full_attention.rope_theta") ? "rope_parameters.full_attention."
                             : meta_.has("rope_parameters.rope_theta")              ? "rope_parameters."
                                                                                    : "";
  PARE_ASSIGN_OR_RETURN(
      rope.base, number_or("rope.freq_base", nested.empty() ? "rope_theta" : nested + "rope_theta", default_base));
  PARE_ASSIGN_OR_RETURN(rope.rot, size_or("rope.dimension_count", "", c->head_dim));
  const std::string hf = nested.empty() ? "rope_scaling." : nested;
  const std::string type_key =
      gguf_ ? key("rope.scaling.type", "") : hf + (meta_.has(hf + "rope_type") ? "rope_type" : "type");
  PARE_ASSIGN_OR_RETURN(const std::string_view type, meta_.get_string_or(type_key, "none"));
  PARE_ASSIGN_OR_RETURN(rope.factor, number_or("rope.scaling.factor", hf + "factor", 1.0));
  PARE_ASSIGN_OR_RETURN(rope.original_context, number_or("rope.scaling.original_context_length",
                                                         hf + "original_max_position_embeddings", c->context_max));
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    PARE_ASSIGN_OR_RETURN(rope.low_freq_factor, number_or("", hf + "low_freq_factor", 1.0));
    PARE_ASSIGN_OR_RETURN(rope.high_freq_factor, number_or("", hf + "high_freq_factor", 4.0));
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    PARE_ASSIGN_OR_RETURN(rope.beta_fast, number_or("rope.scaling.yarn_beta_fast", hf + "beta_fast", 32.0));
    PARE_ASSIGN_OR_RETURN(rope.beta_slow, number_or("rope.scaling.yarn_beta_slow", hf + "beta_slow", 1.0));
    // GGUF's attn_factor multiplies the default, Hugging Face's replaces it.
    PARE_ASSIGN_OR_RETURN(const double factor, number_or("rope.scaling.attn_factor", hf + "attention_factor", 0.0));
    rope.attention_factor =
        gguf_ && factor > 0.0 ? factor * (0.1 * std::log(std::max(1.0, rope.factor)) + 1.0) : factor;
  } else if (type != "none" && type != "default") {
    return unsupported(fmt::format("RoPE scaling '{}' (known: linear, llama3, yarn)", type));
  }
  return ok_status();
}

}  // namespace pare
