#include "kv/dense.h"

namespace pare {
namespace {

// Keeping everything as written excludes any stage that does not: it owns all there is to own in decode.
constexpr Caps kCaps = {.name = "dense",
                        .phase = Phase::kDecode,
                        .scope = Scope::kLayer,
                        .owns = kOwnPredicate | kOwnMidRows | kOwnPlacement | kOwnHeadOrder | kOwnCodec};

class DensePolicy final : public KvPolicy {
 public:
  const Caps& caps() const override { return kCaps; }
  Reach decode_reach() const override { return {}; }
  int build_runs(const DecodeRows& rows, std::span<Run> out) const override { return runs_of_reach(rows, out); }
  int max_runs() const override { return 2; }
};

Expected<std::unique_ptr<KvPolicy>> make(const BoundTerm&, const PolicyContext&) {
  return std::unique_ptr<KvPolicy>(std::make_unique<DensePolicy>());
}

}  // namespace

KvPolicyEntry dense_kv_entry() {
  return {{.name = "dense", .summary = "every row is kept and read", .neutral = "dense", .caps = &kCaps, .params = {}},
          make};
}

}  // namespace pare
