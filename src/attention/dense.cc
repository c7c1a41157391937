#include "attention/dense.h"

#include "attention/reach_plan.h"

namespace pare {
namespace {

constexpr Caps kCaps = {.name = "dense",
                        .phase = Phase::kPrefill,
                        .scope = Scope::kLayer,
                        .needs = kFactPosOrder | kFactPlain | kFactFullWidth | kFactAllRows,
                        .owns = kOwnPredicate,
                        .horizon = Horizon::kRow};

constexpr ParamSchema kParams[] = {kLayersParam};

class DenseSelector final : public AttentionSelector {
 public:
  const Caps& caps() const override { return kCaps; }
  Reach reach() const override { return {}; }
  bool reach_is_exact() const override { return true; }
  Status build(const PrefillRows& rows, int32_t layer_window, Arena& arena, BlockPlan& out) const override {
    return build_reach_plan(rows, within_layer_window(reach(), layer_window), arena, out);
  }
  size_t max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) const override {
    return reach_plan_max_bytes(max_rows, max_seqs, tile_rows);
  }
};

Expected<std::unique_ptr<AttentionSelector>> make(const BoundTerm&, const PolicyContext&) {
  return std::unique_ptr<AttentionSelector>(std::make_unique<DenseSelector>());
}

}  // namespace

SelectorEntry dense_selector_entry() {
  return {{.name = "dense",
           .summary = "every prompt row attends every earlier one",
           .neutral = "dense",
           .caps = &kCaps,
           .params = kParams},
          make};
}

}  // namespace pare
