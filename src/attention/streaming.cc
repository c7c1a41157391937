#include "attention/streaming.h"

#include "attention/reach_plan.h"

namespace pare {
namespace {

constexpr Caps kCaps = {.name = "streaming",
                        .phase = Phase::kPrefill,
                        .scope = Scope::kLayer,
                        .needs = kFactPosOrder | kFactPlain | kFactFullWidth,
                        .owns = kOwnPredicate,
                        .horizon = Horizon::kRow};

constexpr ParamSchema kParams[] = {
    {.name = "sink", .fallback = 4, .min = 0, .max = kMaxContext, .help = "first positions that every row attends"},
    {.name = "window",
     .fallback = 1024,
     .min = 1,
     .max = kMaxContext,
     .help = "last positions, the row's own included"},
    kLayersParam,
};

class StreamingSelector final : public AttentionSelector {
 public:
  explicit StreamingSelector(Reach reach) : reach_(reach) {}
  const Caps& caps() const override { return kCaps; }
  Reach reach() const override { return reach_; }
  bool reach_is_exact() const override { return true; }
  Status build(const PrefillRows& rows, int32_t layer_window, Arena& arena, BlockPlan& out) const override {
    return build_reach_plan(rows, within_layer_window(reach_, layer_window), arena, out);
  }
  size_t max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) const override {
    return reach_plan_max_bytes(max_rows, max_seqs, tile_rows);
  }

 private:
  Reach reach_;
};

Expected<std::unique_ptr<AttentionSelector>> make(const BoundTerm& term, const PolicyContext&) {
  const Reach reach = reach_of(term.integer("sink"), term.integer("window"));
  return std::unique_ptr<AttentionSelector>(std::make_unique<StreamingSelector>(reach));
}

}  // namespace

SelectorEntry streaming_selector_entry() {
  return {{.name = "streaming",
           .summary = "prompt rows attend the first positions and a window of the last ones",
           .neutral = "streaming(sink=0,window=16777216)",
           .caps = &kCaps,
           .params = kParams},
          make};
}

}  // namespace pare
