#include "kv/step_builder.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"

namespace pare {
namespace {

constexpr size_t kArenaAlign = 64;

Status fill(std::span<const StepSeq> seqs, const LayerMap& layers, const KvPolicy& policy, const SegmentShape& shape,
            KvStore& store, Arena& tables, Arena& workspace, StepPlans& plans) {
  const size_t n_seqs = seqs.size(), n_rows = static_cast<size_t>(plans.n_rows);
  for (int32_t c = 0; c < plans.n_classes; ++c) {
    const auto steps = tables.take<SeqStep>(n_seqs);
    const auto dst = tables.take<int32_t>(n_rows);
    if (steps.size() != n_seqs || dst.size() != n_rows) {
      return resource_exhausted(fmt::format("step arena of {} bytes is full (rows)", tables.capacity()));
    }
    int32_t q_row = 0;
    for (size_t i = 0; i < n_seqs; ++i) {
      const StepSeq& in = seqs[i];
      SeqStep& s = steps[i] = SeqStep();
      s.q_row = q_row;
      s.n_q = static_cast<int32_t>(in.tokens.size());
      s.pos = store.length(in.seq);
      s.prompt_len = in.prompt_len;
      s.page0 = store.page0(in.seq, c);
      s.heads = in.heads != 0 ? in.heads : static_cast<uint16_t>(shape.n_heads);
      s.flags = in.decode ? kSeqDecode : in.dense ? kSeqDense : 0u;
      store.fill_dst(in.seq, c, dst.subspan(q_row, s.n_q));
      q_row += s.n_q;
    }
    std::span<MidRows> mids;
    if (policy.mid() != nullptr) {
      mids = tables.take<MidRows>(n_seqs);
      if (mids.size() != n_seqs) {
        return resource_exhausted(fmt::format("step arena of {} bytes is full (moved rows)", tables.capacity()));
      }
      for (size_t i = 0; i < n_seqs; ++i) mids[i] = store.mid(seqs[i].seq, c);
    }
    ClassStep& cls = plans.classes[c];
    PARE_RETURN_IF_ERROR(
        build_segment_plan(policy, layers.classes[c].window, shape, steps, mids, tables, workspace, cls.segment));
    cls.seqs = steps.data();
    cls.dst = dst.data();
  }
  return ok_status();
}

}  // namespace

Status build_step(std::span<const StepSeq> seqs, const LayerMap& layers, const KvPolicy& policy,
                  const SegmentShape& shape, KvStore& store, Arena& tables, Arena& workspace, StepPlans& plans) {
  plans = StepPlans();
  plans.n_seqs = static_cast<int32_t>(seqs.size());
  plans.n_classes = store.n_classes();
  for (const StepSeq& s : seqs) {
    store.append(s.seq, s.tokens, s.prompt_len);
    const int32_t n = static_cast<int32_t>(s.tokens.size());
    plans.n_rows += n;
    (s.decode ? plans.n_decode_rows : plans.n_prefill_rows) += n;
  }
  if (Status status = fill(seqs, layers, policy, shape, store, tables, workspace, plans); !status.ok()) {
    store.abort_step();
    return status;
  }
  const std::span<const PageCopy> copies = store.copies();
  plans.copies = copies.data();
  plans.n_copies = static_cast<int32_t>(copies.size());
  plans.kv = store.view();
  plans.pools = store.pools();
  return ok_status();
}

PlanBytes step_max_bytes(int32_t max_rows, int32_t max_seqs, int32_t max_context, const LayerMap& layers,
                         const KvPolicy& policy, const SegmentShape& shape) {
  const size_t rows = round_up(static_cast<size_t>(max_rows) * sizeof(int32_t), kArenaAlign);
  const size_t steps = round_up(static_cast<size_t>(max_seqs) * sizeof(SeqStep), kArenaAlign);
  // Decode rows: no more than max_seqs sequences of kMaxDecodeRows.
  const int32_t decode_rows = static_cast<int32_t>(std::min<int64_t>(max_rows, int64_t{max_seqs} * kMaxDecodeRows));
  const PlanBytes segment = segment_plan_max_bytes(policy, shape, max_seqs, decode_rows, max_context);
  const size_t classes = layers.classes.size();
  const size_t mids =
      policy.mid() == nullptr ? 0 : round_up(static_cast<size_t>(max_seqs) * sizeof(MidRows), kArenaAlign);
  return {.tables = classes * (rows + steps + segment.tables + mids),
          .workspace = classes * segment.workspace,
          .slots = segment.slots};
}

}  // namespace pare
