// KvPolicy: how a sequence's stored rows are kept and which of them a decode row reads. It decides; KvStore
// owns the bytes and the pages, SegmentPlanner turns the runs into work items.
//
// A `kv` spec is a pipeline of stages; each stage fills in its part of one KvDesign (what is dropped, pruned,
// quantized), and the policy is what the finished design says.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/mid_zone.h"
#include "pare/status.h"
#include "plan/caps.h"
#include "plan/policy_context.h"
#include "plan/reach.h"
#include "plan/registry.h"
#include "plan/segment_plan.h"

namespace pare {

struct KvDesign {
  Reach reach;                 // what a decode row sees in a class without a window of its own
  std::optional<MidZone> mid;  // rows that leave the recent ones; layers with a window of their own have none
};

// One term of a `kv` spec.
class KvStage {
 public:
  virtual ~KvStage() = default;
  // Adds this stage's decisions. Errors: they contradict an earlier stage's.
  virtual Status apply(KvDesign* design) const = 0;
};

using KvPolicyEntry = RegistryEntry<KvStage>;
std::span<const KvPolicyEntry> kv_policy_registry();

// A decoding sequence in one layer class: query rows at positions [pos, pos + n_q), rows [0, pos + n_q) appended, of
// which none but the last n_q may be newer than what mid.moved was computed for.
struct DecodeRows {
  int32_t pos = 0, n_q = 1;
  int32_t page0 = 0;  // its page list
  Reach reach;        // decode_reach() within the class's own window
  MidRows mid;
};

class KvPolicy {
 public:
  KvPolicy(KvDesign design, std::vector<const Caps*> stages);
  KvPolicy(const KvPolicy&) = delete;  // caps_ names name_
  KvPolicy& operator=(const KvPolicy&) = delete;

  // What holds of the pipeline as a whole: facts broken by any stage, the least rollback.
  const Caps& caps() const { return caps_; }
  std::span<const Caps* const> stages() const { return stages_; }

  // What a decode row sees in a class without a window of its own. Once the prompt has ended, pages out of it
  // die.
  Reach decode_reach() const { return design_.reach; }
  // The mid zone of classes without a window of their own; null: there is none.
  const MidZone* mid() const { return design_.mid ? &*design_.mid : nullptr; }

  // Writes the runs that the rows read, ascending in (zone, row0); fills every field of Run except members and
  // item_spans. Two runs of a zone may meet within a span: they are partial results of their own. Returns
  // their number, at most max_runs(). No allocation.
  int build_runs(const DecodeRows& rows, std::span<Run> out) const;
  int max_runs() const { return design_.mid ? (has_means_ ? 4 : 3) : 2; }
  // Rows of all zones that a decode row reads at most, `context` rows being there.
  int64_t max_rows_read(int32_t context) const { return int64_t{context} + (has_means_ ? context / kSumRows + 1 : 0); }

 private:
  KvDesign design_;
  bool has_means_;  // of the mid zone
  std::vector<const Caps*> stages_;
  std::string name_;
  Caps caps_;
};

// A bound `kv` spec. Stages are checked against the capability records in the order written: an illegal pair is
// refused by name, with the reason.
struct KvPolicyChoice {
  std::unique_ptr<KvPolicy> policy;
  std::string canonical;
};
Expected<KvPolicyChoice> make_kv_policy(const Spec& spec, const PolicyContext& context = {});

}  // namespace pare
