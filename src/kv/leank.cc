#include "kv/leank.h"

#include <fmt/format.h>

#include "base/limits.h"

namespace pare {
namespace {

constexpr Caps kCaps = {.name = "leank",
                        .phase = Phase::kDecode,
                        .scope = Scope::kKvHead,
                        .needs = kFactPosOrder | kFactPlain | kFactFullWidth | kFactAllRows,
                        .breaks_sealed = kFactFullWidth | kFactReRopable,
                        .owns = kOwnMidRows,
                        .rollback_rows = 0};

constexpr ParamSchema kParams[] = {
    {.name = "mask",
     .kind = ParamKind::kString,
     .optional = true,
     .help = "file of the kept channels (docs/formats/channel_mask.md); without it every channel is kept"},
    {.name = "sink", .fallback = 128, .min = 0, .max = UINT16_MAX, .help = "first rows, which stay whole"},
    {.name = "recent", .fallback = 768, .min = 1, .max = kMaxContext, .help = "last rows that are always whole"},
    {.name = "flush",
     .fallback = 128,
     .min = kPageRows,
     .max = kMaxContext,
     .help = "rows that are pruned at once; a multiple of 64"},
};

class LeankStage final : public KvStage {
 public:
  LeankStage(MidZone windows, std::shared_ptr<const ChannelMask> mask) : windows_(windows), mask_(std::move(mask)) {}
  Status apply(KvDesign* design) const override {
    if (!design->mid) design->mid.emplace();
    design->mid->mask = mask_;
    return join_windows(&*design->mid, windows_.sink, windows_.recent, windows_.flush);
  }

 private:
  MidZone windows_;
  std::shared_ptr<const ChannelMask> mask_;
};

Expected<std::unique_ptr<KvStage>> make(const BoundTerm& term, const PolicyContext& context) {
  MidZone windows;
  PARE_RETURN_IF_ERROR(join_windows(&windows, term.integer("sink"), term.integer("recent"), term.integer("flush")));
  std::shared_ptr<const ChannelMask> mask;
  if (const std::string& path = term.text("mask"); !path.empty()) {
    if (context.files == nullptr) return invalid_argument(fmt::format("mask '{}': no file can be read here", path));
    PARE_ASSIGN_OR_RETURN(ChannelMask read, context.files->channel_mask(path));
    if (context.n_layers > 0) {
      const MaskModel model{context.n_layers, context.n_kv_heads, context.head_dim, context.model_hash};
      PARE_RETURN_IF_ERROR(check_mask_model(read, model).with_context(fmt::format("mask '{}'", path)));
    }
    mask = std::make_shared<const ChannelMask>(std::move(read));
  }
  return std::unique_ptr<KvStage>(std::make_unique<LeankStage>(windows, std::move(mask)));
}

}  // namespace

KvPolicyEntry leank_kv_entry() {
  return {{.name = "leank",
           .summary = "after the prompt, rows that are not recent keep the key channels of a static mask",
           .neutral = "leank(recent=16777216)",
           .caps = &kCaps,
           .params = kParams},
          make};
}

}  // namespace pare
