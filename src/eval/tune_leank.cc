#include "eval/tune_leank.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace pare {
namespace {

Status check_scores(const ChannelScores& s) {
  for (int32_t l = 0; l < s.n_layers; ++l) {
    for (int32_t h = 0; h < s.n_kv_heads; ++h) {
      for (int32_t c = 0; c < s.head_dim; ++c) {
        const double value = s.values[(static_cast<size_t>(l) * s.n_kv_heads + h) * s.head_dim + c];
        if (std::isfinite(value) && value >= 0.0) continue;
        return invalid_argument(fmt::format("layer {}, KV head {}, channel {}: a score of {}", l, h, c, value));
      }
    }
  }
  if (std::find(s.windowed.begin(), s.windowed.end(), uint8_t{0}) != s.windowed.end()) return ok_status();
  return invalid_argument("every layer slides a window: there is nothing to prune");
}

// Between the two nearest values, in proportion.
double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double at = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  if (below + 1 >= values.size()) return values.back();
  return values[below] + (at - static_cast<double>(below)) * (values[below + 1] - values[below]);
}

// `n` of 0, 1, ... `all` - 1, drawn without replacement.
std::vector<int32_t> draw(Philox& rng, int32_t all, int32_t n) {
  std::vector<int32_t> order(all);
  std::iota(order.begin(), order.end(), 0);
  for (int32_t i = 0; i < n; ++i) {
    std::swap(order[i], order[i + static_cast<int32_t>(rng.below(static_cast<uint32_t>(all - i)))]);
  }
  order.resize(n);
  return order;
}

// Streams of the generator: one a head, one for the budgets.
constexpr uint64_t kBudgetStream = ~uint64_t{0};

void deal_evenly(const ChannelScores& s, int32_t unit, uint64_t seed, std::vector<int32_t>* budgets) {
  std::vector<size_t> heads;
  int64_t units = 0;
  for (size_t i = 0; i < budgets->size(); ++i) {
    if (s.windowed[i / s.n_kv_heads] != 0) continue;
    heads.push_back(i);
    units += (*budgets)[i] / unit;
  }
  const auto n = static_cast<int64_t>(heads.size());
  for (const size_t head : heads) (*budgets)[head] = static_cast<int32_t>(units / n) * unit;
  Philox rng(seed, kBudgetStream);
  for (const int32_t i : draw(rng, static_cast<int32_t>(n), static_cast<int32_t>(units % n))) {
    (*budgets)[heads[i]] += unit;
  }
}

std::vector<int32_t> largest(const double* scores, int32_t all, int32_t n) {
  std::vector<int32_t> order(all);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  order.resize(n);
  return order;
}

}  // namespace

Expected<std::vector<int32_t>> pooled_budgets(const ChannelScores& s, double keep, int32_t unit) {
  if (!(keep > 0.0 && keep <= 1.0)) return invalid_argument(fmt::format("keep: {} is not in (0, 1]", keep));
  PARE_RETURN_IF_ERROR(check_scores(s));
  const size_t head_dim = s.head_dim, layer_items = head_dim * s.n_kv_heads;
  std::vector<double> pool;
  for (int32_t l = 0; l < s.n_layers; ++l) {
    if (s.windowed[l] != 0) continue;
    const auto begin = s.values.begin() + static_cast<std::ptrdiff_t>(l * layer_items);
    pool.insert(pool.end(), begin, begin + static_cast<std::ptrdiff_t>(layer_items));
  }
  const double threshold = quantile(std::move(pool), 1.0 - keep);
  std::vector<int32_t> budgets;
  for (int32_t l = 0; l < s.n_layers; ++l) {
    for (int32_t h = 0; h < s.n_kv_heads; ++h) {
      if (s.windowed[l] != 0) {
        budgets.push_back(s.head_dim);
        continue;
      }
      const double* scores = s.values.data() + l * layer_items + h * head_dim;
      const auto above = static_cast<int32_t>(
          std::count_if(scores, scores + head_dim, [&](double score) { return score >= threshold; }));
#ifdef PARE_FAULT_EVAL_BUDGET_FLOOR
      const int32_t rounded = above / unit * unit;
#else
      const int32_t rounded = (above + unit / 2) / unit * unit;
#endif
      budgets.push_back(std::min(rounded, s.head_dim));
    }
  }
  return budgets;
}

Expected<ChannelMask> make_channel_mask(const ChannelScores& s, const TuneLeankOptions& options) {
  const int32_t unit = mask_width_unit(s.head_dim);
  PARE_ASSIGN_OR_RETURN(std::vector<int32_t> budgets, pooled_budgets(s, options.keep, unit));
  if (options.budgets == MaskBudgets::kUniform) deal_evenly(s, unit, options.seed, &budgets);
  ChannelMask mask;
  mask.n_layers = s.n_layers;
  mask.n_kv_heads = s.n_kv_heads;
  mask.head_dim = s.head_dim;
  for (size_t head = 0; head < budgets.size(); ++head) {
    std::vector<int32_t> ids;
    if (options.channels == MaskChannels::kRandom) {
      Philox rng(options.seed, head);
      ids = draw(rng, s.head_dim, budgets[head]);
    } else {
      ids = largest(s.values.data() + head * s.head_dim, s.head_dim, budgets[head]);
    }
    std::sort(ids.begin(), ids.end());
    std::vector<Channel> kept;
    for (const int32_t id : ids) kept.push_back({static_cast<uint16_t>(id), 1.0f});
    mask.heads.push_back(std::move(kept));
  }
  return mask;
}

}  // namespace pare
