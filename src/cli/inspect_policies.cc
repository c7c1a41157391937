#include "cli/inspect_policies.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "attention/selector.h"
#include "cli/console.h"
#include "kv/policy.h"

namespace pare::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string_view kind_name(ParamKind kind) {
  switch (kind) {
    case ParamKind::kInt: return "int";
    case ParamKind::kFloat: return "float";
    case ParamKind::kFraction: return "fraction";
    case ParamKind::kBytes: return "bytes";
    case ParamKind::kString: return "string";
    case ParamKind::kLayers: return "layers";
  }
  return "";
}

std::string_view phase_name(Phase phase) {
  switch (phase) {
    case Phase::kPrefill: return "prefill";
    case Phase::kDecode: return "decode";
    case Phase::kBoth: return "both";
  }
  return "";
}

std::string_view scope_name(Scope scope) {
  switch (scope) {
    case Scope::kLayer: return "layer";
    case Scope::kKvHead: return "KV head";
    case Scope::kQHead: return "query head";
  }
  return "";
}

std::string horizon_text(const Caps& caps) {
  switch (caps.horizon) {
    case Horizon::kRow: return "row";
    case Horizon::kTail: return fmt::format("tail of {} rows", caps.horizon_arg);
    case Horizon::kEpoch: return fmt::format("epochs of {} rows", caps.horizon_arg);
    case Horizon::kWhole: return "whole prompt";
  }
  return "";
}

// Whole numbers as integers, so that a reader sees 16777216 and not 1.6777216e7.
Json number(double value) {
  if (std::trunc(value) == value && std::abs(value) < 0x1p53) return static_cast<int64_t>(value);
  return value;
}

Json params_json(const PolicySchema& schema) {
  Json params = Json::array();
  for (const ParamSchema& p : schema.params) {
    Json param{{"name", p.name}, {"kind", kind_name(p.kind)}, {"optional", p.optional}};
    if (!p.optional) {
      param["default"] = number(p.fallback);
      param["min"] = number(p.min);
      param["max"] = number(p.max);
    }
    param["help"] = p.help;
    params.push_back(std::move(param));
  }
  return params;
}

Json caps_json(const Caps& c) {
  return {{"phase", phase_name(c.phase)},
          {"scope", scope_name(c.scope)},
          {"needs", fact_names(c.needs)},
          {"breaks", fact_names(c.breaks)},
          {"breaks_sealed", fact_names(c.breaks_sealed)},
          {"owns", own_names(c.owns)},
          {"horizon", horizon_text(c)},
          {"chunk_grid", c.chunk_grid},
          {"rollback_rows", c.rollback_rows == INT32_MAX ? Json(nullptr) : Json(c.rollback_rows)},
          {"verify_rows", c.verify_rows},
          {"min_tokens", c.min_tokens},
          {"dense_prompts", c.dense_prompts},
          {"batch_invariant", c.batch_invariant}};
}

struct Named {
  std::string label;  // "attn=dense"
  const PolicySchema* schema;
};

std::vector<Named> all_selectors() {
  std::vector<Named> out;
  for (const SelectorEntry& entry : selector_registry())
    out.push_back({fmt::format("attn={}", entry.schema.name), &entry.schema});
  return out;
}

std::vector<Named> all_kv_policies() {
  std::vector<Named> out;
  for (const KvPolicyEntry& entry : kv_policy_registry())
    out.push_back({fmt::format("kv={}", entry.schema.name), &entry.schema});
  return out;
}

// Sealed as check_legal has it: decode features run after the prompt has ended.
Status feature_after(const Caps& policy, const Caps& feature) {
  return check_order(policy, feature, feature.phase == Phase::kDecode);
}

std::vector<PolicyPair> legality() {
  std::vector<PolicyPair> pairs;
  const auto selectors = all_selectors(), stages = all_kv_policies();
  for (const Named& a : selectors) {
    for (const Named& b : stages)
      pairs.push_back({a.label, b.label, check_order(*a.schema->caps, *b.schema->caps, false)});
  }
  for (const Named& a : stages) {
    for (const Named& b : stages)
      pairs.push_back({a.label, b.label, check_order(*a.schema->caps, *b.schema->caps, true)});
  }
  for (const std::vector<Named>& family : {selectors, stages}) {
    for (const Named& a : family) {
      for (const Caps& f : feature_caps())
        pairs.push_back({a.label, std::string(f.name), feature_after(*a.schema->caps, f)});
    }
  }
  return pairs;
}

void print_policy(const Named& policy) {
  const PolicySchema& s = *policy.schema;
  fmt::print("{}: {}\n", policy.label, s.summary);
  for (const Json& p : params_json(s)) {
    const std::string range =
        p.contains("default") ? fmt::format("= {} ({} to {})", p["default"].dump(), p["min"].dump(), p["max"].dump())
                              : "optional";
    fmt::print("  {:<10} {:<8} {:<28} {}\n", p["name"].get<std::string>(), p["kind"].get<std::string>(), range,
               p["help"].get<std::string>());
  }
  fmt::print("  neutral: {}\n ", s.neutral);
  const Json facts = caps_json(*s.caps);
  for (const auto& [key, value] : facts.items()) {
    fmt::print(" {} {};", key, value.is_string() ? value.get<std::string>() : value.is_null() ? "any" : value.dump());
  }
  fmt::print("\n\n");
}

}  // namespace

std::vector<PolicyPair> policy_pairs() { return legality(); }

Status inspect_spec(const std::string& text, const LayerMap& layers, const PolicyContext& context, bool json) {
  PARE_ASSIGN_OR_RETURN(const SpecPair pair, parse_spec_pair(text));
  PARE_ASSIGN_OR_RETURN(const SelectorSet selectors, SelectorSet::make(pair.attn, layers, context));
  PARE_ASSIGN_OR_RETURN(const KvPolicyChoice kv, make_kv_policy(pair.kv, context));
  const std::vector<const Caps*> selector_caps = selectors.caps();
  const std::span<const Caps* const> stages = kv.policy->stages();
  PARE_RETURN_IF_ERROR(check_legal(selector_caps, stages, {}));
  const std::string canonical = fmt::format("attn={}; kv={}", selectors.canonical(), kv.canonical);
  Json features = Json::object();
  if (!json) fmt::print("{}\n", canonical);
  for (const Caps& feature : feature_caps()) {
    const Caps* const one[] = {&feature};
    const Status legal = check_legal(selector_caps, stages, one);
    features[std::string(feature.name)] = legal.ok() ? Json(true) : Json(std::string(legal.message()));
    if (!json) fmt::print("  {:<16} {}\n", feature.name, legal.ok() ? "yes" : legal.message());
  }
  if (json) {
    print_json({{"canonical", canonical},
                {"attn", selectors.canonical()},
                {"kv", kv.canonical},
                {"legal", true},
                {"features", std::move(features)}});
  }
  return ok_status();
}

Status inspect_policies(bool json) {
  if (json) {
    const auto family = [](const std::vector<Named>& policies) {
      Json list = Json::array();
      for (const Named& p : policies) {
        list.push_back({{"name", p.schema->name},
                        {"summary", p.schema->summary},
                        {"neutral", p.schema->neutral},
                        {"params", params_json(*p.schema)},
                        {"caps", caps_json(*p.schema->caps)}});
      }
      return list;
    };
    Json features = Json::array(), pairs = Json::array();
    for (const Caps& f : feature_caps()) features.push_back({{"name", f.name}, {"caps", caps_json(f)}});
    for (const PolicyPair& p : legality()) {
      pairs.push_back({{"first", p.first},
                       {"then", p.then},
                       {"legal", p.legal.ok()},
                       {"reason", p.legal.ok() ? Json(nullptr) : Json(std::string(p.legal.message()))}});
    }
    print_json({{"attn", family(all_selectors())},
                {"kv", family(all_kv_policies())},
                {"features", std::move(features)},
                {"legality", std::move(pairs)}});
    return ok_status();
  }
  for (const Named& p : all_selectors()) print_policy(p);
  for (const Named& p : all_kv_policies()) print_policy(p);
  fmt::print("{:<18} {:<18} legal\n", "first", "then");
  for (const PolicyPair& p : legality()) {
    fmt::print("{:<18} {:<18} {}\n", p.first, p.then, p.legal.ok() ? "yes" : fmt::format("no: {}", p.legal.message()));
  }
  return ok_status();
}

}  // namespace pare::cli
