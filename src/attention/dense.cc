#include "attention/dense.h"

#include <fmt/format.h>

#include "attention/reach_plan.h"
#include "plan/causal_plan.h"

namespace pare {
namespace {

constexpr Caps kCaps = {.name = "dense",
                        .phase = Phase::kPrefill,
                        .scope = Scope::kLayer,
                        .needs = kFactPosOrder | kFactPlain | kFactFullWidth | kFactAllRows,
                        .owns = kOwnPredicate,
                        .horizon = Horizon::kRow};

// cuDNN picks a kernel by the shape of a chunk, and chunks depend on what else is in a step.
constexpr Caps kCudnnCaps = [] {
  Caps caps = kCaps;
  caps.batch_invariant = false;
  return caps;
}();

constexpr std::string_view kImpl = "impl", kOwn = "own", kCudnn = "cudnn";

constexpr ParamSchema kParams[] = {
    {.name = kImpl,
     .kind = ParamKind::kString,
     .optional = true,
     .help = "whose kernels read prompts: own (the default) or cudnn, which is there for comparison, on CUDA only"},
    kLayersParam};

class DenseSelector final : public AttentionSelector {
 public:
  explicit DenseSelector(bool cudnn) : cudnn_(cudnn) {}
  const Caps& caps() const override { return cudnn_ ? kCudnnCaps : kCaps; }
  Reach reach() const override { return {}; }
  bool reach_is_exact() const override { return true; }
  Status accepts(int32_t layer_window) const override {
    if (!cudnn_ || layer_window == kNoWindow) return ok_status();
    return unsupported(fmt::format("impl=cudnn: its model attends the last {} keys only", layer_window));
  }
  uint16_t plan_flags() const override { return cudnn_ ? kPlanCudnn : 0; }
  Status build(const PrefillRows& rows, int32_t layer_window, Arena& arena, BlockPlan& out) const override {
    if (cudnn_ && rows.limit != nullptr) {
      return unsupported("impl=cudnn: rows that attend later positions (encoders need impl=own)");
    }
    PARE_RETURN_IF_ERROR(accepts(layer_window));
    PARE_RETURN_IF_ERROR(build_reach_plan(rows, within_layer_window(reach(), layer_window), arena, out));
    out.flags = plan_flags();
    return ok_status();
  }
  size_t max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) const override {
    return reach_plan_max_bytes(max_rows, max_seqs, tile_rows);
  }

 private:
  bool cudnn_;
};

// The default is not printed, so that the text that stored rows are shared under stays what it was.
Status resolve(BoundTerm& term, const PolicyContext&) {
  if (term.text(kImpl) == kOwn) {
    term.clear(kImpl);
  } else if (term.has(kImpl) && term.text(kImpl) != kCudnn) {
    return invalid_argument(fmt::format("impl is '{}': own or cudnn are possible", term.text(kImpl)));
  }
  return ok_status();
}

Expected<std::unique_ptr<AttentionSelector>> make(const BoundTerm& term, const PolicyContext& context) {
  const bool cudnn = term.text(kImpl) == kCudnn;
  if (cudnn && !context.device_class.starts_with("cuda")) {
    return unsupported(
        fmt::format("impl=cudnn needs a CUDA device (--device cuda); this one is {}", context.device_class));
  }
  return std::unique_ptr<AttentionSelector>(std::make_unique<DenseSelector>(cudnn));
}

}  // namespace

SelectorEntry dense_selector_entry() {
  return {{.name = "dense",
           .summary = "every prompt row attends every earlier one",
           .neutral = "dense",
           .caps = &kCaps,
           .params = kParams},
          make,
          resolve};
}

}  // namespace pare
