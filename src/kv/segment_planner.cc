#include "kv/segment_planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/checked.h"

namespace pare {
namespace {

constexpr int32_t kOctetRows = kOctetSpans * kSpanRows;
constexpr int32_t kTasksPerThread = 4;  // items x KV heads: enough that threads finish together
constexpr int32_t kMaxItemSpans = 32 * kOctetSpans;
constexpr int kMaxRunsOfPolicy = 8;
constexpr size_t kArenaAlign = 64;

int32_t first_octet(const Run& run) { return run.row0 / kOctetRows; }
int32_t last_octet(const Run& run) { return (run.row0 + run.rows - 1) / kOctetRows; }

int32_t units_of(const Run& run) {
  const int32_t rows = spans_of_unit(run.item_spans) * kSpanRows;
  return (run.row0 + run.rows - 1) / rows - run.row0 / rows + 1;
}
// Items begin at multiples of their size, so a run that does not may have one more than its rows fill.
int32_t items_of(const Run& run) {
  const int32_t rows = run.item_spans * kSpanRows;
  return (run.row0 + run.rows - 1) / rows - run.row0 / rows + 1;
}

// Rows of the runs that are to be cut into items.
struct RunRows {
  static constexpr int32_t kChoices[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};  // spans of an item
  int64_t all = 0, longest = 0;
  int64_t items[std::size(kChoices)] = {};
  void add(int64_t rows) {
    all += rows;
    longest = std::max(longest, rows);
    for (size_t c = 0; c < std::size(kChoices); ++c) items[c] += ceil_div<int64_t>(rows, kChoices[c] * kSpanRows);
  }
};

// Spans of an item, so that all `threads` are done soonest. Dealt in rounds, the last round may be half empty; dealt in
// shares of equal bytes (KV heads of unequal widths), a share is off by up to half an item, and a long one by a whole.
// Spans only where segment_plan_max_bytes counts on them.
uint16_t soonest_done(const RunRows& rows, const SegmentShape& shape, bool in_shares) {
  const bool few = rows.all * shape.n_kv_heads <= int64_t{kOctetRows} * kTasksPerThread * shape.threads;
  const int64_t overhead = std::max(shape.item_overhead, kMinItemOverhead);
  int64_t best = INT64_MAX;
  int32_t spans = kOctetSpans;
  for (size_t c = 0; c < std::size(RunRows::kChoices); ++c) {
    if (!few && RunRows::kChoices[c] < kOctetSpans) continue;
    const int64_t items = rows.items[c] * shape.n_kv_heads;
    const int64_t item_rows = std::min<int64_t>(RunRows::kChoices[c] * kSpanRows, rows.longest);
    const int64_t cost = in_shares
                             ? (rows.all * shape.n_kv_heads + items * overhead) / shape.threads + item_rows + overhead
                             : ceil_div<int64_t>(items, shape.threads) * (item_rows + overhead);
    if (cost >= best) continue;
    best = cost;
    spans = RunRows::kChoices[c];
  }
  return static_cast<uint16_t>(spans);
}

// Spans of an item, so that the rows of all runs make about kTasksPerThread tasks for each thread.
uint16_t choose_item_spans(const RunRows& run_rows, const SegmentShape& shape, bool in_shares) {
  if (shape.item_overhead > 0) return soonest_done(run_rows, shape, in_shares);
  const int64_t rows = run_rows.all;
  const int64_t tasks = shape.threads > 1 ? int64_t{kTasksPerThread} * shape.threads : 1;
  const int64_t per_task = rows * shape.n_kv_heads / tasks;
  if (per_task < kOctetRows) return 1;
  return static_cast<uint16_t>(std::min<int64_t>(per_task / kOctetRows * kOctetSpans, kMaxItemSpans));
}

// Rows [begin, end) of `run` as a run of its own; it keeps the flags, which speak of absolute rows.
Run piece(const Run& run, int32_t begin, int32_t end, uint16_t item_spans) {
  Run out = run;
  out.row0 = begin;
  out.rows = end - begin;
  if (run.pos0 >= 0) out.pos0 = run.pos0 + (begin - run.row0);
  out.item_spans = item_spans;
  return out;
}

// Cuts a run so that no octet is in a piece of octets and in another run: an octet shared with a neighbour
// goes by spans. At most three pieces.
int cut_run(const Run& run, bool shares_first, bool shares_last, uint16_t item_spans, Run* out) {
  const int32_t end = run.row0 + run.rows;
  if (item_spans < kOctetSpans) {
    out[0] = piece(run, run.row0, end, item_spans);
    return 1;
  }
  int32_t body = run.row0, body_end = end;
  if (shares_first) body = std::min(end, (first_octet(run) + 1) * kOctetRows);
  if (shares_last) body_end = std::max(body, last_octet(run) * kOctetRows);
  int n = 0;
  if (body > run.row0) out[n++] = piece(run, run.row0, body, 1);
  if (body_end > body) out[n++] = piece(run, body, body_end, item_spans);
  if (end > body_end) out[n++] = piece(run, body_end, end, 1);
  return n;
}

bool is_decode(const SeqStep& s) { return s.n_q > 0 && (s.flags & kSeqDecode) != 0; }

int64_t floats_of_slot(const SegmentShape& shape) { return int64_t{shape.n_heads} * (shape.head_dim + 2); }

}  // namespace

Status build_segment_plan(const KvPolicy& policy, int32_t layer_window, const SegmentShape& shape,
                          std::span<SeqStep> seqs, std::span<const MidRows> mids, Arena& tables, Arena& workspace,
                          SegmentPlan& out) {
  const Reach reach = within_layer_window(policy.decode_reach(), layer_window);
  const int max_runs = policy.max_runs();
  if (max_runs > kMaxRunsOfPolicy) return internal_error(fmt::format("a KV policy with {} runs a sequence", max_runs));

  int32_t n_decode = 0;
  RunRows rows;
  Run runs_of_seq[kMaxRunsOfPolicy];
  const auto plan_seq = [&](const SeqStep& s) {
    DecodeRows decode{.pos = s.pos, .n_q = s.n_q, .page0 = s.page0, .reach = reach};
    if (!mids.empty()) decode.mid = mids[static_cast<size_t>(&s - seqs.data())];
    return policy.build_runs(decode, runs_of_seq);
  };
  for (SeqStep& s : seqs) {
    s.fold0 = s.n_folds = 0;
    if (!is_decode(s)) continue;
    if (s.n_q > kMaxDecodeRows) {
      return internal_error(fmt::format("{} decode rows of one sequence, limit {}", s.n_q, kMaxDecodeRows));
    }
    ++n_decode;
    const int n = plan_seq(s);
    for (int r = 0; r < n; ++r) rows.add(runs_of_seq[r].rows);
  }
  const uint16_t item_spans = choose_item_spans(rows, shape, policy.mid() != nullptr);

  const size_t cap = static_cast<size_t>(n_decode) * max_runs * 3;
  const auto runs = tables.take<Run>(cap);
  const auto members = tables.take<Member>(cap);
  const auto folds = tables.take<Fold>(cap);
  const auto prefix = tables.take<int32_t>(cap + 1);
  const auto count = tables.take<int32_t>(1);
  const auto full = [](const Arena& arena) {
    return resource_exhausted(fmt::format("step arena of {} bytes is full (segment plan)", arena.capacity()));
  };
  if (runs.size() + members.size() + folds.size() + prefix.size() + count.size() != 4 * cap + 2) return full(tables);

  int32_t n_runs = 0, slots = 0;
  prefix[0] = 0;
  for (size_t i = 0; i < seqs.size(); ++i) {
    SeqStep& s = seqs[i];
    if (!is_decode(s)) continue;
    s.fold0 = n_runs;
    const int n = plan_seq(s);
    for (int r = 0; r < n; ++r) {
      const Run& run = runs_of_seq[r];
      const auto meets = [&](int other) {
        return other >= 0 && other < n && runs_of_seq[other].zone == run.zone &&
               (other < r ? last_octet(runs_of_seq[other]) == first_octet(run)
                          : first_octet(runs_of_seq[other]) == last_octet(run));
      };
      const int pieces = cut_run(run, meets(r - 1), meets(r + 1), item_spans, &runs[n_runs]);
      for (int p = 0; p < pieces; ++p, ++n_runs) {
        Run& made = runs[n_runs];
        const int32_t units = units_of(made);
        made.n_members = 1;
        made.member0 = n_runs;
        members[n_runs] = {static_cast<int32_t>(i), slots};
        folds[n_runs] = {.part0 = slots,
                         .n_parts = units,
                         .span0 = made.row0 / kSpanRows,
                         .unit = static_cast<uint16_t>(spans_of_unit(made.item_spans)),
                         .section = made.zone};
        slots += units * s.n_q;
        prefix[n_runs + 1] = prefix[n_runs] + items_of(made);
      }
    }
    s.n_folds = static_cast<uint16_t>(n_runs - s.fold0);
  }
  // A power of two of slots: steps of one batch then find their temporaries at the same addresses while they grow, and
  // an accelerator replays what it captured.
  const size_t part_floats = static_cast<size_t>(slots == 0 ? 0 : std::bit_ceil(static_cast<uint32_t>(slots))) *
                             static_cast<size_t>(floats_of_slot(shape));
  const auto parts = workspace.take<float>(part_floats);
  if (parts.size() != part_floats) return full(workspace);

  count[0] = n_runs;
  out = SegmentPlan();
  out.runs = runs.data();
  out.n_runs = count.data();
  out.item_prefix = prefix.data();
  out.members = members.data();
  out.folds = folds.data();
  out.parts = parts.data();
  out.runs_cap = static_cast<int32_t>(cap);
  out.items_cap = prefix[n_runs];
  out.parts_cap = static_cast<int32_t>(part_floats / static_cast<size_t>(floats_of_slot(shape)));
  out.window = reach.window;
  return ok_status();
}

PlanBytes segment_plan_max_bytes(const KvPolicy& policy, const SegmentShape& shape, int32_t max_seqs, int32_t max_rows,
                                 int32_t max_context) {
  const int64_t seqs = std::min(max_seqs, max_rows);
  const int64_t cap = seqs * policy.max_runs() * 3;
  const auto array = [](int64_t bytes) { return round_up(static_cast<size_t>(bytes), kArenaAlign); };
  // By octets: those of the context, and two cut octets that go by spans for each run. By spans, which is
  // chosen only while all rows together are few (choose_item_spans): these, and two cut spans for each run.
  const int64_t context = policy.max_rows_read(max_context);
  const int64_t by_octets =
      max_rows * (ceil_div<int64_t>(context, kOctetRows) + int64_t{policy.max_runs()} * (2 * kOctetSpans + 2));
  const int64_t few_rows = int64_t{kOctetRows} * kTasksPerThread * std::max(1, shape.threads) / shape.n_kv_heads;
  const int64_t by_spans = kMaxDecodeRows * (ceil_div<int64_t>(few_rows, kSpanRows) + 2 * seqs * policy.max_runs());
  const int64_t spans_at_most = max_rows * (ceil_div<int64_t>(context, kSpanRows) + int64_t{2} * policy.max_runs());
  const int64_t slots = std::max(by_octets, std::min(by_spans, spans_at_most));
  const auto slots_taken = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(slots)));
  return {.tables = array(cap * sizeof(Run)) + array(cap * sizeof(Member)) + array(cap * sizeof(Fold)) +
                    array((cap + 1) * sizeof(int32_t)) + kArenaAlign,
          .workspace = array(slots_taken * floats_of_slot(shape) * static_cast<int64_t>(sizeof(float))),
          .slots = slots_taken};
}

}  // namespace pare
