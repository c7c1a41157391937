// Policy spec strings: any bytes are an error or a spec whose canonical text means the same, up to policies
// bound to a model.
#include <cstdint>
#include <string_view>

#include "attention/selector.h"
#include "base/check.h"
#include "kv/policy.h"
#include "plan/layer_map.h"
#include "plan/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pare;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static const LayerMap map = uniform_layer_map(32);

  auto spec = parse_spec(text, "attn");
  if (spec.ok()) {
    const std::string printed = print_spec(*spec);
    // Escapes make a string longer, so the canonical text of a long spec may be over the limit; nothing else
    // may fail.
    auto again = parse_spec(printed, "attn");
    PARE_CHECK(again.ok() ? *again == *spec && print_spec(*again) == printed : printed.size() > size);
    if (auto set = SelectorSet::make(*spec, map); set.ok()) {
      auto canonical = parse_spec(set->canonical(), "attn");
      if (canonical.ok()) {
        auto rebound = SelectorSet::make(*canonical, map);
        PARE_CHECK(rebound.ok() && rebound->canonical() == set->canonical());
      }
    }
    if (auto kv = make_kv_policy(*spec); kv.ok()) {
      auto canonical = parse_spec(kv->canonical, "kv");
      PARE_CHECK(canonical.ok() && make_kv_policy(*canonical)->canonical == kv->canonical);
    }
  }
  if (auto pair = parse_spec_pair(text); pair.ok()) {
    (void)SelectorSet::make(pair->attn, map).ok();
    (void)make_kv_policy(pair->kv).ok();
  }
  return 0;
}
