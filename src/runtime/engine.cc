#include "pare/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <numeric>

#include "attention/selector.h"
#include "base/checked.h"
#include "base/limits.h"
#include "kv/policy.h"
#include "kv/step_builder.h"
#include "runtime/engine_memory.h"
#include "runtime/loaded_model.h"
#include "runtime/scheduler.h"

namespace pare {
namespace {

constexpr size_t kFinishedKept = 256;

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// A branch whose draw of one step has not been looked at.
struct PendingToken {
  Branch* branch;
  int32_t row;  // in the step's sample outputs
};

}  // namespace

struct Engine::Impl {
  std::shared_ptr<const LoadedModel> loaded;
  EngineOptions options;
  std::unique_ptr<EngineMemory> memory;
  std::unique_ptr<Scheduler> scheduler;
  RequestId next_id = 1;
  std::vector<std::shared_ptr<ActiveRequest>> active;
  std::deque<std::pair<RequestId, RequestStats>> finished;
  EngineStats totals;

  // Step state, kept to reuse its capacity.
  std::vector<ScheduledRows> step_rows;
  std::vector<StepSeq> step_seqs;
  std::vector<int32_t> step_tokens;
  std::vector<Branch*> siblings;
  std::vector<PendingToken> pending[2];  // by parity of the step
  int parity = 0;

  const ModelConfig& config() const { return loaded->model->config(); }

  Expected<bool> step();
  Status run_step();
  void apply_cancels();
  void fill_inputs(StepInputs* inputs, Tensor* logit_rows);
  void draw(Tensor& logits);
  void after_step();
  void start_forks(const ScheduledRows& scheduled);
  void deliver(std::vector<PendingToken>& results, int outputs);
  void finish(Branch* branch, FinishReason reason, const Status* error, std::string_view text, const TokenEvent* last);
  void fail_oldest(const Status& status);
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Expected<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<const LoadedModel> model,
                                                 const EngineOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->loaded = std::move(model);
  PARE_ASSIGN_OR_RETURN(impl->memory, EngineMemory::create(*impl->loaded, options));
  impl->options = impl->memory->options();
  SchedulerLimits limits;
  limits.max_sequences = impl->options.max_sequences;
  limits.step_rows = impl->options.step_rows;
  limits.logit_rows = impl->options.logit_rows;
  limits.chunk_grid = impl->memory->selectors().chunk_grid();
  impl->scheduler = std::make_unique<Scheduler>(&impl->memory->store(), limits);
  impl->step_rows.reserve(limits.max_sequences);
  impl->step_seqs.reserve(limits.max_sequences);
  impl->step_tokens.reserve(limits.step_rows);
  for (auto& p : impl->pending) p.reserve(limits.logit_rows);
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Expected<RequestId> Engine::submit(Request request, EventSink sink) {
  Impl& e = *impl_;
  const int32_t context = e.options.max_context;
  PARE_RETURN_IF_ERROR(validate(request, e.config().vocab, context));
  const int64_t total = std::min<int64_t>(context, static_cast<int64_t>(request.tokens.size()) + request.max_tokens);
  if (round_up<int64_t>(total, kPageRows) > e.memory->kv_rows()) {
    return resource_exhausted(
        fmt::format("prompt and answer need {} KV rows, the pool holds {}", total, e.memory->kv_rows()));
  }
  auto active = std::make_shared<ActiveRequest>();
  active->id = e.next_id++;
  active->request = std::move(request);
  active->sink = std::move(sink);
  active->submitted = Clock::now();
  active->branches_left = active->request.samples;
  active->stats.prompt_tokens = static_cast<int32_t>(active->request.tokens.size());
  for (const auto& [id, bias] : active->request.sampling.logit_bias) active->bias.push_back({id, bias});
  const SamplingParams& s = active->request.sampling;
  const bool counts = s.repetition_penalty != 1.0f || s.frequency_penalty != 0.0f || s.presence_penalty != 0.0f;
  for (int32_t i = 0; i < active->request.samples; ++i) {
    auto branch = std::make_unique<Branch>(active, i, e.loaded->tokenizer.get());
    branch->total_max = static_cast<int32_t>(total);
    branch->tokens.reserve(total + 1);
    if (counts) branch->start_counts();
    e.scheduler->add(std::move(branch));
  }
  e.active.push_back(active);
  return active->id;
}

void Engine::cancel(RequestId id) {
  for (const auto& request : impl_->active) {
    if (request->id == id) request->cancelled = true;
  }
}

Expected<bool> Engine::step() { return impl_->step(); }

Status Engine::run() {
  for (;;) {
    PARE_ASSIGN_OR_RETURN(const bool more, step());
    if (!more) return ok_status();
  }
}

Expected<bool> Engine::Impl::step() {
  apply_cancels();
  if (scheduler->idle()) return false;
  if (Status status = scheduler->plan(&step_rows); !status.ok()) {
    // Only results still in flight can free pages; without them the oldest branch can never run.
    std::vector<PendingToken>& last = pending[parity ^ 1];
    if (!last.empty()) {
      deliver(last, parity ^ 1);
    } else {
      fail_oldest(status);
    }
    return true;
  }
  PARE_RETURN_IF_ERROR(run_step());
  // One step in flight: the results of the step before are looked at while this one would still run on a device.
  if (options.steps_in_flight > 0) {
    deliver(pending[parity ^ 1], parity ^ 1);
  } else {
    deliver(pending[parity], parity);
  }
  parity ^= 1;
  return true;
}

Status Engine::Impl::run_step() {
  const Clock::time_point begin = Clock::now();
  ExecContext& ctx = memory->context();
  ctx.arena.reset();
  step_seqs.clear();
  step_tokens.clear();
  bool prompt_rows = false;
  for (const ScheduledRows& s : step_rows) {
    Branch& b = *s.branch;
    ActiveRequest& owner = *b.owner;
    if (!owner.started) {
      owner.started = true;
      owner.stats.queue_ms = ms_between(owner.submitted, begin);
    }
    const size_t first = step_tokens.size();
    for (int32_t i = 0; i < s.rows; ++i) {
      // A token still in flight has no value here; the prefix index is told so and the device reads the slot.
      const size_t at = static_cast<size_t>(b.computed + i);
      step_tokens.push_back(at < b.tokens.size() ? b.tokens[at] : -1);
    }
    StepSeq seq;
    seq.seq = b.seq;
    seq.tokens = std::span(step_tokens.data() + first, s.rows);
    seq.prompt_len = b.prompt_len;
    seq.decode = s.decode;
    step_seqs.push_back(seq);
    prompt_rows |= !s.decode;
  }

  StepPlans plans;
  PARE_RETURN_IF_ERROR(memory->build_plans(step_seqs, &plans));
  StepInputs inputs;
  inputs.plans = &plans;
  Tensor logit_rows;
  fill_inputs(&inputs, &logit_rows);
  Tensor logits = ops::make_f32(ctx, {logit_rows.items(), config().vocab});
  const ExecCounters before = ctx.counters;
  ops::copy_pages(ctx, plans);
  loaded->model->forward(ctx, inputs, &logits);
  draw(logits);
  memory->store().commit_step();
  after_step();

  const double ms = ms_between(begin, Clock::now());
  ++totals.steps;
  for (const ScheduledRows& s : step_rows) (s.decode ? totals.decode_rows : totals.prefill_rows) += s.rows;
  totals.keys_visited += ctx.counters.keys_visited - before.keys_visited;
  if (prompt_rows) {
    totals.prefill_ms += ms;
  } else {
    totals.decode_ms += ms;
    ++totals.decode_steps;
    totals.decode_weight_bytes += ctx.counters.weight_bytes - before.weight_bytes;
    totals.decode_kv_bytes += ctx.counters.kv_bytes - before.kv_bytes;
  }
  return ok_status();
}

void Engine::Impl::fill_inputs(StepInputs* inputs, Tensor* logit_rows) {
  ExecContext& ctx = memory->context();
  const int64_t rows = static_cast<int64_t>(step_tokens.size());
  int64_t wanted = 0;
  for (const ScheduledRows& s : step_rows) wanted += s.n_logit_rows + s.n_forks;
  const auto take = [&](int64_t n) { return Tensor(ctx.arena.take<int32_t>(n).data(), DType::I32, {n}, ctx.device); };
  inputs->tokens = take(rows);
  inputs->positions = take(rows);
  *logit_rows = take(wanted);
  // Step tables are written here by the host; a device backend uploads the arena once.
  auto* slots = ctx.arena.take<int32_t>(rows).data();
  auto* positions = inputs->positions.as<int32_t>();
  auto* wanted_rows = logit_rows->as<int32_t>();
  int32_t row = 0, out = 0;
  for (const ScheduledRows& s : step_rows) {
    for (int32_t i = 0; i < s.rows; ++i) {
      slots[row + i] = step_tokens[row + i] < 0 ? s.branch->slot : -1;
      positions[row + i] = s.branch->computed + i;
    }
    for (int32_t i = 0; i < s.n_logit_rows; ++i) wanted_rows[out++] = row + s.rows - s.n_logit_rows + i;
    for (int32_t i = 0; i < s.n_forks; ++i) wanted_rows[out++] = row + s.rows - 1;
    row += s.rows;
  }
  const Tensor host_tokens(step_tokens.data(), DType::I32, {rows});
  const Tensor slot_rows(slots, DType::I32, {rows}, ctx.device);
  ops::select_tokens(ctx, host_tokens, slot_rows, memory->last_tokens(), inputs->tokens);
  inputs->logit_rows = *logit_rows;
}

void Engine::Impl::draw(Tensor& logits) {
  ExecContext& ctx = memory->context();
  const int64_t vocab = config().vocab;
  float* values = logits.as<float>();
  std::span<ops::SampleRow> rows = memory->sample_rows();
  std::vector<PendingToken>& results = pending[parity];
  results.clear();
  int64_t n = 0;
  for (const ScheduledRows& s : step_rows) {
    ActiveRequest& owner = *s.branch->owner;
    if (owner.request.on_logits) {
      for (int32_t i = 0; i < s.n_logit_rows; ++i) {
        owner.request.on_logits(s.branch->index, s.branch->computed + s.rows - s.n_logit_rows + i,
                                std::span(values + (s.logit_row0 + i) * vocab, vocab));
      }
    }
    if (!s.samples) continue;
    scheduler->waiting_siblings(*s.branch, &siblings);
    for (int32_t f = 0; f <= s.n_forks; ++f) {
      Branch* b = f == 0 ? s.branch : siblings[f - 1];
      // Logit rows of the drawn branches are gathered to the front; they are ascending, so this never overwrites one
      // that is still needed.
      const int64_t from = s.logit_row0 + s.n_logit_rows - 1 + f;
      if (from != n) std::copy_n(values + from * vocab, vocab, values + n * vocab);
      if (f > 0 && owner.request.on_logits) {
        owner.request.on_logits(b->index, s.branch->computed + s.rows - 1, std::span(values + n * vocab, vocab));
      }
      rows[n] = b->sample_row(s.branch->computed + s.rows);
      results.push_back({b, static_cast<int32_t>(n)});
      ++n;
    }
  }
  ops::sample(ctx, rows.data(), n, vocab, values, memory->sample_output(parity));
}

void Engine::Impl::after_step() {
  for (const ScheduledRows& s : step_rows) {
    s.branch->computed += s.rows;
    if (s.n_forks > 0) start_forks(s);
  }
  for (const PendingToken& p : pending[parity]) {
    ++p.branch->in_flight;
    if (p.branch->slot >= 0) {
      ops::store_token(memory->context(), memory->sample_output(parity).ids, p.row, p.branch->slot,
                       memory->last_tokens());
    }
  }
}

void Engine::Impl::start_forks(const ScheduledRows& s) {
  scheduler->waiting_siblings(*s.branch, &siblings);
  for (int32_t f = 0; f < s.n_forks; ++f) {
    auto seq = memory->store().fork(s.branch->seq);
    // Without a sequence to fork into the sibling keeps its drawn token and computes the prompt by itself later.
    if (seq.ok()) scheduler->start_fork(siblings[f], *seq, s.branch->computed);
  }
}

void Engine::Impl::deliver(std::vector<PendingToken>& results, int outputs) {
  const ops::SampleOutput& out = memory->sample_output(outputs);
  const Clock::time_point now = Clock::now();
  for (const PendingToken& p : results) {
    Branch* b = p.branch;
    if (!b) continue;
    ActiveRequest& owner = *b->owner;
    --b->in_flight;
    const int32_t id = out.ids[p.row];
    if (id < 0) {
      const Status error =
          internal_error(fmt::format("the model gave no finite logit at position {}", b->tokens.size()));
      finish(b, FinishReason::kFailed, &error, {}, nullptr);
      continue;
    }
    b->tokens.push_back(id);
    b->count_token(id);
    if (owner.stats.generated_tokens++ == 0) {
      owner.first_token = now;
      owner.stats.ttft_ms = ms_between(owner.submitted, now);
    }
    owner.last_token = now;
    TokenEvent event;
    event.request = owner.id;
    event.branch = b->index;
    event.token = id;
    if (owner.request.logprobs >= 0) {
      event.logprob = out.logprobs[p.row];
      event.top = memory->top_logprobs(outputs, p.row, owner.request.logprobs);
    }
    const auto ends = loaded->tokenizer->end_of_generation();
    if (!owner.request.ignore_eos && std::binary_search(ends.begin(), ends.end(), id)) {
      finish(b, FinishReason::kStopToken, nullptr, b->text.finish(), &event);
      continue;
    }
    event.text = b->text.push(id);
    if (b->text.stopped()) {
      finish(b, FinishReason::kStopString, nullptr, event.text, &event);
    } else if (static_cast<int32_t>(b->tokens.size()) >= b->total_max) {
      std::string text(event.text);
      text += b->text.finish();
      finish(b, FinishReason::kLength, nullptr, text, &event);
    } else if (owner.sink) {
      owner.sink(event);
    }
  }
  results.clear();
}

void Engine::Impl::finish(Branch* branch, FinishReason reason, const Status* error, std::string_view text,
                          const TokenEvent* last) {
  const std::shared_ptr<ActiveRequest> owner = branch->owner;
  TokenEvent event = last ? *last : TokenEvent{};
  event.request = owner->id;
  event.branch = branch->index;
  event.text = text;
  event.finish = reason;
  event.error = error;
  // A later step may already hold a draw of this branch.
  for (auto& results : pending) {
    for (PendingToken& p : results) {
      if (p.branch == branch) p.branch = nullptr;
    }
  }
  if (--owner->branches_left == 0) {
    if (owner->stats.generated_tokens > 0) owner->stats.decode_ms = ms_between(owner->first_token, owner->last_token);
    finished.emplace_back(owner->id, owner->stats);
    if (finished.size() > kFinishedKept) finished.pop_front();
    std::erase(active, owner);
  }
  if (owner->sink) owner->sink(event);
  scheduler->retire(branch);
}

void Engine::Impl::apply_cancels() {
  if (std::none_of(active.begin(), active.end(), [](const auto& r) { return r->cancelled; })) return;
  const std::vector<Branch*> all = scheduler->branches();
  for (Branch* b : all) {
    if (b->owner->cancelled) finish(b, FinishReason::kCancelled, nullptr, b->text.finish(), nullptr);
  }
}

void Engine::Impl::fail_oldest(const Status& status) {
  finish(scheduler->branches().front(), FinishReason::kFailed, &status, {}, nullptr);
}

Expected<RequestStats> Engine::request_stats(RequestId id) const {
  for (const auto& request : impl_->active) {
    if (request->id == id) return request->stats;
  }
  for (const auto& [known, stats] : impl_->finished) {
    if (known == id) return stats;
  }
  return not_found(fmt::format("request {} is neither alive nor among the last {} finished", id, kFinishedKept));
}

EngineStats Engine::stats() const {
  EngineStats s = impl_->totals;
  s.preemptions = impl_->scheduler->preemptions();
  s.weight_bytes = static_cast<int64_t>(impl_->loaded->model->weight_bytes());
  s.workspace_bytes = static_cast<int64_t>(impl_->memory->context().arena.capacity());
  const KvStats kv = impl_->memory->store().stats();
  s.kv_bytes_allocated = kv.bytes_k + kv.bytes_v + kv.bytes_tables;
  s.kv_bytes_used = kv.bytes_used;
  s.kv_bytes_per_token = kv.bytes_per_row;
  for (int32_t c = 0; c < kv.n_classes; ++c) {
    s.kv_pages += kv.classes[c].pages;
    s.kv_pages_used += kv.classes[c].pages_used;
    s.kv_pages_cached += kv.classes[c].pages_cached;
    s.kv_pages_freed += kv.classes[c].freed_dead;
  }
  s.prefix_hit_rows = kv.prefix_hit_rows;
  s.sequences = kv.sequences;
  return s;
}

const std::string& Engine::attn_spec() const { return impl_->memory->attn_spec(); }
const std::string& Engine::kv_spec() const { return impl_->memory->kv_spec(); }
int32_t Engine::threads() const { return impl_->memory->context().pool.threads(); }

}  // namespace pare
