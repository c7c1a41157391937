#include "model/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/checked.h"

namespace pare {
namespace {

// A tensor's name in each container; {} is the layer.
struct TensorName {
  const char *gguf, *hf;
};

struct NameTable {
  TensorName attn_norm{"blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"};
  TensorName ffn_norm{"blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"};
  TensorName attn_post_norm{"blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight"};
  TensorName ffn_post_norm{"blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight"};
  TensorName q{"blk.{}.attn_q", "model.layers.{}.self_attn.q_proj"},
      k{"blk.{}.attn_k", "model.layers.{}.self_attn.k_proj"};
  TensorName v{"blk.{}.attn_v", "model.layers.{}.self_attn.v_proj"};
  TensorName o{"blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"};
  TensorName q_norm{"blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"};
  TensorName k_norm{"blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"};
  TensorName gate{"blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"};
  TensorName up{"blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"};
  TensorName down{"blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"};
};

bool quantized(std::initializer_list<const ops::Weight*> weights) {
  for (const ops::Weight* w : weights) {
    if (wants_quantized_input(w->dtype)) return true;
  }
  return false;
}

}  // namespace

Expected<std::unique_ptr<Model>> Decoder::load(ModelConfig config, const ModelFile& file, const WeightPlace& place) {
  std::unique_ptr<Decoder> model(new Decoder(std::move(config)));
  PARE_RETURN_IF_ERROR(model->read_weights(file, place));
  return std::unique_ptr<Model>(std::move(model));
}

Status Decoder::read_weights(const ModelFile& file, const WeightPlace& place) {
  const bool gguf = file.container() == ModelFile::Container::kGguf;
  WeightLoader loader(file, place, &store_);

  // GGUF carries llama-3's frequency scaling as a tensor.
  if (gguf && loader.has("rope_freqs.weight")) {
    config_.rope.freq_factors = loader.host_vector("rope_freqs.weight", config_.rope.rot / 2);
    PARE_RETURN_IF_ERROR(validate(config_));
  }
  inv_freq_ = rope_inv_freq(config_.rope);
  if (config_.window > 0) inv_freq_sliding_ = rope_inv_freq(config_.rope_sliding);

  NameTable names;
  if (config_.post_norms) names.ffn_norm.hf = "model.layers.{}.pre_feedforward_layernorm.weight";
  const int64_t e = config_.dim, f = config_.ffn_dim, d = config_.head_dim;
  const int64_t hd = config_.n_heads * d, kd = config_.n_kv_heads * d;
  const float plus = config_.norm_plus_one ? 1.0f : 0.0f;
  const RowOrder heads = config_.rows_interleaved ? RowOrder::kInterleavedHeads : RowOrder::kPlain;

  embedding_ = loader.matrix(gguf ? "token_embd.weight" : "model.embed_tokens.weight", config_.vocab, e);
  output_norm_ = loader.vector(gguf ? "output_norm.weight" : "model.norm.weight", e, plus);
  const char* head_name = gguf ? "output.weight" : "lm_head.weight";
  head_ = loader.has(head_name) ? loader.matrix(head_name, config_.vocab, e) : embedding_;

  layers_.resize(config_.n_layers);
  for (int32_t l = 0; l < config_.n_layers; ++l) {
    const auto name = [&](const TensorName& n) { return fmt::format(fmt::runtime(gguf ? n.gguf : n.hf), l); };
    DecoderLayer& layer = layers_[l];
    layer.attn_norm = loader.vector(name(names.attn_norm), e, plus);
    layer.ffn_norm = loader.vector(name(names.ffn_norm), e, plus);
    layer.q = loader.matrix(name(names.q) + ".weight", hd, e, heads, d);
    layer.k = loader.matrix(name(names.k) + ".weight", kd, e, heads, d);
    layer.v = loader.matrix(name(names.v) + ".weight", kd, e);
    layer.o = loader.matrix(name(names.o), e, hd);
    layer.gate = loader.matrix(name(names.gate), f, e);
    layer.up = loader.matrix(name(names.up), f, e);
    layer.down = loader.matrix(name(names.down), e, f);
    if (config_.qkv_bias) {
      layer.q_bias = loader.vector(name(names.q) + ".bias", hd, 0.0f, heads, d);
      layer.k_bias = loader.vector(name(names.k) + ".bias", kd, 0.0f, heads, d);
      layer.v_bias = loader.vector(name(names.v) + ".bias", kd);
    }
    if (config_.qk_norm) {
      layer.q_norm = loader.vector(name(names.q_norm), d, plus);
      layer.k_norm = loader.vector(name(names.k_norm), d, plus);
    }
    if (config_.post_norms) {
      layer.attn_post_norm = loader.vector(name(names.attn_post_norm), e, plus);
      layer.ffn_post_norm = loader.vector(name(names.ffn_post_norm), e, plus);
    }
    loader.ignore(fmt::format("model.layers.{}.self_attn.rotary_emb.inv_freq", l));
  }
  PARE_RETURN_IF_ERROR(loader.finish());

  store_bytes_ = store_.bytes();
  decode_bytes_ = store_bytes_;
  if (head_.data != embedding_.data) {
    const uint64_t table = loader.packed_bytes(embedding_);
    decode_bytes_ -= table - table / embedding_.n;
  }
  return ok_status();
}

size_t Decoder::workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t logit_rows, int32_t tile_rows) const {
  const ModelConfig& c = config_;
  const int64_t hd = int64_t{c.n_heads} * c.head_dim, kd = int64_t{c.n_kv_heads} * c.head_dim;
  constexpr int64_t kAlign = 64;  // arena granularity, for each of at most 32 blocks alive
  const auto input = [&](int64_t t, int64_t k) {
    return static_cast<int64_t>(ops::linear_input_bytes(ctx, t, k, true));
  };
  const int64_t residual = rows * c.dim * 4, angles = 2 * rows * c.head_dim * 4;
  const int64_t attention =
      input(rows, c.dim) + rows * (hd + 2 * kd) * 4 + input(rows, hd) +
      static_cast<int64_t>(ops::attend_workspace_bytes(ctx, rows, tile_rows, c.n_heads, c.n_kv_heads, c.head_dim));
  const bool float_down =
      std::any_of(layers_.begin(), layers_.end(), [](const DecoderLayer& l) { return !quantized({&l.down}); });
  const int64_t hidden = static_cast<int64_t>(ops::linear_input_bytes(ctx, rows, c.ffn_dim, !float_down, false));
  const int64_t ffn =
      input(rows, c.dim) + hidden + static_cast<int64_t>(ops::glu_workspace_bytes(ctx, rows, c.ffn_dim)) + residual;
  const int64_t head = 2 * logit_rows * c.dim * 4 + input(logit_rows, c.dim);
  return static_cast<size_t>(2 * residual + angles + input(rows, hd) + std::max({attention + residual, ffn, head}) +
                             32 * kAlign);
}

void Decoder::forward(ExecContext& ctx, const StepInputs& in, Tensor* out) const {
  const size_t start = ctx.arena.mark();
  const int64_t rows = in.tokens.items(), wanted = in.logit_rows.items();
  Tensor x = ops::make_f32(ctx, {rows, config_.dim});
  ops::embed(ctx, embedding_, in.tokens, config_.embed_scale, x);
  const ops::RopeTable rope = ops::make_rope_table(ctx, in.positions, inv_freq_, rope_magnitude(config_.rope));
  ops::RopeTable rope_sliding;
  if (config_.window > 0) {
    rope_sliding = ops::make_rope_table(ctx, in.positions, inv_freq_sliding_, rope_magnitude(config_.rope_sliding));
  }

  for (int32_t l = 0; l < config_.n_layers; ++l) {
    const size_t mark = ctx.arena.mark();
    ops::LinearInput heads;
    attention(ctx, l, in, config_.is_sliding(l) ? rope_sliding : rope, x, &heads);
    const DecoderLayer& layer = layers_[l];
    if (l + 1 < config_.n_layers || wanted == rows) {
      project_heads(ctx, layer, heads, x);
      feed_forward(ctx, layer, x);
      ctx.arena.release(mark);
      continue;
    }
    // After the last attention only the rows whose logits are wanted go on; inside a prompt there are none.
    if (wanted == 0) break;
    ops::LinearInput last = ops::make_linear_input(ctx, wanted, heads.rows.k, heads.quantized);
    Tensor y = ops::make_f32(ctx, {wanted, config_.dim});
    ops::gather_rows(ctx, heads.values, in.logit_rows, last.values);
    ops::quantize(ctx, last);
    ops::gather_rows(ctx, x, in.logit_rows, y);
    project_heads(ctx, layer, last, y);
    feed_forward(ctx, layer, y);
    x = y;
  }
  if (wanted > 0) {
    ops::LinearInput normed = ops::make_linear_input(ctx, wanted, config_.dim, quantized({&head_}));
    ops::rms_norm(ctx, x, output_norm_, config_.norm_eps, normed);
    const std::array<ops::LinearOutput, 1> logits{{{&head_, nullptr, out, false}}};
    ops::linear(ctx, normed, logits);
    if (config_.logit_softcap > 0.0f) ops::softcap(ctx, config_.logit_softcap, *out);
  }
  ctx.arena.release(start);
}

void Decoder::attention(ExecContext& ctx, int32_t l, const StepInputs& in, const ops::RopeTable& rope, Tensor& x,
                        ops::LinearInput* heads) const {
  const DecoderLayer& layer = layers_[l];
  const int64_t rows = x.rows(), d = config_.head_dim;
  *heads = ops::make_linear_input(ctx, rows, config_.n_heads * d, quantized({&layer.o}));
  const size_t mark = ctx.arena.mark();

  ops::LinearInput normed = ops::make_linear_input(ctx, rows, config_.dim, quantized({&layer.q, &layer.k, &layer.v}));
  ops::rms_norm(ctx, x, layer.attn_norm, config_.norm_eps, normed);
  Tensor q = ops::make_f32(ctx, {rows, config_.n_heads, d});
  Tensor k = ops::make_f32(ctx, {rows, config_.n_kv_heads, d});
  Tensor v = ops::make_f32(ctx, {rows, config_.n_kv_heads, d});
  const std::array<ops::LinearOutput, 3> projections{
      {{&layer.q, layer.q_bias, &q, false}, {&layer.k, layer.k_bias, &k, false}, {&layer.v, layer.v_bias, &v, false}}};
  ops::linear(ctx, normed, projections);
  const ops::HeadTransform transform{layer.q_norm, layer.k_norm, config_.norm_eps, &rope};
  ops::attend_layer(ctx, *in.plans, l, config_.attention_scale, transform, q, k, v, *heads);
  ctx.arena.release(mark);
}

void Decoder::project_heads(ExecContext& ctx, const DecoderLayer& layer, const ops::LinearInput& heads,
                            Tensor& x) const {
  if (!config_.post_norms) {
    const std::array<ops::LinearOutput, 1> output{{{&layer.o, nullptr, &x, true}}};
    ops::linear(ctx, heads, output);
    return;
  }
  const size_t mark = ctx.arena.mark();
  Tensor y = ops::make_f32(ctx, {x.rows(), config_.dim});
  const std::array<ops::LinearOutput, 1> output{{{&layer.o, nullptr, &y, false}}};
  ops::linear(ctx, heads, output);
  ops::rms_norm_add(ctx, y, layer.attn_post_norm, config_.norm_eps, x);
  ctx.arena.release(mark);
}

void Decoder::feed_forward(ExecContext& ctx, const DecoderLayer& layer, Tensor& x) const {
  const size_t mark = ctx.arena.mark();
  const int64_t rows = x.rows();
  ops::LinearInput normed = ops::make_linear_input(ctx, rows, config_.dim, quantized({&layer.gate, &layer.up}));
  ops::rms_norm(ctx, x, layer.ffn_norm, config_.norm_eps, normed);
  ops::LinearInput hidden = ops::make_linear_input(ctx, rows, config_.ffn_dim, quantized({&layer.down}), false);
  ops::glu_linear(ctx, normed, layer.gate, layer.up, config_.activation, hidden);
  if (!config_.post_norms) {
    const std::array<ops::LinearOutput, 1> output{{{&layer.down, nullptr, &x, true}}};
    ops::linear(ctx, hidden, output);
  } else {
    Tensor y = ops::make_f32(ctx, {rows, config_.dim});
    const std::array<ops::LinearOutput, 1> output{{{&layer.down, nullptr, &y, false}}};
    ops::linear(ctx, hidden, output);
    ops::rms_norm_add(ctx, y, layer.ffn_post_norm, config_.norm_eps, x);
  }
  ctx.arena.release(mark);
}

}  // namespace pare
