#include "model/encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "model/architectures.h"
#include "model/hparams.h"

namespace pare {
namespace {

bool quantized(const ops::Weight& w) { return wants_quantized_input(w.dtype); }

}  // namespace

Expected<ModelConfig> read_bert_config(const ModelFile& file) {
  const Hparams params(file, "bert");
  ModelConfig c;
  c.arch = "bert";
  c.encoder = true;
  c.normalize_embedding = true;
  c.activation = Activation::kGeluErf;
  PARE_ASSIGN_OR_RETURN(c.n_layers, params.size("block_count", "num_hidden_layers"));
  PARE_ASSIGN_OR_RETURN(c.dim, params.size("embedding_length", "hidden_size"));
  PARE_ASSIGN_OR_RETURN(c.ffn_dim, params.size("feed_forward_length", "intermediate_size"));
  PARE_ASSIGN_OR_RETURN(c.n_heads, params.size("attention.head_count", "num_attention_heads"));
  c.n_kv_heads = c.n_heads;
  c.head_dim = c.n_heads > 0 ? c.dim / c.n_heads : 0;
  PARE_ASSIGN_OR_RETURN(c.context_max, params.size("context_length", "max_position_embeddings"));
  PARE_ASSIGN_OR_RETURN(const double eps, params.number_or("attention.layer_norm_epsilon", "layer_norm_eps", 1e-12));
  c.norm_eps = static_cast<float>(eps);
  PARE_ASSIGN_OR_RETURN(c.type_vocab, params.size_or("", "type_vocab_size", 2));
  if (params.gguf()) {
    PARE_ASSIGN_OR_RETURN(const auto* tokens, params.metadata().get_string_array("tokenizer.ggml.tokens"));
    c.vocab = static_cast<int32_t>(tokens->size());
    PARE_ASSIGN_OR_RETURN(const int64_t types,
                          params.metadata().get_int_or("tokenizer.ggml.token_type_count", 2, 1, 256));
    c.type_vocab = static_cast<int32_t>(types);
  } else {
    PARE_ASSIGN_OR_RETURN(c.vocab, params.size("", "vocab_size"));
    PARE_ASSIGN_OR_RETURN(const std::string_view act, params.metadata().get_string_or("hidden_act", "gelu"));
    if (act != "gelu") return unsupported(fmt::format("hidden_act '{}' (known: gelu)", act));
  }
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(std::max(1, c.head_dim)));
  if (c.n_heads > 0 && c.dim % c.n_heads != 0) {
    return data_loss(fmt::format("embedding length {} is no multiple of {} heads", c.dim, c.n_heads));
  }
  PARE_RETURN_IF_ERROR(validate(c));
  return c;
}

Expected<std::unique_ptr<Model>> Encoder::load(ModelConfig config, const ModelFile& file, const WeightPlace& place) {
  std::unique_ptr<Encoder> model(new Encoder(std::move(config)));
  PARE_RETURN_IF_ERROR(model->read_weights(file, place));
  return std::unique_ptr<Model>(std::move(model));
}

Status Encoder::read_weights(const ModelFile& file, const WeightPlace& place) {
  const bool gguf = file.container() == ModelFile::Container::kGguf;
  WeightLoader loader(file, place, &store_);
  const int64_t e = config_.dim, f = config_.ffn_dim;
  // Checkpoints saved from a task model carry the "bert." prefix.
  const std::string prefix = loader.has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  const auto name = [&](const char* gguf_name, const char* hf_name) {
    return gguf ? std::string(gguf_name) : prefix + hf_name;
  };

  tokens_ = loader.matrix(name("token_embd.weight", "embeddings.word_embeddings.weight"), config_.vocab, e);
  positions_ =
      loader.matrix(name("position_embd.weight", "embeddings.position_embeddings.weight"), config_.context_max, e);
  type_row_ = loader.matrix_row(name("token_types.weight", "embeddings.token_type_embeddings.weight"),
                                config_.type_vocab, e, 0);
  embed_norm_ = loader.vector(name("token_embd_norm.weight", "embeddings.LayerNorm.weight"), e);
  embed_norm_bias_ = loader.vector(name("token_embd_norm.bias", "embeddings.LayerNorm.bias"), e);
  loader.ignore(prefix + "embeddings.position_ids");
  loader.ignore(prefix + "pooler.dense.weight");  // the classification head's; sentence embeddings pool by mean
  loader.ignore(prefix + "pooler.dense.bias");

  layers_.resize(config_.n_layers);
  for (int32_t l = 0; l < config_.n_layers; ++l) {
    const auto in_layer = [&](const char* gguf_name, const char* hf_name) {
      return gguf ? fmt::format("blk.{}.{}", l, gguf_name) : fmt::format("{}encoder.layer.{}.{}", prefix, l, hf_name);
    };
    EncoderLayer& layer = layers_[l];
    const auto dense = [&](const char* gguf_name, const char* hf_name, int64_t n, int64_t k, ops::Weight* w,
                           const float** b) {
      *w = loader.matrix(in_layer(gguf_name, hf_name) + ".weight", n, k);
      *b = loader.vector(in_layer(gguf_name, hf_name) + ".bias", n);
    };
    dense("attn_q", "attention.self.query", e, e, &layer.q, &layer.q_bias);
    dense("attn_k", "attention.self.key", e, e, &layer.k, &layer.k_bias);
    dense("attn_v", "attention.self.value", e, e, &layer.v, &layer.v_bias);
    dense("attn_output", "attention.output.dense", e, e, &layer.o, &layer.o_bias);
    dense("ffn_up", "intermediate.dense", f, e, &layer.up, &layer.up_bias);
    dense("ffn_down", "output.dense", e, f, &layer.down, &layer.down_bias);
    const auto norm = [&](const char* gguf_name, const char* hf_name, const float** w, const float** b) {
      *w = loader.vector(in_layer(gguf_name, hf_name) + ".weight", e);
      *b = loader.vector(in_layer(gguf_name, hf_name) + ".bias", e);
    };
    norm("attn_output_norm", "attention.output.LayerNorm", &layer.attn_norm, &layer.attn_norm_bias);
    norm("layer_output_norm", "output.LayerNorm", &layer.ffn_norm, &layer.ffn_norm_bias);
  }
  PARE_RETURN_IF_ERROR(loader.finish());
  store_bytes_ = decode_bytes_ = store_.bytes();
  return ok_status();
}

size_t Encoder::workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t, int32_t tile_rows) const {
  const int64_t e = config_.dim, f = config_.ffn_dim;
  const auto input = [&](int64_t k) { return static_cast<int64_t>(ops::linear_input_bytes(ctx, rows, k, true)); };
  const int64_t attention = rows * 3 * e * 4 + input(e) +
                            static_cast<int64_t>(ops::attend_workspace_bytes(ctx, rows, tile_rows, config_.n_heads,
                                                                             config_.n_heads, config_.head_dim));
  return static_cast<size_t>(2 * input(e) + 3 * rows * e * 4 + std::max(attention, input(f) + rows * f * 4) + 2048);
}

void Encoder::forward(ExecContext& ctx, const StepInputs& in, Tensor* out) const {
  const size_t start = ctx.arena.mark();
  const int64_t rows = in.tokens.items(), e = config_.dim;
  // x is the normed stream: every half reads it and adds to it before the next norm.
  ops::LinearInput x = ops::make_linear_input(ctx, rows, e, quantized(layers_[0].q));
  Tensor y = ops::make_f32(ctx, {rows, e});
  ops::embed(ctx, tokens_, in.tokens, 1.0f, y);
  {
    const size_t mark = ctx.arena.mark();
    Tensor positions = ops::make_f32(ctx, {rows, e});
    ops::embed(ctx, positions_, in.positions, 1.0f, positions);
    ops::add(ctx, positions, y);
    ctx.arena.release(mark);
  }
  ops::add_row(ctx, type_row_, y);
  ops::layer_norm(ctx, y, embed_norm_, embed_norm_bias_, config_.norm_eps, x);

  for (int32_t l = 0; l < config_.n_layers; ++l) {
    const EncoderLayer& layer = layers_[l];
    const size_t mark = ctx.arena.mark();
    Tensor q = ops::make_f32(ctx, {rows, config_.n_heads, config_.head_dim});
    Tensor k = ops::make_f32(ctx, {rows, config_.n_heads, config_.head_dim});
    Tensor v = ops::make_f32(ctx, {rows, config_.n_heads, config_.head_dim});
    ops::LinearInput heads = ops::make_linear_input(ctx, rows, e, quantized(layer.o));
    const std::array<ops::LinearOutput, 3> projections{{{&layer.q, layer.q_bias, &q, false},
                                                        {&layer.k, layer.k_bias, &k, false},
                                                        {&layer.v, layer.v_bias, &v, false}}};
    ops::linear(ctx, x, projections);
    ops::attend_layer(ctx, *in.plans, l, config_.attention_scale, {}, q, k, v, heads);
    const std::array<ops::LinearOutput, 1> output{{{&layer.o, layer.o_bias, &y, false}}};
    ops::linear(ctx, heads, output);
    ops::add(ctx, x.values, y);
    ops::layer_norm(ctx, y, layer.attn_norm, layer.attn_norm_bias, config_.norm_eps, x);
    ctx.arena.release(mark);

    ops::LinearInput hidden = ops::make_linear_input(ctx, rows, config_.ffn_dim, quantized(layer.down));
    ops::linear_activate(ctx, x, layer.up, layer.up_bias, config_.activation, hidden);
    const std::array<ops::LinearOutput, 1> down{{{&layer.down, layer.down_bias, &y, false}}};
    ops::linear(ctx, hidden, down);
    ops::add(ctx, x.values, y);
    ops::layer_norm(ctx, y, layer.ffn_norm, layer.ffn_norm_bias, config_.norm_eps, x);
    ctx.arena.release(mark);
  }
  ops::copy(ctx, x.values, *out);
  ctx.arena.release(start);
}

}  // namespace pare
