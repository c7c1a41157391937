// The part of a store's configuration that follows from the policies: reaches and what prefixes may be
// shared.
#pragma once

#include "kv/policy.h"
#include "kv/store.h"
#include "plan/layer_map.h"
#include "plan/prefill_facts.h"

namespace pare {

// Sets prompt_reach, decode_reach, mid, rollback_rows, share_tail_rows and share_decoded of `config`, and clears
// share_prefixes where nothing may be shared (Horizon kEpoch and kWhole: an epoch's rows know more than its
// tokens).
void apply_policies(const PrefillFacts& prefill, const KvPolicy& policy, const LayerMap& layers, KvStoreConfig& config);

}  // namespace pare
