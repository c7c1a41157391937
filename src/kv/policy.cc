#include "kv/policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kv/dense.h"
#include "kv/streaming.h"

namespace pare {

std::span<const KvPolicyEntry> kv_policy_registry() {
  static const std::array<KvPolicyEntry, 2> table = {dense_kv_entry(), streaming_kv_entry()};
  return table;
}

Expected<KvPolicyChoice> make_kv_policy(const Spec& spec, const PolicyContext& context) {
  KvPolicyChoice choice;
  std::vector<const Caps*> stages;
  for (size_t t = 0; t < spec.terms.size(); ++t) {
    PARE_ASSIGN_OR_RETURN(auto made, make_policy(kv_policy_registry(), spec, t, context));
    for (const Caps* before : stages) {
      if (Status legal = check_order(*before, *made.term.schema().caps, false); !legal.ok()) {
        return spec_error(spec, spec.terms[t].column, legal.message());
      }
    }
    stages.push_back(made.term.schema().caps);
    if (t > 0) choice.canonical += '+';
    choice.canonical += made.term.canonical();
    choice.policy = std::move(made.policy);
  }
  if (stages.size() > 1) return unsupported(fmt::format("kv spec: no pipeline for {}", choice.canonical));
  return choice;
}

int runs_of_reach(const DecodeRows& rows, std::span<Run> out) {
  const int32_t end = rows.pos + rows.n_q;
  const auto run = [&](int32_t row0, int32_t row_end, int flags, int32_t sink) {
    Run r;
    r.flags = static_cast<uint8_t>(flags);
    r.page0 = static_cast<uint32_t>(rows.page0);
    r.row0 = r.pos0 = row0;
    r.rows = row_end - row0;
    r.sink = static_cast<uint16_t>(sink);
    return r;
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
  if (first / kSpanRows <= (sink_end - 1) / kSpanRows) {
    out[0] = run(0, end, causal | (last_first > sink_end ? kRunWindow : 0), sink_end);
    return 1;
  }
  out[0] = run(0, sink_end, 0, 0);
  out[1] = run(first, end, causal | (last_first > first ? kRunWindow : 0), 0);
  return 2;
}

}  // namespace pare
