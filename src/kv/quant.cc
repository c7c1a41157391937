#include "kv/quant.h"

#include <fmt/format.h>

#include "base/limits.h"

namespace pare {
namespace {

constexpr Caps kCaps = {.name = "quant",
                        .phase = Phase::kDecode,
                        .scope = Scope::kLayer,
                        .needs = kFactPosOrder | kFactPlain | kFactAllRows,
                        .breaks_sealed = kFactPlain | kFactRowSeparable | kFactReRopable,
                        .owns = kOwnCodec,
                        .rollback_rows = 0};

constexpr ParamSchema kParams[] = {
    {.name = "k", .fallback = 4, .min = 2, .max = 16, .help = "bits of a key channel: 2, 4, 8; 16 leaves keys alone"},
    {.name = "v", .fallback = 4, .min = 2, .max = 16, .help = "bits of a value channel: 2, 4, 8; 16 leaves them alone"},
    {.name = "sink", .fallback = 0, .min = 0, .max = UINT16_MAX, .help = "first rows, which stay whole"},
    {.name = "recent", .fallback = 128, .min = 1, .max = kMaxContext, .help = "last rows that are always whole"},
    {.name = "flush",
     .fallback = 128,
     .min = kPageRows,
     .max = kMaxContext,
     .help = "rows that are quantized at once; a multiple of 64"},
    {.name = "min_tokens",
     .fallback = 0,
     .min = 0,
     .max = kMaxContext,
     .help = "shorter sequences keep every row whole"},
};

class QuantStage final : public KvStage {
 public:
  explicit QuantStage(MidZone zone) : zone_(zone) {}
  Status apply(KvDesign* design) const override {
    if (!design->mid) design->mid.emplace();
    MidZone& mid = *design->mid;
    mid.k_bits = zone_.k_bits;
    mid.v_bits = zone_.v_bits;
    return join_windows(&mid, zone_.sink, zone_.recent, zone_.flush, zone_.min_tokens);
  }

 private:
  MidZone zone_;
};

Expected<int32_t> bits_of(const BoundTerm& term, std::string_view name) {
  const int64_t bits = term.integer(name);
  if (bits == 2 || bits == 4 || bits == 8 || bits == 16) return static_cast<int32_t>(bits);
  return invalid_argument(fmt::format("{} is {}: 2, 4, 8 or 16 bits are possible", name, bits));
}

Expected<std::unique_ptr<KvStage>> make(const BoundTerm& term, const PolicyContext&) {
  MidZone zone;
  PARE_ASSIGN_OR_RETURN(zone.k_bits, bits_of(term, "k"));
  PARE_ASSIGN_OR_RETURN(zone.v_bits, bits_of(term, "v"));
  PARE_RETURN_IF_ERROR(join_windows(&zone, term.integer("sink"), term.integer("recent"), term.integer("flush"),
                                    term.integer("min_tokens")));
  return std::unique_ptr<KvStage>(std::make_unique<QuantStage>(zone));
}

}  // namespace

KvPolicyEntry quant_kv_entry() {
  return {{.name = "quant",
           .summary = "after the prompt, rows that are not recent are stored with 8, 4 or 2 bits",
           .neutral = "quant(recent=16777216)",
           .caps = &kCaps,
           .params = kParams},
          make};
}

}  // namespace pare
