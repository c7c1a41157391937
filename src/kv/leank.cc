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
    {.name = "min_tokens",
     .optional = true,
     .min = 0,
     .max = kMaxContext,
     .help = "shorter sequences keep every row whole; without it, what the mask says of the device, else 0"},
    {.name = "empty",
     .kind = ParamKind::kString,
     .optional = true,
     .help =
         "pruned rows of heads that keep no channel: drop, as LeanK deploys it (the default), or mean: all have logit "
         "0, as LeanK trains it"},
};

class LeankStage final : public KvStage {
 public:
  explicit LeankStage(MidZone zone) : zone_(std::move(zone)) {}
  Status apply(KvDesign* design) const override {
    if (!design->mid) design->mid.emplace();
    design->mid->mask = zone_.mask;
    design->mid->keep_means = zone_.keep_means;
    return join_windows(&*design->mid, zone_.sink, zone_.recent, zone_.flush, zone_.min_tokens);
  }

 private:
  MidZone zone_;
};

Expected<ChannelMask> read_mask(const std::string& path, const PolicyContext& context) {
  if (context.files == nullptr) return invalid_argument(fmt::format("mask '{}': no file can be read here", path));
  return context.files->channel_mask(path);
}

// The canonical form holds the gate that the mask has for this class of device, and no default of `empty`.
Status resolve(BoundTerm& term, const PolicyContext& context) {
  if (term.text("empty") == "drop") {
    term.clear("empty");
  } else if (term.has("empty") && term.text("empty") != "mean") {
    return invalid_argument(fmt::format("empty is '{}': drop or mean are possible", term.text("empty")));
  }
  if (term.has("min_tokens")) return ok_status();
  int32_t min_tokens = 0;
  if (const std::string& path = term.text("mask"); !path.empty()) {
    PARE_ASSIGN_OR_RETURN(const ChannelMask mask, read_mask(path, context));
    min_tokens = gate_of(mask.min_tokens, context.device_class);
  }
  term.set_integer("min_tokens", min_tokens);
  return ok_status();
}

Expected<std::unique_ptr<KvStage>> make(const BoundTerm& term, const PolicyContext& context) {
  MidZone zone;
  zone.keep_means = term.text("empty") == "mean";
  PARE_RETURN_IF_ERROR(join_windows(&zone, term.integer("sink"), term.integer("recent"), term.integer("flush"),
                                    term.integer("min_tokens")));
  if (const std::string& path = term.text("mask"); !path.empty()) {
    PARE_ASSIGN_OR_RETURN(ChannelMask read, read_mask(path, context));
    if (context.n_layers > 0) {
      const MaskModel model{context.n_layers, context.n_kv_heads, context.head_dim, context.model_hash};
      PARE_RETURN_IF_ERROR(check_mask_model(read, model).with_context(fmt::format("mask '{}'", path)));
    }
    zone.mask = std::make_shared<const ChannelMask>(std::move(read));
  }
  return std::unique_ptr<KvStage>(std::make_unique<LeankStage>(std::move(zone)));
}

}  // namespace

KvPolicyEntry leank_kv_entry() {
  return {{.name = "leank",
           .summary = "after the prompt, rows that are not recent keep the key channels of a static mask",
           .neutral = "leank(recent=16777216)",
           .caps = &kCaps,
           .params = kParams},
          make,
          resolve};
}

}  // namespace pare
