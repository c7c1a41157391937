// Gemma 3 (text): normed query and key heads, norms before and after each half, GeGLU, scaled embeddings, and sliding
// layers with a RoPE base of their own.
#include <fmt/format.h>

#include <cmath>

#include "model/architectures.h"
#include "model/hparams.h"

namespace pare {
namespace {

// Which layers slide: an explicit list in newer configurations, else all but every `pattern`-th.
Status read_sliding(const Hparams& params, ModelConfig* c) {
  c->sliding.assign(c->n_layers, 0);
  if (!params.gguf() && params.metadata().has("layer_types")) {
    PARE_ASSIGN_OR_RETURN(const std::vector<std::string>* types, params.metadata().get_string_array("layer_types"));
    if (types->size() != c->sliding.size()) {
      return data_loss(fmt::format("'layer_types' names {} layers, the model has {}", types->size(), c->n_layers));
    }
    for (size_t l = 0; l < types->size(); ++l) {
      if ((*types)[l] != "sliding_attention" && (*types)[l] != "full_attention") {
        return unsupported(fmt::format("layer type '{}' of layer {}", (*types)[l], l));
      }
      c->sliding[l] = (*types)[l] == "sliding_attention";
    }
    return ok_status();
  }
  PARE_ASSIGN_OR_RETURN(const int32_t pattern,
                        params.size_or("attention.sliding_window_pattern", "sliding_window_pattern", 6));
  if (pattern < 1) return data_loss(fmt::format("sliding window pattern {} is not positive", pattern));
#ifdef PARE_FAULT_MODEL_SLIDING_LAYER
  for (int32_t l = 0; l < c->n_layers; ++l) c->sliding[l] = l % pattern != 0;
#else
  for (int32_t l = 0; l < c->n_layers; ++l) c->sliding[l] = (l + 1) % pattern != 0;
#endif
  return ok_status();
}

}  // namespace

Expected<ModelConfig> read_gemma3_config(const ModelFile& file) {
  const Hparams params(file, "gemma3");
  ModelConfig c;
  c.arch = "gemma3";
  PARE_RETURN_IF_ERROR(params.read_decoder(&c, 1'000'000.0));
  c.qk_norm = true;
  c.post_norms = true;
  c.norm_plus_one = !params.gguf();
  c.activation = Activation::kGeluTanh;
  c.embed_scale = std::sqrt(static_cast<float>(c.dim));
  PARE_ASSIGN_OR_RETURN(const double query_scalar, params.number_or("", "query_pre_attn_scalar", c.head_dim));
  if (!(query_scalar > 0.0)) return data_loss(fmt::format("query_pre_attn_scalar {} is not positive", query_scalar));
  c.attention_scale = static_cast<float>(1.0 / std::sqrt(query_scalar));
  PARE_ASSIGN_OR_RETURN(c.window, params.size_or("attention.sliding_window", "sliding_window", 0));
  PARE_RETURN_IF_ERROR(read_sliding(params, &c));
  c.rope_sliding.rot = c.rope.rot;
  const bool nested = params.metadata().has("rope_parameters.sliding_attention.rope_theta");
  PARE_ASSIGN_OR_RETURN(
      c.rope_sliding.base,
      params.number_or("rope.freq_base_swa",
                       nested ? "rope_parameters.sliding_attention.rope_theta" : "rope_local_base_freq", 10'000.0));
  PARE_RETURN_IF_ERROR(validate(c));
  return c;
}

}  // namespace pare
