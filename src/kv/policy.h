// KvPolicy: how a sequence's stored rows are kept and which of them a decode row reads. It decides; KvStore
// owns the bytes and the pages, SegmentPlanner turns the runs into work items.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "pare/status.h"
#include "plan/caps.h"
#include "plan/policy_context.h"
#include "plan/reach.h"
#include "plan/registry.h"
#include "plan/segment_plan.h"

namespace pare {

// A decoding sequence in one layer class: query rows at positions [pos, pos + n_q), rows [0, pos + n_q)
// appended.
struct DecodeRows {
  int32_t pos = 0, n_q = 1;
  int32_t page0 = 0;  // its page list
  Reach reach;        // decode_reach() within the class's own window
};

class KvPolicy {
 public:
  virtual ~KvPolicy() = default;
  virtual const Caps& caps() const = 0;

  // What a decode row sees in a class without a window of its own. Once the prompt has ended, pages out of it
  // die.
  virtual Reach decode_reach() const = 0;

  // Writes the runs that the rows read, ascending in row0 within a zone, no span in two runs; fills every
  // field of Run except members and item_spans. Returns their number, at most max_runs(). No allocation.
  virtual int build_runs(const DecodeRows& rows, std::span<Run> out) const = 0;
  virtual int max_runs() const = 0;
};

// The runs of a policy that keeps a reach of plain rows in the full zone. At most 2.
int runs_of_reach(const DecodeRows& rows, std::span<Run> out);

using KvPolicyEntry = RegistryEntry<KvPolicy>;
std::span<const KvPolicyEntry> kv_policy_registry();

// A `kv` spec: one policy. Pipelines of several stages are checked against the capability records; those that
// are legal but have no implementation are kUnsupported.
struct KvPolicyChoice {
  std::unique_ptr<KvPolicy> policy;
  std::string canonical;
};
Expected<KvPolicyChoice> make_kv_policy(const Spec& spec, const PolicyContext& context = {});

}  // namespace pare
