#include "plan/caps.h"

#include <fmt/format.h>

#include <array>

namespace pare {
namespace {

constexpr std::array<std::string_view, kFactCount> kFactNames = {
    "PosOrder", "Plain", "FullWidth", "AllRows", "OnDevice", "RowSeparable", "ReRopable", "ChunkFree", "PrefixPure"};
constexpr std::array<std::string_view, kOwnCount> kOwnNames = {"Predicate", "MidRows", "Placement", "HeadOrder",
                                                               "Codec"};

template <size_t N>
std::string names_of(uint32_t bits, const std::array<std::string_view, N>& names) {
  std::string out;
  for (size_t i = 0; i < N; ++i) {
    if ((bits >> i & 1) == 0) continue;
    if (!out.empty()) out += '|';
    out += names[i];
  }
  return out.empty() ? "nothing" : out;
}

bool overlap(Phase a, Phase b) { return (static_cast<uint8_t>(a) & static_cast<uint8_t>(b)) != 0; }

constexpr uint32_t kReadAsWritten = kFactPosOrder | kFactPlain | kFactFullWidth | kFactAllRows;

// What the engine itself reads back. A feature owns nothing and breaks nothing.
constexpr std::array kFeatures = {
    Caps{.name = "chunked_prefill", .phase = Phase::kPrefill, .needs = kReadAsWritten},
    Caps{.name = "fork", .phase = Phase::kDecode},
    Caps{.name = "prefix_sharing", .phase = Phase::kPrefill, .needs = kFactPlain | kFactPrefixPure},
    Caps{.name = "preemption", .phase = Phase::kDecode, .needs = kFactChunkFree},
    Caps{.name = "second_turn", .phase = Phase::kDecode, .needs = kReadAsWritten},
    Caps{.name = "position_shift", .phase = Phase::kDecode, .needs = kFactPlain | kFactReRopable},
};

}  // namespace

std::string fact_names(uint32_t facts) { return names_of(facts, kFactNames); }
std::string own_names(uint32_t owns) { return names_of(owns, kOwnNames); }

std::span<const Caps> feature_caps() { return kFeatures; }

const Caps* find_feature(std::string_view name) {
  for (const Caps& feature : kFeatures) {
    if (feature.name == name) return &feature;
  }
  return nullptr;
}

Status check_order(const Caps& a, const Caps& b, bool sealed) {
  const uint32_t broken = sealed ? a.breaks | a.breaks_sealed : overlap(a.phase, b.phase) ? a.breaks : 0;
  if (const uint32_t missing = b.needs & broken; missing != 0) {
    return invalid_argument(fmt::format("'{}' cannot follow '{}': it needs {}, which '{}' breaks{}", b.name, a.name,
                                        fact_names(missing), a.name, sealed ? " once the prompt has ended" : ""));
  }
#ifndef PARE_FAULT_PLAN_TWO_OWNERS
  if (const uint32_t both = a.owns & b.owns; both != 0 && overlap(a.phase, b.phase)) {
    return invalid_argument(
        fmt::format("'{}' cannot follow '{}': both own {} of the same rows", b.name, a.name, own_names(both)));
  }
#endif
  return ok_status();
}

Status check_legal(std::span<const Caps* const> selectors, std::span<const Caps* const> kv_stages,
                   std::span<const Caps* const> features) {
  for (size_t i = 0; i < kv_stages.size(); ++i) {
    for (const Caps* selector : selectors) PARE_RETURN_IF_ERROR(check_order(*selector, *kv_stages[i], false));
    // A stage acts on what the ones before it made of the prompt's rows.
    for (size_t j = 0; j < i; ++j) PARE_RETURN_IF_ERROR(check_order(*kv_stages[j], *kv_stages[i], true));
  }
  for (const Caps* feature : features) {
    const bool sealed = feature->phase == Phase::kDecode;
    for (const Caps* selector : selectors) PARE_RETURN_IF_ERROR(check_order(*selector, *feature, sealed));
    for (const Caps* stage : kv_stages) PARE_RETURN_IF_ERROR(check_order(*stage, *feature, sealed));
  }
  return ok_status();
}

}  // namespace pare
