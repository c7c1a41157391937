#include "attention/selector.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "attention/dense.h"
#include "attention/streaming.h"
#include "attention/triangle.h"
#include "base/checked.h"

namespace pare {

std::span<const SelectorEntry> selector_registry() {
  static const std::array<SelectorEntry, 3> table = {dense_selector_entry(), streaming_selector_entry(),
                                                     triangle_selector_entry()};
  return table;
}

Expected<SelectorSet> SelectorSet::make(const Spec& spec, const LayerMap& map, const PolicyContext& context) {
  const int32_t n_layers = static_cast<int32_t>(map.layers.size());
  constexpr int32_t kUnassigned = -1;
  std::vector<int32_t> term_of(n_layers, kUnassigned);
  SelectorSet set;
  int32_t rest = kUnassigned;

  const auto add = [&](const Spec& source, size_t t) -> Status {
    PARE_ASSIGN_OR_RETURN(auto made, make_policy(selector_registry(), source, t, context));
    set.terms_.push_back({std::move(made.term), std::move(made.policy)});
    return ok_status();
  };
  for (size_t t = 0; t < spec.terms.size(); ++t) {
    PARE_RETURN_IF_ERROR(add(spec, t));
    const std::vector<LayerRange>& ranges = set.terms_.back().bound.layers(kLayersParam.name);
    const int32_t term = static_cast<int32_t>(t);
    const auto fail = [&](std::string_view message) { return spec_error(spec, spec.terms[t].column, message); };
    if (ranges.empty()) {
      if (rest != kUnassigned) {
        return fail(fmt::format("'{}' and '{}' both have no layers=; one term may take the rest", spec.terms[rest].name,
                                spec.terms[t].name));
      }
      rest = term;
    }
    for (const LayerRange& range : ranges) {
      if (range.last >= n_layers) {
        return fail(fmt::format("layer {} is not in the model, which has {} layers", range.last, n_layers));
      }
      for (int32_t l = range.first; l <= range.last; ++l) {
#ifndef PARE_FAULT_ATTENTION_LAYER_TWICE
        if (term_of[l] != kUnassigned) {
          return fail(fmt::format("layer {} is already taken by '{}'", l, spec.terms[term_of[l]].name));
        }
#endif
        term_of[l] = term;
      }
    }
  }
  if (rest == kUnassigned && std::find(term_of.begin(), term_of.end(), kUnassigned) != term_of.end()) {
    PARE_ASSIGN_OR_RETURN(const Spec dense, parse_spec("dense", spec.label));
    rest = static_cast<int32_t>(set.terms_.size());
    PARE_RETURN_IF_ERROR(add(dense, 0));
  }
  std::replace(term_of.begin(), term_of.end(), kUnassigned, rest);

  for (int32_t l = 0; l < n_layers; ++l) {
    const int32_t cls = map.class_of[l], term = term_of[l];
    auto plan = std::find_if(set.plans_.begin(), set.plans_.end(),
                             [&](const Plan& p) { return p.cls == cls && p.term == term; });
    if (plan == set.plans_.end()) {
      if (static_cast<int>(set.plans_.size()) == kMaxBlockPlans) {
        return unsupported(fmt::format("attn spec: more than {} plans a step", kMaxBlockPlans));
      }
      const int32_t window = map.classes[cls].window;
      if (const Status accepted = set.terms_[term].selector->accepts(window); !accepted.ok()) {
        return spec_error(spec, spec.terms[term].column, fmt::format("layer {}: {}", l, accepted.message()));
      }
      set.plans_.push_back({cls, term, window});
      plan = set.plans_.end() - 1;
    }
    set.layers_.push_back({.block = static_cast<int16_t>(plan - set.plans_.begin()),
                           .cls = static_cast<int16_t>(cls),
                           .kv_layer = map.layers[l].kv_layer,
                           .writes_kv = map.layers[l].writes_kv});
  }

  // Canonical order: by first layer, the rest last.
  std::vector<int32_t> order(set.terms_.size());
  for (size_t t = 0; t < order.size(); ++t) order[t] = static_cast<int32_t>(t);
  const auto first_layer = [&](int32_t t) {
    const auto& ranges = set.terms_[t].bound.layers(kLayersParam.name);
    return ranges.empty() ? n_layers : ranges[0].first;
  };
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return first_layer(a) < first_layer(b); });
  for (int32_t t : order) {
    if (!set.canonical_.empty()) set.canonical_ += '+';
    set.canonical_ += set.terms_[t].bound.canonical();
  }
  return set;
}

std::vector<const Caps*> SelectorSet::caps() const {
  std::vector<const Caps*> out;
  for (const Term& term : terms_) out.push_back(&term.selector->caps());
  return out;
}

uint16_t SelectorSet::plan_flags() const {
  uint16_t flags = 0;
  for (const Term& term : terms_) flags = static_cast<uint16_t>(flags | term.selector->plan_flags());
  return flags;
}

PrefillFacts SelectorSet::facts() const {
  PrefillFacts facts;
  bool seen[kMaxClasses] = {};
  for (const Plan& p : plans_) {
    const AttentionSelector& selector = *terms_[p.term].selector;
    const Reach reach = within_layer_window(selector.reach(), p.window);
    Reach& all = facts.reach[p.cls];
    facts.exact[p.cls] = selector.reach_is_exact() && (!seen[p.cls] || (facts.exact[p.cls] && all == reach));
    all = seen[p.cls] ? join(all, reach) : reach;
    seen[p.cls] = true;
  }
  for (const Term& term : terms_) {
    const Caps& caps = term.selector->caps();
    facts.horizon = std::max(facts.horizon, caps.horizon);
    facts.horizon_arg = std::max(facts.horizon_arg, caps.horizon_arg);
  }
  return facts;
}

uint32_t SelectorSet::dense_terms(int32_t prompt_len, uint32_t flags) const {
  static_assert(kMaxSpecTerms < 31, "and one that stands for the rest");
  uint32_t bits = 0;
  for (size_t t = 0; t < terms_.size(); ++t) {
    if (terms_[t].selector->reads_densely(prompt_len, flags)) bits |= 1u << t;
  }
  return bits;
}

int32_t SelectorSet::chunk_grid() const {
  int64_t grid = 1;
  for (const Term& term : terms_) grid = std::lcm(grid, int64_t{term.selector->caps().chunk_grid});
  return static_cast<int32_t>(std::min<int64_t>(grid, INT32_MAX));
}

Status SelectorSet::build(const PrefillRows& rows, Arena& arena, StepPlans& plans) const {
  const auto blocks = arena.take<BlockPlan>(plans_.size());
  if (blocks.size() != plans_.size()) {
    return resource_exhausted(fmt::format("step arena of {} bytes is full (block plans)", arena.capacity()));
  }
  for (size_t i = 0; i < plans_.size(); ++i) {
    const Plan& plan = plans_[i];
    PARE_RETURN_IF_ERROR(terms_[plan.term].selector->build(rows, plan.window, arena, blocks[i]));
  }
  plans.blocks = blocks.data();
  plans.n_blocks = static_cast<int32_t>(blocks.size());
  plans.layers = layers_.data();
  plans.n_layers = static_cast<int32_t>(layers_.size());
  return ok_status();
}

size_t SelectorSet::max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) const {
  size_t bytes = round_up(plans_.size() * sizeof(BlockPlan), size_t{64});
  for (const Plan& plan : plans_) bytes += terms_[plan.term].selector->max_bytes(max_rows, max_seqs, tile_rows);
  return bytes;
}

}  // namespace pare
