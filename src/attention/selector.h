// AttentionSelector: which keys prefill rows attend. A selector fills a BlockPlan; it never sees bytes, pages
// or models. SelectorSet is a whole `attn` spec: its terms partition the layers, and each distinct (layer
// class, term) pair gets one BlockPlan a step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/limits.h"
#include "pare/status.h"
#include "plan/block_plan.h"
#include "plan/caps.h"
#include "plan/layer_map.h"
#include "plan/policy_context.h"
#include "plan/prefill_facts.h"
#include "plan/reach.h"
#include "plan/registry.h"
#include "plan/step.h"

namespace pare {

// The rows to plan for. Sequences with kSeqDecode or n_q = 0 are skipped.
struct PrefillRows {
  std::span<const SeqStep> seqs;
  const int32_t* limit = nullptr;  // [T] exclusive key bound of each row; null = causal. Encoders: the length
  int32_t n_heads = 0;             // tiles name heads [0, SeqStep::heads), or n_heads where that is 0
  uint16_t tile_rows = 0;          // the kernel's preference, a power of two in [1, 1024]
};

class AttentionSelector {
 public:
  virtual ~AttentionSelector() = default;
  virtual const Caps& caps() const = 0;

  // The smallest reach that covers every key any row sees, before a layer's own window: decides which pages
  // may die while a prompt is still being read.
  virtual Reach reach() const = 0;
  // True iff every row sees exactly reach() (so that a decode row with that reach equals a prefill row).
  virtual bool reach_is_exact() const = 0;

  // Whether it can plan for layers whose model attends the last `layer_window` keys only. kUnsupported says why not.
  virtual Status accepts([[maybe_unused]] int32_t layer_window) const { return ok_status(); }
  // BlockPlan::flags of what it builds.
  virtual uint16_t plan_flags() const { return 0; }

  // Prompts of fewer tokens are read densely, where the record allows that.
  virtual int32_t min_tokens() const { return 0; }
  // Whether every row of such a prompt attends every earlier one. `flags`: SeqStep::flags. A property of the whole
  // prompt, so that it may be part of the tag that stored rows are shared under.
  bool reads_densely(int32_t prompt_len, uint32_t flags) const {
    return caps().dense_prompts && ((flags & kSeqDense) != 0 || prompt_len < min_tokens());
  }

  // Fills `out` (arrays from `arena`) for layers whose model attends the last `layer_window` keys only.
  // kResourceExhausted when the arena is full. Cost O(tiles + sequences); no allocation outside the arena.
  virtual Status build(const PrefillRows& rows, int32_t layer_window, Arena& arena, BlockPlan& out) const = 0;

  // Arena bytes that build takes at most for a step of max_rows rows in max_seqs sequences.
  virtual size_t max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) const = 0;
};

// Every selector's last parameter: which layers its term takes (SelectorSet).
inline constexpr ParamSchema kLayersParam = {.name = "layers",
                                             .kind = ParamKind::kLayers,
                                             .optional = true,
                                             .max = kMaxLayers - 1,
                                             .help = "layers this term takes; without it, those that no other names"};

using SelectorEntry = RegistryEntry<AttentionSelector>;
std::span<const SelectorEntry> selector_registry();

// An `attn` spec bound to a model's layers. Immutable after make; any thread may build from it.
class SelectorSet {
 public:
  // Terms with layers= take those; the one without takes the rest; with none, the rest is dense. Errors:
  // unknown term or parameter, a layer named twice or not in the model, two terms without layers=, a layer that its
  // term does not accept, more plans than kMaxBlockPlans.
  static Expected<SelectorSet> make(const Spec& spec, const LayerMap& map, const PolicyContext& context = {});

  // Canonical spec: terms with layers= by first layer, then the rest.
  const std::string& canonical() const { return canonical_; }
  std::vector<const Caps*> caps() const;
  uint16_t plan_flags() const;  // BlockPlan::flags of all plans together

  // What the store needs to know (kv/configure.h). The strongest horizon of the terms; per class the union of
  // the reaches, exact iff every term in it has exactly that one.
  PrefillFacts facts() const;
  int32_t chunk_grid() const;  // prefill chunks end at multiples of it, or with the prompt

  // How a prompt is read: bit t: term t, as written, leaves keys out of a prompt and reads this one densely. Rows of
  // prompts with other bits are not interchangeable.
  uint32_t dense_terms(int32_t prompt_len, uint32_t flags) const;

  // Sets plans.blocks, n_blocks, layers and n_layers, arrays from `arena`.
  Status build(const PrefillRows& rows, Arena& arena, StepPlans& plans) const;
  size_t max_bytes(int32_t max_rows, int32_t max_seqs, uint16_t tile_rows) const;

 private:
  struct Term {
    BoundTerm bound;
    std::unique_ptr<AttentionSelector> selector;
  };
  struct Plan {
    int32_t cls, term, window;
  };
  std::vector<Term> terms_;
  std::vector<Plan> plans_;  // index = LayerPlan::block
  std::vector<LayerPlan> layers_;
  std::string canonical_;
};
inline constexpr int kMaxBlockPlans = 64;

}  // namespace pare
