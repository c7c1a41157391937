#include "eval/attention_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "kernels/attention_walk.h"
#include "pare/engine.h"
#include "plan/step.h"
#include "tensor/tensor.h"

namespace pare {
namespace {

constexpr int32_t kLastRows = 128;

// Which keys [0, pos] the row at `pos` attends, as its tile's list says.
void attended_keys(const BlockPlan& plan, const QTile& tile, const KeyList& list, int32_t pos,
                   std::vector<uint8_t>* keys) {
  keys->assign(static_cast<size_t>(pos) + 1, 0);
  const auto mark = [&](int32_t j) {
    if (j <= pos && (pos >= list.dense_from || j < list.sink || pos - j < list.window)) (*keys)[j] = 1;
  };
  attn::KeyWalk walk(plan, list, tile, pos + 1);
  int32_t block;
  uint32_t granules;
  while (walk.next(&block, &granules)) {
    for (int32_t g = 0; g < 4; ++g) {
      if ((granules >> g & 1u) == 0) continue;
      for (int32_t k = 0; k < kGranuleKeys; ++k) mark((block * 4 + g) * kGranuleKeys + k);
    }
  }
  for (int32_t c = 0; c < list.n_col; ++c) mark(plan.cols[list.col0 + c]);
}

// Gathers the head's keys as they are stored and measures each row as it comes.
class Recorder {
 public:
  Recorder(const ModelConfig& config, AttentionMap* map) : config_(config), map_(*map) {
    window_ = config.is_sliding(map->layer) ? config.window : INT32_MAX;
    const size_t cells = static_cast<size_t>(map->cells);
    map->kept.assign(cells * cells, 0.0f);
    map->mass.assign(cells * cells, 0.0f);
    map->captured.assign(cells, 0.0f);
    causal_.assign(cells * cells, 0);
    rows_.assign(cells, 0);
  }

  void see(const StepPlans& plans, const Tensor& q, const Tensor& k) {
    const size_t d = static_cast<size_t>(config_.head_dim);
    const size_t kv_head = static_cast<size_t>(map_.head) / (config_.n_heads / config_.n_kv_heads);
    for (int64_t t = 0; t < k.shape[0]; ++t) {
      const float* key = k.as<float>() + (static_cast<size_t>(t) * config_.n_kv_heads + kv_head) * d;
      keys_.insert(keys_.end(), key, key + d);
    }
    const BlockPlan& plan = plans.block(map_.layer);
    for (int32_t n = 0; n < *plan.n_tiles; ++n) {
      const QTile& tile = plan.tiles[n];
      if (map_.head < tile.head0 || map_.head >= tile.head0 + tile.n_heads) continue;
      const KeyList& list =
          plan.lists[tile.list_heads == 0 ? tile.list0 : tile.list0 + (map_.head - tile.head0) / tile.list_heads];
      const SeqStep& s = plans.cls(map_.layer).seqs[tile.seq];
      for (int32_t r = tile.row0; r < tile.row0 + tile.rows; ++r) {
        const int32_t pos = s.pos + (r - s.q_row);
        attended_keys(plan, tile, list, pos, &attended_);
        measure(pos, q.as<float>() + (static_cast<size_t>(r) * config_.n_heads + map_.head) * d);
      }
    }
  }

  void finish() {
    const int32_t cells = map_.cells;
    double sum = 0.0;
    for (int32_t a = 0; a < cells; ++a) {
      sum += map_.captured[a];
      map_.captured[a] /= static_cast<float>(std::max(1, rows_[a]));
      for (int32_t b = 0; b < cells; ++b) {
        const size_t at = static_cast<size_t>(a) * cells + b;
        if (causal_[at] > 0) map_.kept[at] /= static_cast<float>(causal_[at]);
        map_.mass[at] /= static_cast<float>(std::max(1, rows_[a]));
      }
    }
    map_.captured_mean = sum / std::max(1, map_.tokens);
    map_.captured_last /= std::min(kLastRows, std::max(1, map_.tokens));
  }

 private:
  void measure(int32_t pos, const float* q) {
    const int32_t d = config_.head_dim, first = std::max<int64_t>(0, int64_t{pos} - window_ + 1);
    weights_.resize(static_cast<size_t>(pos) + 1);
    float max = -INFINITY;
    for (int32_t j = first; j <= pos; ++j) {
      const float* key = keys_.data() + static_cast<size_t>(j) * d;
      float dot = 0.0f;
      for (int32_t c = 0; c < d; ++c) dot += q[c] * key[c];
      weights_[j] = dot * config_.attention_scale;
      max = std::max(max, weights_[j]);
    }
    double total = 0.0;
    for (int32_t j = first; j <= pos; ++j) {
      weights_[j] = std::exp(weights_[j] - max);
      total += weights_[j];
    }
    const int32_t a = pos / map_.cell_tokens;
    double captured = 0.0;
    for (int32_t j = first; j <= pos; ++j) {
      const size_t at = static_cast<size_t>(a) * map_.cells + j / map_.cell_tokens;
      const double share = weights_[j] / total;
      map_.mass[at] += static_cast<float>(share);
      ++causal_[at];
      ++map_.pairs_causal;
      if (attended_[j] == 0) continue;
      map_.kept[at] += 1.0f;
      ++map_.pairs_kept;
      captured += share;
    }
    map_.captured[a] += static_cast<float>(captured);
    map_.captured_min = std::min(map_.captured_min, captured);
    if (pos >= map_.tokens - kLastRows) map_.captured_last += captured;
    ++rows_[a];
  }

  const ModelConfig& config_;
  AttentionMap& map_;
  int32_t window_;
  std::vector<float> keys_, weights_;  // [position][D]
  std::vector<uint8_t> attended_;
  std::vector<int64_t> causal_;
  std::vector<int32_t> rows_;
};

}  // namespace

Expected<AttentionMap> attention_map(const std::shared_ptr<const LoadedModel>& model, std::vector<TokenId> tokens,
                                     const AttentionMapOptions& options) {
  const ModelConfig& config = model->model->config();
  if (options.layer < 0 || options.layer >= config.n_layers) {
    return invalid_argument(fmt::format("layer {} of a model with {}", options.layer, config.n_layers));
  }
  if (options.head < 0 || options.head >= config.n_heads) {
    return invalid_argument(fmt::format("head {} of a model with {}", options.head, config.n_heads));
  }
  if (tokens.empty() || options.cells < 1) return invalid_argument("no tokens to look at");
  AttentionMap map;
  map.layer = options.layer;
  map.head = options.head;
  map.tokens = static_cast<int32_t>(tokens.size());
  map.cell_tokens = round_up<int32_t>(ceil_div(map.tokens, options.cells), kGranuleKeys);
  map.cells = ceil_div(map.tokens, map.cell_tokens);
  Recorder recorder(config, &map);
  EngineOptions o;
  o.threads = options.threads;
  o.max_context = std::min(map.tokens + 1, config.context_max);
  o.max_sequences = 1;
  o.share_prefixes = false;
  o.attn = options.attn;
  o.on_attention = [&](int32_t layer, const StepPlans& plans, const Tensor& q, const Tensor& k) {
    if (layer == options.layer && plans.n_prefill_rows > 0) recorder.see(plans, q, k);
  };
  PARE_ASSIGN_OR_RETURN(const auto engine, Engine::create(model, o));
  map.attn = engine->attn_spec();
  Request request;
  request.tokens = std::move(tokens);
  request.max_tokens = 1;
  PARE_RETURN_IF_ERROR(engine->submit(std::move(request), {}).status());
  PARE_RETURN_IF_ERROR(engine->run());
  recorder.finish();
  return map;
}

}  // namespace pare
