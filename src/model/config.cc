#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/limits.h"

namespace pare {
namespace {

// The pair index at which a rotation makes `turns` full turns over the original context (YaRN §3.2).
double correction_index(const RopeConfig& rope, double turns) {
  return rope.rot * std::log(rope.original_context / (turns * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.base));
}

}  // namespace

std::vector<double> rope_inv_freq(const RopeConfig& rope) {
  const int half = rope.rot / 2;
  std::vector<double> inv_freq(half);
  const double low = std::max(0.0, std::floor(correction_index(rope, rope.beta_fast)));
  const double high = std::min<double>(rope.rot - 1, std::ceil(correction_index(rope, rope.beta_slow)));
  for (int i = 0; i < half; ++i) {
    double f = std::pow(rope.base, -2.0 * i / rope.rot);
    if (!rope.freq_factors.empty()) f /= rope.freq_factors[i];
    switch (rope.scaling) {
      case RopeScaling::kNone: break;
      case RopeScaling::kLinear: f /= rope.factor; break;
      case RopeScaling::kLlama3: {
        const double turns = rope.original_context * f / (2.0 * std::numbers::pi);
        if (turns < rope.low_freq_factor) {
          f /= rope.factor;
        } else if (turns <= rope.high_freq_factor) {
          const double smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
          f = (1.0 - smooth) * f / rope.factor + smooth * f;
        }
        break;
      }
      case RopeScaling::kYarn: {
        const double ramp = std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
        f = f / rope.factor * ramp + f * (1.0 - ramp);
        break;
      }
    }
    inv_freq[i] = f;
  }
  return inv_freq;
}

float rope_magnitude(const RopeConfig& rope) {
  if (rope.scaling != RopeScaling::kYarn) return 1.0f;
  if (rope.attention_factor > 0.0) return static_cast<float>(rope.attention_factor);
  return rope.factor > 1.0 ? static_cast<float>(0.1 * std::log(rope.factor) + 1.0) : 1.0f;
}

Status validate(const ModelConfig& c) {
  const auto bounded = [](std::string_view field, int64_t value, int64_t max) -> Status {
    if (value >= 1 && value <= max) return ok_status();
    return data_loss(fmt::format("model field '{}' is {}, allowed 1 to {}", field, value, max));
  };
  PARE_RETURN_IF_ERROR(bounded("layers", c.n_layers, kMaxLayers));
  PARE_RETURN_IF_ERROR(bounded("embedding length", c.dim, kMaxModelDim));
  PARE_RETURN_IF_ERROR(bounded("heads", c.n_heads, kMaxHeads));
  PARE_RETURN_IF_ERROR(bounded("KV heads", c.n_kv_heads, c.n_heads));
  PARE_RETURN_IF_ERROR(bounded("head dimension", c.head_dim, kMaxHeadDim));
  PARE_RETURN_IF_ERROR(bounded("feed-forward length", c.ffn_dim, kMaxModelDim));
  PARE_RETURN_IF_ERROR(bounded("vocabulary", c.vocab, kMaxVocab));
  PARE_RETURN_IF_ERROR(bounded("context length", c.context_max, kMaxContext));
  if (c.n_heads % c.n_kv_heads != 0) {
    return data_loss(fmt::format("{} heads are no multiple of {} KV heads", c.n_heads, c.n_kv_heads));
  }
  if (c.head_dim % 16 != 0) {
    return unsupported(fmt::format("head dimension {} is no multiple of 16", c.head_dim));
  }
  if (!(c.norm_eps > 0.0f && c.norm_eps < 1.0f)) {
    return data_loss(fmt::format("norm epsilon {} lies outside (0, 1)", c.norm_eps));
  }
  if (c.window < 0 || c.window > kMaxContext || (c.window > 0 && c.sliding.size() != static_cast<size_t>(c.n_layers))) {
    return data_loss(fmt::format("sliding window {} with {} layer flags", c.window, c.sliding.size()));
  }
  if (c.encoder) return ok_status();
  for (const RopeConfig* rope : {&c.rope, &c.rope_sliding}) {
    if (rope == &c.rope_sliding && c.window == 0) break;
    if (rope->rot < 2 || rope->rot % 2 != 0 || rope->rot > c.head_dim) {
      return data_loss(fmt::format("RoPE dimension {} for head dimension {}", rope->rot, c.head_dim));
    }
    if (!(rope->base > 1.0) || !std::isfinite(rope->base)) {
      return data_loss(fmt::format("RoPE base {} is not above 1", rope->base));
    }
    if (!(rope->factor > 0.0) || !std::isfinite(rope->factor)) {
      return data_loss(fmt::format("RoPE scaling factor {} is not positive", rope->factor));
    }
    const bool needs_original = rope->scaling == RopeScaling::kLlama3 || rope->scaling == RopeScaling::kYarn;
    if (needs_original && !(rope->original_context >= 1.0)) {
      return data_loss(fmt::format("RoPE scaling needs an original context, the file says {}", rope->original_context));
    }
    if (rope->scaling == RopeScaling::kLlama3 && !(rope->high_freq_factor > rope->low_freq_factor)) {
      return data_loss(fmt::format("RoPE high_freq_factor {} is not above low_freq_factor {}", rope->high_freq_factor,
                                   rope->low_freq_factor));
    }
    if (!rope->freq_factors.empty() && rope->freq_factors.size() != static_cast<size_t>(rope->rot / 2)) {
      return data_loss(fmt::format("{} RoPE frequency factors for {} pairs", rope->freq_factors.size(), rope->rot / 2));
    }
    for (float f : rope->freq_factors) {
      if (!(f > 0.0f) || !std::isfinite(f)) return data_loss(fmt::format("RoPE frequency factor {}", f));
    }
  }
  return ok_status();
}

}  // namespace pare
