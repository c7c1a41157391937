#include "quant/hf_names.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <numbers>

#include "base/limits.h"
#include "io/quote_name.h"

namespace pare {
namespace {

constexpr std::array kDecoders = {
    DecoderNames{"llama", "llama", true, false, false},
    DecoderNames{"qwen2", "qwen2", false, false, false},
    DecoderNames{"qwen3", "qwen3", false, false, false},
    DecoderNames{"gemma3_text", "gemma3", false, true, true},
};

struct NamePair {
  std::string_view hf, gguf;
};

constexpr NamePair kModelNames[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

// After "model.layers.N." and "blk.N.".
constexpr NamePair kLayerNames[] = {
    {"input_layernorm.weight", "attn_norm.weight"},    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},      {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},          {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.bias", "attn_v.bias"},          {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"}, {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},       {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
};
constexpr NamePair kTwoNorms[] = {{"post_attention_layernorm.weight", "ffn_norm.weight"}};
constexpr NamePair kFourNorms[] = {
    {"post_attention_layernorm.weight", "post_attention_norm.weight"},
    {"pre_feedforward_layernorm.weight", "ffn_norm.weight"},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight"},
};

using Side = std::string_view NamePair::*;

std::string_view translate(std::span<const NamePair> table, std::string_view name, Side from, Side to) {
  for (const NamePair& pair : table) {
    if (pair.*from == name) return pair.*to;
  }
  return {};
}

std::string translate_name(const DecoderNames& names, std::string_view name, Side from, Side to) {
  constexpr NamePair kLayerPrefix{"model.layers.", "blk."};
  if (const auto found = translate(kModelNames, name, from, to); !found.empty()) return std::string(found);
  if (!name.starts_with(kLayerPrefix.*from)) return {};
  const std::string_view rest = name.substr((kLayerPrefix.*from).size());
  int64_t layer = -1;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  const auto digits = static_cast<size_t>(end - rest.data());
  if (error != std::errc() || layer < 0 || digits >= rest.size() || rest[digits] != '.') return {};
  const std::string_view suffix = rest.substr(digits + 1);
  std::string_view found = translate(kLayerNames, suffix, from, to);
  if (found.empty()) {
    found = names.four_norms ? translate(kFourNorms, suffix, from, to) : translate(kTwoNorms, suffix, from, to);
  }
  return found.empty() ? std::string() : fmt::format("{}{}.{}", kLayerPrefix.*to, layer, found);
}

// Where RoPE's keys lie: newer configurations nest them under rope_parameters, for several layer types twice.
std::string rope_prefix(const Metadata& config) {
  if (config.has("rope_parameters.full_attention.rope_theta")) return "rope_parameters.full_attention.";
  return config.has("rope_parameters.rope_theta") ? "rope_parameters." : "rope_scaling.";
}

Expected<std::string_view> rope_type(const Metadata& config) {
  const std::string prefix = rope_prefix(config);
  return config.get_string_or(prefix + (config.has(prefix + "rope_type") ? "rope_type" : "type"), "default");
}

// GGUF readers expect these numbers in single precision.
double single(double value) { return static_cast<double>(static_cast<float>(value)); }

// Copies integers and numbers of a config.json to GGUF keys.
class KeyCopier {
 public:
  KeyCopier(const Metadata& config, std::string_view arch, Metadata* out) : config_(config), arch_(arch), out_(out) {}

  Status size(std::string_view from, std::string_view to) {
    PARE_ASSIGN_OR_RETURN(const int64_t value, config_.get_int(from, 1, INT32_MAX));
    set_size(to, value);
    return ok_status();
  }
  Status number(std::string_view from, std::string_view to) {
    PARE_ASSIGN_OR_RETURN(const double value, config_.get_float(from));
    set(to, single(value));
    return ok_status();
  }
  Status number_if_there(std::string_view from, std::string_view to) {
    return config_.has(from) ? number(from, to) : ok_status();
  }
  void set_size(std::string_view to, int64_t value) { set(to, static_cast<uint64_t>(value)); }
  void set(std::string_view to, MetaValue value) { out_->set(fmt::format("{}.{}", arch_, to), std::move(value)); }

 private:
  const Metadata& config_;
  std::string_view arch_;
  Metadata* out_;
};

Status copy_rope(const DecoderNames& names, const Metadata& config, int64_t head_dim, KeyCopier* copy) {
  const std::string prefix = rope_prefix(config);
  const bool nested = prefix.starts_with("rope_parameters");
  const double default_base = names.gguf_arch == "gemma3" ? 1e6 : 1e4;
  PARE_ASSIGN_OR_RETURN(const double base,
                        config.get_float_or(nested ? prefix + "rope_theta" : "rope_theta", default_base));
  copy->set("rope.freq_base", single(base));
  if (names.gguf_arch == "llama") copy->set_size("rope.dimension_count", head_dim);
  if (names.gguf_arch == "gemma3") {
    const std::string local = nested ? "rope_parameters.sliding_attention.rope_theta" : "rope_local_base_freq";
    PARE_RETURN_IF_ERROR(copy->number_if_there(local, "rope.freq_base_swa"));
  }
  PARE_ASSIGN_OR_RETURN(const std::string_view type, rope_type(config));
  if (type == "default" || type == "llama3") return ok_status();
  if (type != "linear" && type != "yarn")
    return unsupported(fmt::format("RoPE scaling {} (known: linear, llama3, yarn)", quote_name(type)));
  copy->set("rope.scaling.type", std::string(type));
  PARE_RETURN_IF_ERROR(copy->number(prefix + "factor", "rope.scaling.factor"));
  if (type == "linear") return ok_status();
  if (config.has(prefix + "attention_factor")) return unsupported("a YaRN attention_factor cannot be written to GGUF");
  PARE_RETURN_IF_ERROR(copy->number_if_there(prefix + "beta_fast", "rope.scaling.yarn_beta_fast"));
  PARE_RETURN_IF_ERROR(copy->number_if_there(prefix + "beta_slow", "rope.scaling.yarn_beta_slow"));
  return copy->size(prefix + "original_max_position_embeddings", "rope.scaling.original_context_length");
}

}  // namespace

const DecoderNames* find_decoder_names(std::string_view name) {
  for (const DecoderNames& names : kDecoders) {
    if (names.hf_type == name || names.gguf_arch == name) return &names;
  }
  return nullptr;
}

std::string to_gguf_name(const DecoderNames& names, std::string_view hf_name) {
  return translate_name(names, hf_name, &NamePair::hf, &NamePair::gguf);
}

std::string to_hf_name(const DecoderNames& names, std::string_view gguf_name) {
  return translate_name(names, gguf_name, &NamePair::gguf, &NamePair::hf);
}

Expected<Metadata> gguf_metadata_of_config(const DecoderNames& names, const Metadata& config) {
  Metadata out;
  out.set("general.architecture", std::string(names.gguf_arch));
  KeyCopier copy(config, names.gguf_arch, &out);
  PARE_RETURN_IF_ERROR(copy.size("num_hidden_layers", "block_count"));
  PARE_RETURN_IF_ERROR(copy.size("max_position_embeddings", "context_length"));
  PARE_RETURN_IF_ERROR(copy.size("hidden_size", "embedding_length"));
  PARE_RETURN_IF_ERROR(copy.size("intermediate_size", "feed_forward_length"));
  PARE_RETURN_IF_ERROR(copy.size("num_attention_heads", "attention.head_count"));
  PARE_RETURN_IF_ERROR(copy.size("vocab_size", "vocab_size"));
  PARE_RETURN_IF_ERROR(copy.number("rms_norm_eps", "attention.layer_norm_rms_epsilon"));
  PARE_ASSIGN_OR_RETURN(const int64_t heads, config.get_int("num_attention_heads", 1, kMaxHeads));
  PARE_ASSIGN_OR_RETURN(const int64_t kv_heads, config.get_int_or("num_key_value_heads", heads, 1, heads));
  PARE_ASSIGN_OR_RETURN(const int64_t dim, config.get_int("hidden_size", 1, kMaxModelDim));
  PARE_ASSIGN_OR_RETURN(const int64_t head_dim, config.get_int_or("head_dim", dim / heads, 1, kMaxHeadDim));
  copy.set_size("attention.head_count_kv", kv_heads);
  copy.set_size("attention.key_length", head_dim);
  copy.set_size("attention.value_length", head_dim);
  if (names.gguf_arch == "gemma3") PARE_RETURN_IF_ERROR(copy.size("sliding_window", "attention.sliding_window"));
  PARE_RETURN_IF_ERROR(copy_rope(names, config, head_dim, &copy));
  return out;
}

Expected<std::vector<float>> llama3_divisors(const Metadata& config) {
  PARE_ASSIGN_OR_RETURN(const std::string_view type, rope_type(config));
  if (type != "llama3") return std::vector<float>();
  const std::string prefix = rope_prefix(config);
  PARE_ASSIGN_OR_RETURN(const double base,
                        config.get_float_or(prefix == "rope_scaling." ? "rope_theta" : prefix + "rope_theta", 1e4));
  PARE_ASSIGN_OR_RETURN(const double factor, config.get_float(prefix + "factor"));
  PARE_ASSIGN_OR_RETURN(const double low, config.get_float_or(prefix + "low_freq_factor", 1.0));
  PARE_ASSIGN_OR_RETURN(const double high, config.get_float_or(prefix + "high_freq_factor", 4.0));
  PARE_ASSIGN_OR_RETURN(const double context, config.get_float(prefix + "original_max_position_embeddings"));
  PARE_ASSIGN_OR_RETURN(const int64_t heads, config.get_int("num_attention_heads", 1, kMaxHeads));
  PARE_ASSIGN_OR_RETURN(const int64_t dim, config.get_int("hidden_size", 1, kMaxModelDim));
  PARE_ASSIGN_OR_RETURN(const int64_t head_dim, config.get_int_or("head_dim", dim / heads, 2, kMaxHeadDim));
  if (!(high > low) || !(factor > 0.0))
    return data_loss("llama-3 RoPE scaling needs high_freq_factor above low_freq_factor and a positive factor");
  std::vector<float> divisors;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    // How often the channel turns over the original context decides how much of the factor it gets.
    const double turns = context * frequency / (2.0 * std::numbers::pi);
    double divisor = turns < low ? factor : 1.0;
    if (turns >= low && turns <= high) {
      const double smooth = (turns - low) / (high - low);
      divisor = 1.0 / ((1.0 - smooth) / factor + smooth);
    }
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

}  // namespace pare
