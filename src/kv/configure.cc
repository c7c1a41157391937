#include "kv/configure.h"

#include <algorithm>

namespace pare {

void apply_policies(const PrefillFacts& prefill, const KvPolicy& policy, const LayerMap& layers,
                    KvStoreConfig& config) {
  const Caps& caps = policy.caps();
  // A generated row is worth sharing only if a prompt with the same tokens would have computed the same row.
  config.share_decoded = prefill.horizon == Horizon::kRow && (caps.breaks_sealed & kFactPrefixPure) == 0;
  for (size_t c = 0; c < layers.classes.size(); ++c) {
    config.prompt_reach[c] = prefill.reach[c];
    config.decode_reach[c] = within_layer_window(policy.decode_reach(), layers.classes[c].window);
    config.share_decoded &= prefill.exact[c] && config.decode_reach[c] == prefill.reach[c];
  }
  if (policy.mid() != nullptr) {
    config.mid = *policy.mid();
    config.share_decoded = false;
  }
  if (caps.rollback_rows != INT32_MAX) config.rollback_rows = std::max(config.rollback_rows, caps.rollback_rows);
  if (prefill.horizon == Horizon::kTail) config.share_tail_rows = prefill.horizon_arg;
  if (prefill.horizon == Horizon::kEpoch || prefill.horizon == Horizon::kWhole) config.share_prefixes = false;
}

}  // namespace pare
