#include "kv/dense.h"

namespace pare {
namespace {

// Keeping everything as written excludes any stage that does not: it owns all there is to own in decode.
constexpr Caps kCaps = {.name = "dense",
                        .phase = Phase::kDecode,
                        .scope = Scope::kLayer,
                        .owns = kOwnPredicate | kOwnMidRows | kOwnPlacement | kOwnHeadOrder | kOwnCodec};

class DenseStage final : public KvStage {
 public:
  Status apply(KvDesign*) const override { return ok_status(); }
};

Expected<std::unique_ptr<KvStage>> make(const BoundTerm&, const PolicyContext&) {
  return std::unique_ptr<KvStage>(std::make_unique<DenseStage>());
}

}  // namespace

KvPolicyEntry dense_kv_entry() {
  return {{.name = "dense", .summary = "every row is kept and read", .neutral = "dense", .caps = &kCaps, .params = {}},
          make};
}

}  // namespace pare
