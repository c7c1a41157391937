#include "kv/policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kv/dense.h"
#include "kv/leank.h"
#include "kv/quant.h"
#include "kv/streaming.h"

namespace pare {
namespace {

Run make_run(int zone, int32_t page0, int32_t row0, int32_t end, int flags, int32_t sink) {
  Run r;
  r.zone = static_cast<uint8_t>(zone);
  r.flags = static_cast<uint8_t>(flags);
  r.page0 = static_cast<uint32_t>(page0);
  r.row0 = r.pos0 = row0;
  r.rows = end - row0;
  r.sink = static_cast<uint16_t>(sink);
  return r;
}

// Plain rows of the full zone. At most 2 runs.
int runs_of_reach(const DecodeRows& rows, std::span<Run> out) {
  const int32_t end = rows.pos + rows.n_q;
  const auto run = [&](int32_t row0, int32_t row_end, int flags, int32_t sink) {
    return make_run(kZoneFull, rows.page0, row0, row_end, flags, sink);
  };
  // Several query rows end, and with a window begin, at different keys.
  const int causal = rows.n_q > 1 ? kRunCausal : 0;
  if (rows.reach.unlimited()) {
    out[0] = run(0, end, causal, 0);
    return 1;
  }
  const int32_t first = std::max(0, rows.pos - rows.reach.window + 1);
  const int32_t last_first = std::max(0, end - rows.reach.window);  // of the last query row
  const int32_t sink_end = std::min(rows.reach.sink, end);
  if (sink_end == 0) {
    out[0] = run(first, end, causal | (last_first > first ? kRunWindow : 0), 0);
    return 1;
  }
  // One run where both meet in a span: a window that moves on would else cut the span in another place each time.
  if (first / kSpanRows <= (sink_end - 1) / kSpanRows) {
    out[0] = run(0, end, causal | (last_first > sink_end ? kRunWindow : 0), sink_end);
    return 1;
  }
  out[0] = run(0, sink_end, 0, 0);
  out[1] = run(first, end, causal | (last_first > first ? kRunWindow : 0), 0);
  return 2;
}

// Sinks and recent rows in the full zone, the moved ones in the mid zone, estimated ones in zone sum.
int runs_of_mid(const DecodeRows& rows, const MidZone& mid, bool has_means, std::span<Run> out) {
  int n = 0;
  if (mid.sink > 0) out[n++] = make_run(kZoneFull, rows.page0, 0, mid.sink, 0, 0);
  const int causal = rows.n_q > 1 ? kRunCausal : 0;
  out[n++] = make_run(kZoneFull, rows.page0, rows.mid.moved, rows.pos + rows.n_q, causal, 0);
  out[n++] = make_run(kZoneMid, rows.mid.page0, mid.sink, rows.mid.moved, 0, 0);
  if (has_means) {
    out[n] = make_run(kZoneSum, rows.mid.page0, mid.sink / kSumRows, rows.mid.moved / kSumRows, 0, 0);
    out[n++].pos0 = -1;
  }
  return n;
}

}  // namespace

std::span<const KvPolicyEntry> kv_policy_registry() {
  static const std::array<KvPolicyEntry, 4> table = {dense_kv_entry(), streaming_kv_entry(), leank_kv_entry(),
                                                     quant_kv_entry()};
  return table;
}

KvPolicy::KvPolicy(KvDesign design, std::vector<const Caps*> stages)
    : design_(std::move(design)),
      has_means_(design_.mid && design_.mid->has_means()),
      stages_(std::move(stages)),
      caps_(*stages_.front()) {
  for (const Caps* stage : stages_) {
    if (!name_.empty()) name_ += '+';
    name_ += stage->name;
    caps_.needs |= stage->needs;
    caps_.breaks |= stage->breaks;
    caps_.breaks_sealed |= stage->breaks_sealed;
    caps_.owns |= stage->owns;
    caps_.rollback_rows = std::min(caps_.rollback_rows, stage->rollback_rows);
  }
  caps_.name = name_;
}

int KvPolicy::build_runs(const DecodeRows& rows, std::span<Run> out) const {
  if (rows.mid.moved > 0) return runs_of_mid(rows, *design_.mid, has_means_, out);
  return runs_of_reach(rows, out);
}

Expected<KvPolicyChoice> make_kv_policy(const Spec& spec, const PolicyContext& context) {
  KvPolicyChoice choice;
  KvDesign design;
  std::vector<const Caps*> stages;
  for (size_t t = 0; t < spec.terms.size(); ++t) {
    PARE_ASSIGN_OR_RETURN(auto made, make_policy(kv_policy_registry(), spec, t, context));
    const auto refuse = [&](const Status& why) { return spec_error(spec, spec.terms[t].column, why.message()); };
    for (const Caps* before : stages) {
      // A stage acts on what the ones before it made of the prompt's rows.
      if (Status legal = check_order(*before, *made.term.schema().caps, true); !legal.ok()) return refuse(legal);
    }
    if (Status applied = made.policy->apply(&design); !applied.ok()) return refuse(applied);
    stages.push_back(made.term.schema().caps);
    if (t > 0) choice.canonical += '+';
    choice.canonical += made.term.canonical();
  }
  choice.policy = std::make_unique<KvPolicy>(std::move(design), std::move(stages));
  return choice;
}

}  // namespace pare
