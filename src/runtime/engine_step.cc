// One step of an Engine: cancels, plan, forward, draws, results.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>

#include "ops/step.h"
#include "runtime/engine_impl.h"

namespace pare {
namespace {

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

Expected<bool> Engine::Impl::step() {
  apply_cancels();
  if (scheduler->idle()) return false;
  scheduler->plan(&step_rows);
  std::vector<PendingToken>& earlier = pending[parity ^ 1];
  if (step_rows.empty()) {
    // Only results still in flight can free pages; without them the oldest branch can never run.
    if (earlier.empty()) {
      fail_oldest();
    } else {
      PARE_RETURN_IF_ERROR(deliver(earlier, parity ^ 1));
    }
    return true;
  }
  const Clock::time_point begin = Clock::now();
  const ExecCounters before = memory->context().counters;
  PARE_RETURN_IF_ERROR(run_step());
  // One step in flight: the results of the step before are looked at while this one still runs on a device, whose time
  // is then the time until those are there.
  const int ready = options.steps_in_flight > 0 ? parity ^ 1 : parity;
  PARE_RETURN_IF_ERROR(deliver(pending[ready], ready));
  count_step(before, ms_between(begin, Clock::now()));
  parity ^= 1;
  return true;
}

Status Engine::Impl::run_step() {
  ExecContext& ctx = memory->context();
  ops::begin_step(ctx, parity);
  gather_rows(Clock::now());
  StepPlans plans;
  PARE_RETURN_IF_ERROR(memory->build_plans(step_seqs, &plans));
  StepInputs inputs;
  inputs.plans = &plans;
  for (const ScheduledRows& s : step_rows) {
    plans.n_logit_rows += s.n_logit_rows;
    if (s.decode) plans.n_decode_logit_rows += s.n_logit_rows;
  }
  Tensor known, slots;
  fill_inputs(&inputs, &known, &slots);
  ops::SampleBatch draws = plan_draws();
  const std::array<Tensor*, 4> tables = {&known, &slots, &inputs.positions, &inputs.logit_rows};
  ops::upload_step(ctx, plans, tables, &draws);
  inputs.tokens = Tensor(ctx.arena.take<int32_t>(known.items()).data(), DType::I32, {known.items()}, ctx.device);
  Tensor logits = ops::make_f32(ctx, {inputs.logit_rows.items(), config().vocab});
  PARE_RETURN_IF_ERROR(ops::launch_step(ctx, plans, tables, draws, [&] {
    ops::select_tokens(ctx, known, slots, memory->last_tokens(), inputs.tokens);
    ops::copy_pages(ctx, plans);
    loaded->model->forward(ctx, inputs, &logits);
    ops::sample(ctx, draws, logits, memory->sample_output(parity), memory->last_tokens());
  }));
  launched[parity] = {true, {.step = totals.steps, .decode = plans.n_prefill_rows == 0}};
  PARE_RETURN_IF_ERROR(observe(logits));
  StepStamp& stamp = launched[parity].stamp;
  const auto move = [&](std::span<const RowMove> group) {
    ops::move_rows(ctx, plans, group);
    stamp.followed = true;
  };
  // By reference: what it captures is more than a std::function holds without taking memory.
  memory->store().commit_step(std::cref(move));
  after_step();
  return ok_status();
}

void Engine::Impl::gather_rows(Clock::time_point now) {
  step_seqs.clear();
  step_tokens.clear();
  for (const ScheduledRows& s : step_rows) {
    Branch& b = *s.branch;
    ActiveRequest& owner = *b.owner;
    if (!owner.started) {
      owner.started = true;
      owner.stats.queue_ms = ms_between(owner.submitted, now);
      ++totals.prompts;
      totals.prompts_dense_short += owner.stats.dense_short;
      totals.prompts_dense_observed += owner.stats.dense_observed;
    }
    const size_t first = step_tokens.size();
    for (int32_t i = 0; i < s.rows; ++i) {
      // A token still in flight has no value here, unless it is forced; the prefix index is told so and the device
      // reads the slot.
      const size_t at = static_cast<size_t>(b.computed) + static_cast<size_t>(i);
#ifdef PARE_FAULT_RUNTIME_FORCED_READS_DRAWN
      step_tokens.push_back(at < b.tokens.size() ? b.tokens[at] : -1);
#else
      step_tokens.push_back(at < b.tokens.size() ? b.tokens[at] : b.forced_at(at));
#endif
    }
    StepSeq seq;
    seq.seq = b.seq;
    seq.tokens = std::span(step_tokens.data() + first, s.rows);
    seq.prompt_len = b.prompt_len;
    seq.decode = s.decode;
    seq.dense = (owner.seq_flags & kSeqDense) != 0;
    step_seqs.push_back(seq);
  }
}

void Engine::Impl::fill_inputs(StepInputs* inputs, Tensor* known, Tensor* slot_rows) {
  ExecContext& ctx = memory->context();
  const int64_t rows = static_cast<int64_t>(step_tokens.size());
  const auto take = [&](int64_t n) { return Tensor(ctx.tables.take<int32_t>(n).data(), DType::I32, {n}, ctx.device); };
  *known = take(rows);
  *slot_rows = take(rows);
  inputs->positions = take(rows);
  inputs->logit_rows = take(inputs->plans->n_logit_rows);
  std::copy(step_tokens.begin(), step_tokens.end(), known->as<int32_t>());
  auto* slots = slot_rows->as<int32_t>();
  auto* positions = inputs->positions.as<int32_t>();
  auto* wanted_rows = inputs->logit_rows.as<int32_t>();
  int32_t row = 0;
  for (const ScheduledRows& s : step_rows) {
    for (int32_t i = 0; i < s.rows; ++i) {
      slots[row + i] = step_tokens[row + i] < 0 ? s.branch->slot : -1;
      positions[row + i] = s.branch->computed + i;
    }
    row += s.rows;
    for (int32_t i = 0; i < s.n_logit_rows; ++i) wanted_rows[s.logit_row0 + i] = row - s.n_logit_rows + i;
  }
}

ops::SampleBatch Engine::Impl::plan_draws() {
  std::vector<PendingToken>& results = pending[parity];
  results.clear();
  for (const ScheduledRows& s : step_rows) {
    if (!s.samples) continue;
    add_draw(s.branch, s);
    scheduler->waiting_siblings(*s.branch, s.n_forks, &siblings);
    for (Branch* sibling : siblings) add_draw(sibling, s);
  }
  return ops::stage_draws(memory->context(), memory->sample_rows().data(), static_cast<int64_t>(results.size()));
}

// Shows each row of logits to the observers of its branch, and of the siblings that draw from it.
Status Engine::Impl::observe(const Tensor& logits) {
  const auto observed = [](const ScheduledRows& s) { return static_cast<bool>(s.branch->owner->request.on_logits); };
  if (std::none_of(step_rows.begin(), step_rows.end(), observed)) return ok_status();
  launched[parity].stamp.followed = true;
  PARE_ASSIGN_OR_RETURN(const std::span<const float> rows,
                        ops::read_values(memory->context(), logits, &observed_logits));
  const size_t vocab = static_cast<size_t>(config().vocab);
  size_t draw = 0;
  const std::vector<PendingToken>& draws = pending[parity];
  for (const ScheduledRows& s : step_rows) {
    const LogitObserver& observer = s.branch->owner->request.on_logits;
    const int32_t position = s.branch->computed + s.rows - s.n_logit_rows;
    for (int32_t i = 0; i < s.n_logit_rows && observer; ++i) {
      observer(s.branch->index, position + i, rows.subspan((s.logit_row0 + i) * vocab, vocab));
    }
    // A row's draws lie together, its own branch's first.
    if (s.samples) ++draw;
    for (; draw < draws.size() && draws[draw].parent == s.branch; ++draw) {
      if (!observer) continue;
      observer(draws[draw].branch->index, s.branch->computed + s.rows - 1,
               rows.subspan((s.logit_row0 + s.n_logit_rows - 1) * vocab, vocab));
    }
  }
  return ok_status();
}

// `branch` draws from the last row of `s`: the row's own branch, or a sibling that forks from it.
void Engine::Impl::add_draw(Branch* branch, const ScheduledRows& s) {
  const int64_t logits_row = s.logit_row0 + s.n_logit_rows - 1;
  const int32_t position = s.branch->computed + s.rows;
  PendingToken draw{branch, nullptr, static_cast<int32_t>(pending[parity].size())};
  if (branch != s.branch) draw.parent = s.branch;
#ifdef PARE_FAULT_RUNTIME_PENALTY_MISSES_IN_FLIGHT
  const int32_t* in_flight = nullptr;
#else
  const int32_t* in_flight = branch->in_flight > 0 ? memory->last_tokens().as<int32_t>() + branch->slot : nullptr;
#endif
  memory->sample_rows()[draw.row] = branch->sample_row(logits_row, position, in_flight);
  pending[parity].push_back(draw);
}

void Engine::Impl::after_step() {
  for (const ScheduledRows& s : step_rows) {
    totals.keys_causal += memory->causal_keys(s.branch->computed, s.rows);
    s.branch->computed += s.rows;
#ifndef PARE_FAULT_RUNTIME_OBSERVE_TWICE
    s.branch->observed = std::max(s.branch->observed, std::min(s.branch->computed, s.branch->prompt_len));
#endif
  }
  for (const PendingToken& draw : pending[parity]) {
    ++draw.branch->in_flight;
    if (!draw.parent) continue;
    scheduler->fork(*draw.parent, draw.branch);
    ops::store_token(memory->context(), memory->sample_output(parity), draw.row, draw.branch->slot,
                     memory->last_tokens());
    launched[parity].stamp.followed = true;
  }
}

void Engine::Impl::count_step(const ExecCounters& before, double ms) {
  const ExecCounters& now = memory->context().counters;
  bool prompt_rows = false;
  for (const ScheduledRows& s : step_rows) {
    (s.decode ? totals.decode_rows : totals.prefill_rows) += s.rows;
    prompt_rows |= !s.decode;
  }
  ++totals.steps;
  totals.keys_visited += now.keys_visited - before.keys_visited;
  if (prompt_rows) {
    totals.prefill_ms += ms;
    return;
  }
  totals.decode_ms += ms;
  ++totals.decode_steps;
  totals.decode_weight_bytes += now.weight_bytes - before.weight_bytes;
  totals.decode_kv_bytes += now.kv_bytes - before.kv_bytes;
}

// Once a step: its results are there, and so are its times.
void Engine::Impl::read_stamp(int outputs) {
  LaunchedStep& step = launched[outputs];
  if (!step.launched) return;
  step.launched = false;
  const ops::StepSpan span = ops::step_span(memory->context(), outputs);
  if (span.end_ns == 0) return;
  step.stamp.begin_ns = span.begin_ns;
  step.stamp.end_ns = span.end_ns;
  clock.add(step.stamp);
}

Status Engine::Impl::deliver(std::vector<PendingToken>& results, int outputs) {
  PARE_RETURN_IF_ERROR(ops::finish_step(memory->context(), outputs));
  read_stamp(outputs);
  const ops::SampleOutput& out = memory->sample_output(outputs);
  const Clock::time_point now = Clock::now();
  for (const PendingToken& p : results) {
    Branch* b = p.branch;
    if (!b) continue;
    ActiveRequest& owner = *b->owner;
    --b->in_flight;
    int32_t id = out.ids[p.row];
    if (id < 0) {
      const Status error =
          internal_error(fmt::format("the model gave no finite logit at position {}", b->tokens.size()));
      finish(b, FinishReason::kFailed, &error, {}, nullptr);
      continue;
    }
    if (const int32_t forced = b->forced_at(b->tokens.size()); forced >= 0) id = forced;
    b->add_token(id);
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
  return ok_status();
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
  // Rows that it held at its end: its last token never gets one.
  const MidZone* mid = memory->kv_policy().mid();
  const bool short_answer = mid != nullptr && mid->held_back(static_cast<int32_t>(branch->tokens.size()) - 1);
  ++totals.answers;
  totals.answers_whole_short += short_answer;
  owner->stats.whole_short |= short_answer;
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
  std::vector<Branch*> ended;
  for (const auto& b : scheduler->branches()) {
    if (b->owner->cancelled) ended.push_back(b.get());
  }
  for (Branch* b : ended) finish(b, FinishReason::kCancelled, nullptr, b->text.finish(), nullptr);
}

void Engine::Impl::fail_oldest() {
  Branch* oldest = scheduler->branches().front().get();
  const Status status = resource_exhausted(fmt::format(
      "request {} needs more KV pages than the pool has at position {}", oldest->owner->id, oldest->computed));
  finish(oldest, FinishReason::kFailed, &status, {}, nullptr);
}

}  // namespace pare
