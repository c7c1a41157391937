// Sampling on a card: draws reach it in the step's tables, ids stay there for the next step and come back beside it.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "base/limits.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/sample.h"
#include "ops/cuda/cuda_ops.h"

namespace pare::ops {
namespace {

enum : uint32_t { kWantsLogprobs = 1, kWantsTop = 2 };

// What a step's draws may point to at most, for each sequence: counted ids are those of its context.
size_t counted_bytes(const StepMemory& m) { return static_cast<size_t>(m.max_context) * sizeof(TokenCount) + 64; }
constexpr size_t kForkBytes = 64;
constexpr size_t kBiasBytes = kMaxLogitBias * sizeof(LogitBias) + 64;

// A draw that nothing points into yet.
cuda::SampleRow to_device_row(const SampleRow& r) {
  cuda::SampleRow d;
  d.logits_row = r.logits_row;
  d.temperature = r.temperature;
  d.top_p = r.top_p;
  d.min_p = r.min_p;
  d.typical_p = r.typical_p;
  d.repetition = r.repetition;
  d.frequency = r.frequency;
  d.presence = r.presence;
  d.top_k = r.top_k;
  d.n_top = r.n_top;
  d.seed = r.seed;
  d.slot = r.slot;
  d.branch = r.branch;
  d.position = r.position;
  d.n_counts = r.n_counts;
  d.uncounted = r.uncounted;
  d.n_bias = r.n_bias;
  d.wants_logprob = r.wants_logprob;
  return d;
}

static_assert(sizeof(cuda::TokenCount) == sizeof(TokenCount) && sizeof(cuda::LogitBias) == sizeof(LogitBias) &&
              sizeof(cuda::TopLogprob) == sizeof(TopLogprob));

// `room`: items that the tables keep for it, n at least.
template <typename To, typename From>
To* copy_to(Arena& tables, const From* from, int32_t n, int32_t room) {
  if (n == 0) return nullptr;
  const auto to = tables.take<To>(static_cast<size_t>(room));
  PARE_CHECK(!to.empty());
  std::memcpy(to.data(), from, static_cast<size_t>(n) * sizeof(To));
  return to.data();
}

// Counted ids grow by one a step. Room for many more keeps what lies behind them in its place, which captured steps
// were made from.
int32_t counted_room(int32_t n, const StepMemory& m) {
  constexpr uint32_t kLeast = 64;
  const auto room = static_cast<int64_t>(std::bit_ceil(std::max(kLeast, static_cast<uint32_t>(n))));
  return static_cast<int32_t>(std::max<int64_t>(n, std::min<int64_t>(room, m.max_context)));
}

// A vocabulary that no kernel takes is refused by the launch.
size_t workspace_bytes(int64_t rows, int64_t vocab) {
  const auto bytes = cuda::sample_workspace_bytes(rows, vocab);
  return bytes.ok() ? *bytes : 0;
}

}  // namespace

size_t CudaOps::draw_table_bytes(const StepMemory& m) {
  const size_t rows = static_cast<size_t>(m.max_sequences);
  return rows * (counted_bytes(m) + kBiasBytes + sizeof(cuda::SampleRow) + kForkBytes) + 256;
}

SampleBatch CudaOps::stage(Arena& tables, const SampleRow* rows, int64_t n) {
  SampleBatch batch;
  batch.rows = rows;
  batch.n = n;
  if (n == 0) return batch;
  const auto device_rows = tables.take<cuda::SampleRow>(static_cast<size_t>(n));
  PARE_CHECK(!device_rows.empty());
  for (int64_t i = 0; i < n; ++i) {
    cuda::SampleRow row = to_device_row(rows[i]);
    const int32_t room = counted_room(rows[i].n_counts, memory_);
    row.counts = on_device(copy_to<cuda::TokenCount>(tables, rows[i].counts, rows[i].n_counts, room));
    row.bias = on_device(copy_to<cuda::LogitBias>(tables, rows[i].bias, rows[i].n_bias, rows[i].n_bias));
    device_rows[i] = row;
    if (row.wants_logprob) batch.kinds |= kWantsLogprobs;
    if (row.n_top > 0) batch.kinds |= kWantsTop;
  }
  batch.device_rows = device_rows.data();
  return batch;
}

size_t CudaOps::sample_workspace_bytes(int64_t rows, int64_t vocab) const {
  constexpr size_t kAlign = 64;
  return workspace_bytes(rows, vocab) + kAlign;
}

void CudaOps::sample(Arena& arena, const SampleBatch& batch, const Tensor& logits, const SampleOutput& out,
                     Tensor& last_tokens) {
  if (batch.n == 0) return;
  const int64_t vocab = logits.row_items();
  const size_t mark = arena.mark();
  const auto workspace = arena.take<std::byte>(workspace_bytes(batch.n, vocab));
  cuda::SampleArgs args;
  args.rows = static_cast<const cuda::SampleRow*>(batch.device_rows);
  args.logits = logits.as<float>();
  args.n = batch.n;
  args.vocab = vocab;
  // The outputs are page-locked: the card writes the few bytes where the host reads them, which is quicker than a copy
  // at the end of the step.
  args.ids = out.ids;
  drawn_ids_ = out.ids;
  args.logprobs = (batch.kinds & kWantsLogprobs) != 0 ? out.logprobs : nullptr;
  args.top = reinterpret_cast<cuda::TopLogprob*>(out.top);
  args.top_cap = (batch.kinds & kWantsTop) != 0 ? out.top_cap : 0;
  args.last_tokens = last_tokens.as<int32_t>();
  args.workspace = workspace.data();
  if (tables_[parity_].time()) {
    args.began = began_.as<uint64_t>() + parity_;
    args.times = tables_[parity_].time();
  }
  check(cuda::sample(args, stream_, true));
  arena.release(mark);
}

void CudaOps::store_token(Arena& tables, int64_t row, int32_t slot, Tensor& last_tokens) {
  // Two numbers after the upload: the card reads them where they are.
  const auto place = tables.take<int32_t>(2);
  PARE_CHECK(!place.empty());
  place[0] = static_cast<int32_t>(row);
  place[1] = slot;
  check(cuda::store_tokens(
      {.ids = drawn_ids_, .rows = &place[0], .slots = &place[1], .last_tokens = last_tokens.as<int32_t>(), .n = 1},
      stream_, false));
}

}  // namespace pare::ops
