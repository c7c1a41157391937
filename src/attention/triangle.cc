#include "attention/triangle.h"

#include <fmt/format.h>

#include <algorithm>

#include "attention/reach_plan.h"

namespace pare {
namespace {

constexpr int32_t kLastDefault = 128;

// A prompt's last rows depend on where it ends; the other rows on the tokens before them alone.
constexpr Caps kCaps = {.name = "triangle",
                        .phase = Phase::kPrefill,
                        .scope = Scope::kLayer,
                        .needs = kFactPosOrder | kFactPlain | kFactFullWidth | kFactAllRows,
                        .owns = kOwnPredicate,
                        .horizon = Horizon::kTail,
                        .horizon_arg = kLastDefault,
                        .dense_prompts = true};

constexpr ParamSchema kParams[] = {
    {.name = "sink", .fallback = 8, .min = 0, .max = kMaxContext, .help = "first positions that every row attends"},
    {.name = "window", .fallback = 512, .min = 1, .max = kMaxContext, .help = "last positions, the row's own included"},
    {.name = "last",
     .fallback = kLastDefault,
     .min = 1,
     .max = kMaxContext,
     .help = "last rows of the prompt, which attend everything"},
    {.name = "min_tokens",
     .optional = true,
     .min = 0,
     .max = kMaxContext,
     .help = "shorter prompts are read densely; without it, what the ranking says of the device, else 0"},
    {.name = "ranking", .kind = ParamKind::kString, .optional = true, .help = "file that says which layers, see count"},
    {.name = "count",
     .optional = true,
     .min = 1,
     .max = kMaxLayers,
     .help = "layers taken from the ranking; without it, as many as the file recommends"},
    kLayersParam,
};

class TriangleSelector final : public AttentionSelector {
 public:
  TriangleSelector(Reach reach, DenseRows dense) : reach_(reach), dense_(dense), caps_(kCaps) {
    caps_.horizon_arg = dense.last;
    if (!reach.unlimited()) return;
    caps_.horizon = Horizon::kRow;
    caps_.horizon_arg = 0;
    caps_.dense_prompts = false;  // they are dense as they are
  }
  const Caps& caps() const override { return caps_; }
  Reach reach() const override { return {}; }
  bool reach_is_exact() const override { return reach_.unlimited(); }
  int32_t min_tokens() const override { return dense_.min_tokens; }
  Status build(const PrefillRows& rows, int32_t layer_window, Arena& arena, BlockPlan& out) const override {
    if (layer_window != kNoWindow) return build_reach_plan(rows, within_layer_window({}, layer_window), arena, out);
    return build_reach_plan(rows, reach_, arena, out, &dense_);
  }
  size_t max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) const override {
    return reach_plan_max_bytes(max_rows, max_seqs, tile_rows);
  }

 private:
  Reach reach_;
  DenseRows dense_;
  Caps caps_;
};

// Ascending layers as ranges.
std::vector<LayerRange> ranges_of(std::vector<int32_t> layers) {
  std::sort(layers.begin(), layers.end());
  std::vector<LayerRange> ranges;
  for (const int32_t l : layers) {
    if (!ranges.empty() && ranges.back().last + 1 == l) {
      ranges.back().last = l;
    } else {
      ranges.push_back({l, l});
    }
  }
  return ranges;
}

// Every layer once: what files hold is checked where they are read, but not every ranking comes from a file.
Status check_ranking(const LayerRanking& ranking, const PolicyContext& context) {
  const int32_t n = static_cast<int32_t>(ranking.layers.size());
  std::vector<int32_t> sorted = ranking.layers;
  std::sort(sorted.begin(), sorted.end());
  for (int32_t l = 0; l < n; ++l) {
    if (sorted[l] != l) return invalid_argument(fmt::format("ranking: does not name layer {} once", l));
  }
  if (context.n_layers != 0 && n != context.n_layers) {
    return invalid_argument(
        fmt::format("ranking: is for a model with {} layers, this one has {}", n, context.n_layers));
  }
  if (context.model_hash != 0 && ranking.model_hash != 0 && ranking.model_hash != context.model_hash) {
    return invalid_argument(
        fmt::format("ranking: is for weights {:016x}, these are {:016x}", ranking.model_hash, context.model_hash));
  }
  return ok_status();
}

Status take_layers(BoundTerm& term, const LayerRanking& ranking) {
  const int64_t count = term.has("count") ? term.integer("count") : ranking.recommended;
  const int64_t n = static_cast<int64_t>(ranking.layers.size());
  if (count < 1) return invalid_argument("ranking: the file recommends no layer; count= says how many to take");
  if (count > n) return invalid_argument(fmt::format("count: {} of a model with {} layers", count, n));
  std::vector<LayerRange> ranges = ranges_of({ranking.layers.begin(), ranking.layers.begin() + count});
  if (static_cast<int>(ranges.size()) > kMaxSpecLayerRanges) {
    return unsupported(
        fmt::format("count: {} layers in {} ranges, a spec holds {}", count, ranges.size(), kMaxSpecLayerRanges));
  }
  term.set_layers(kLayersParam.name, std::move(ranges));
  term.clear("ranking");
  term.clear("count");
  return ok_status();
}

Status resolve(BoundTerm& term, const PolicyContext& context) {
  int64_t min_tokens = 0;
  if (term.has("ranking")) {
    if (term.has(kLayersParam.name)) return invalid_argument("ranking and layers: one of the two says which layers");
    if (context.files == nullptr) return invalid_argument("ranking: no files are read here");
    PARE_ASSIGN_OR_RETURN(const LayerRanking ranking, context.files->layer_ranking(term.text("ranking")));
    PARE_RETURN_IF_ERROR(check_ranking(ranking, context));
    PARE_RETURN_IF_ERROR(take_layers(term, ranking));
    min_tokens = gate_of(ranking.min_tokens, context.device_class);
  } else if (term.has("count")) {
    return invalid_argument("count: needs ranking=, which says in what order layers are taken");
  }
  if (!term.has("min_tokens")) term.set_integer("min_tokens", std::clamp<int64_t>(min_tokens, 0, kMaxContext));
  return ok_status();
}

Expected<std::unique_ptr<AttentionSelector>> make(const BoundTerm& term, const PolicyContext&) {
  int64_t window = term.integer("window");
#ifdef PARE_FAULT_ATTENTION_TRIANGLE_WINDOW
  ++window;
#endif
  const DenseRows dense = {.last = static_cast<int32_t>(term.integer("last")),
                           .min_tokens = static_cast<int32_t>(term.integer("min_tokens"))};
  return std::unique_ptr<AttentionSelector>(
      std::make_unique<TriangleSelector>(reach_of(term.integer("sink"), window), dense));
}

}  // namespace

SelectorEntry triangle_selector_entry() {
  return {{.name = "triangle",
           .summary = "prompt rows attend the first positions and a window, the last rows of the prompt everything",
           .neutral = "triangle(sink=0,window=16777216,last=128)",
           .caps = &kCaps,
           .params = kParams},
          make,
          resolve};
}

}  // namespace pare
