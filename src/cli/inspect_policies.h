// `inspect spec` and `inspect policies`: everything they say is derived from the registries and capability records.
#pragma once

#include <string>
#include <vector>

#include "pare/status.h"
#include "plan/layer_map.h"
#include "plan/policy_context.h"

namespace pare::cli {

// The canonical form of "attn=...; kv=..." over these layers, and which engine features it allows. An illegal
// combination is the error that names the pair and the fact.
Status inspect_spec(const std::string& text, const LayerMap& layers, const PolicyContext& context, bool json);

// Every selector and KV policy: parameters, defaults, capability record; then who may follow whom.
Status inspect_policies(bool json);

// Two methods in order, or a method and an engine feature, and whether the records allow them together.
struct PolicyPair {
  std::string first, then;  // "attn=dense", "kv=streaming", "second_turn"
  Status legal;
};
// Selectors with KV stages, stages with stages, methods with features: all of what is registered.
std::vector<PolicyPair> policy_pairs();

}  // namespace pare::cli
