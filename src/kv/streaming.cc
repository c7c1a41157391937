#include "kv/streaming.h"

#include "base/limits.h"

namespace pare {
namespace {

constexpr Caps kCaps = {.name = "streaming",
                        .phase = Phase::kDecode,
                        .scope = Scope::kLayer,
                        .needs = kFactPosOrder | kFactPlain | kFactFullWidth,
                        .breaks_sealed = kFactAllRows,
                        .owns = kOwnPredicate,
                        .rollback_rows = 16};

constexpr ParamSchema kParams[] = {
    {.name = "sink", .fallback = 4, .min = 0, .max = UINT16_MAX, .help = "first rows that are kept"},
    {.name = "recent", .fallback = 1024, .min = 1, .max = kMaxContext, .help = "last rows that are kept"},
};

class StreamingStage final : public KvStage {
 public:
  explicit StreamingStage(Reach reach) : reach_(reach) {}
  Status apply(KvDesign* design) const override {
    design->reach = reach_;
    return ok_status();
  }

 private:
  Reach reach_;
};

Expected<std::unique_ptr<KvStage>> make(const BoundTerm& term, const PolicyContext&) {
  const Reach reach = reach_of(term.integer("sink"), term.integer("recent"));
  return std::unique_ptr<KvStage>(std::make_unique<StreamingStage>(reach));
}

}  // namespace

KvPolicyEntry streaming_kv_entry() {
  return {{.name = "streaming",
           .summary = "after the prompt, the first and the most recent rows are kept; the others' pages are freed",
           .neutral = "streaming(sink=0,recent=16777216)",
           .caps = &kCaps,
           .params = kParams},
          make};
}

}  // namespace pare
