#include "eval/attention_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

#include "attention/selector.h"
#include "base/limits.h"
#include "kernels/attention_walk.h"

namespace pare {

Expected<AttentionShape> parse_attention_shape(std::string_view text) {
  AttentionShape shape;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  for (int32_t* field : {&shape.heads, &shape.kv_heads, &shape.head_dim}) {
    const auto [rest, error] = std::from_chars(at, end, *field);
    const bool last = field == &shape.head_dim;
    if (error != std::errc() || (last ? rest != end : rest == end || *rest != '/')) {
      return invalid_argument(fmt::format("shape '{}': expected heads/kv_heads/head_dim, as 32/8/128", text));
    }
    at = last ? rest : rest + 1;
  }
  const bool heads = shape.kv_heads >= 1 && shape.heads >= shape.kv_heads && shape.heads <= kMaxHeads &&
                     shape.heads % shape.kv_heads == 0;
  if (!heads || shape.head_dim < 16 || shape.head_dim > kMaxHeadDim || shape.head_dim % 16 != 0) {
    return invalid_argument(fmt::format("shape '{}': heads must be a multiple of kv_heads, head_dim one of 16", text));
  }
  return shape;
}

double attended_pairs(const BlockPlan& plan, std::span<const SeqStep> seqs) {
  double pairs = 0.0;
  for (int32_t n = 0; n < *plan.n_tiles; ++n) {
    const QTile& tile = plan.tiles[n];
    const SeqStep& s = seqs[tile.seq];
    const int32_t first = s.pos + (tile.row0 - s.q_row), last = first + tile.rows - 1;
    const int32_t per_list = tile.list_heads == 0 ? tile.n_heads : tile.list_heads;
    for (int32_t h = 0; h < tile.n_heads; h += per_list) {
      const KeyList& list = plan.lists[tile.list0 + h / per_list];
      const double heads = std::min<int32_t>(per_list, tile.n_heads - h);
      const bool everything = list.n_abs == 1 && plan.ranges[list.abs0].lo == 0 && plan.ranges[list.abs0].hi > last;
      if (everything && (list.window == INT32_MAX || first >= list.dense_from)) {
        pairs += heads * tile.rows * (first + last + 2.0) / 2.0;
        continue;
      }
      int64_t count = 0;
      const auto attended = [&](int32_t i, int64_t lo, int64_t hi) {  // keys of [lo, hi) that row i attends
        hi = std::min<int64_t>(hi, i + 1);
        if (i >= list.dense_from) return std::max<int64_t>(0, hi - lo);
        const int64_t from = std::max<int64_t>(lo, int64_t{i} - list.window + 1);
        const int64_t sinks = std::min<int64_t>(std::min<int64_t>(hi, list.sink), from) - lo;
        return std::max<int64_t>(0, hi - from) + std::max<int64_t>(0, sinks);
      };
      attn::KeyWalk walk(plan, list, tile, last + 1);
      int32_t block;
      uint32_t granules;
      while (walk.next(&block, &granules)) {
        while (granules != 0) {  // runs of granules at once
          const int g0 = std::countr_zero(granules), g1 = g0 + std::countr_one(granules >> g0);
          granules &= ~((1u << g1) - 1u);
          const int64_t lo = (int64_t{block} * 4 + g0) * kGranuleKeys, hi = (int64_t{block} * 4 + g1) * kGranuleKeys;
          for (int32_t i = first; i <= last; ++i) count += attended(i, lo, hi);
        }
      }
      for (int32_t c = 0; c < list.n_col; ++c) {
        const int64_t col = plan.cols[list.col0 + c];
        if (walk.visits(static_cast<int32_t>(col / kGranuleKeys))) continue;
        for (int32_t i = first; i <= last; ++i) count += attended(i, col, col + 1);
      }
      pairs += heads * static_cast<double>(count);
    }
  }
  return pairs;
}

Status check_gate_options(const AttentionBenchOptions& o, const SelectorSet& selectors) {
  if (!o.gate) return ok_status();
  const std::vector<const Caps*> caps = selectors.caps();
  if (std::none_of(caps.begin(), caps.end(), [](const Caps* c) { return c->dense_prompts; })) {
    return invalid_argument(fmt::format("attn={}: takes no gate", selectors.canonical()));
  }
  for (const int32_t tokens : o.lengths) {
    if (selectors.dense_terms(tokens, 0) == 0) continue;
    return invalid_argument(
        fmt::format("attn={}: a gate is measured without one, min_tokens is above {}", selectors.canonical(), tokens));
  }
  return ok_status();
}

void fit_slopes(AttentionBench* bench) {
  const auto& lines = bench->lines;
  bench->slopes.clear();
  bench->slope = 0;
  if (lines.size() < 2) return;
  double x = 0, y = 0, xx = 0, xy = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    const double lx = std::log(lines[i].tokens), ly = std::log(lines[i].seconds);
    x += lx;
    y += ly;
    xx += lx * lx;
    xy += lx * ly;
    if (i == 0) continue;
    bench->slopes.push_back((ly - std::log(lines[i - 1].seconds)) / (lx - std::log(lines[i - 1].tokens)));
  }
  const double n = static_cast<double>(lines.size());
  bench->slope = (n * xy - x * y) / (n * xx - x * x);
}

Expected<AttentionBench> bench_attention_cpu(const AttentionBenchOptions& options);
#ifdef PARE_HAS_CUDA
Expected<AttentionBench> bench_attention_cuda(const AttentionBenchOptions& options);
#endif

Expected<AttentionBench> bench_attention(const AttentionBenchOptions& o) {
  if (o.lengths.empty()) return invalid_argument("no length to measure");
  if (o.repetitions < 1) return invalid_argument("repetitions: at least one");
  for (size_t i = 0; i < o.lengths.size(); ++i) {
    if (o.lengths[i] < 1 || o.lengths[i] > kMaxContext) {
      return invalid_argument(fmt::format("length {}, 1 to {} are possible", o.lengths[i], kMaxContext));
    }
    if (i > 0 && o.lengths[i] <= o.lengths[i - 1]) return invalid_argument("lengths must ascend");
  }
  if (o.device.kind == DeviceKind::kCpu) return bench_attention_cpu(o);
#ifdef PARE_HAS_CUDA
  return bench_attention_cuda(o);
#else
  return unsupported("this build has no CUDA backend (configure with the preset 'cuda')");
#endif
}

}  // namespace pare
