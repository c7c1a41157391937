#include "pare/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "base/checked.h"
#include "plan/kv_layout.h"
#include "runtime/engine_impl.h"

namespace pare {

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Expected<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<const LoadedModel> model,
                                                 const EngineOptions& options) try {
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
  impl->siblings.reserve(limits.max_sequences);
  for (auto& p : impl->pending) p.reserve(limits.max_sequences);
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
} catch (const std::bad_alloc&) {
  return resource_exhausted("no memory for an engine");
}

Expected<RequestId> Engine::submit(Request request, EventSink sink) try {
  return impl_->submit(std::move(request), std::move(sink));
} catch (const std::bad_alloc&) {
  return resource_exhausted("no memory for a request");
}

Expected<RequestId> Engine::Impl::submit(Request request, EventSink sink) {
  const int32_t context = options.max_context;
  PARE_RETURN_IF_ERROR(validate(request, config().vocab, context));
  const int64_t total = std::min<int64_t>(context, static_cast<int64_t>(request.tokens.size()) + request.max_tokens);
  if (round_up<int64_t>(total, kPageRows) > memory->kv_rows()) {
    return resource_exhausted(
        fmt::format("prompt and answer need {} KV rows, the pool holds {}", total, memory->kv_rows()));
  }
  auto owner = std::make_shared<ActiveRequest>();
  owner->request = std::move(request);
  owner->sink = std::move(sink);
  owner->submitted = Clock::now();
  owner->branches_left = owner->request.samples;
  owner->stats.prompt_tokens = static_cast<int32_t>(owner->request.tokens.size());
  choose_prompt_class(owner.get());
  const SamplingParams& s = owner->request.sampling;
  for (const auto& [id, bias] : s.logit_bias) owner->bias.push_back({id, bias});
  owner->penalized = s.repetition_penalty != 1.0f || s.frequency_penalty != 0.0f || s.presence_penalty != 0.0f;
  std::vector<std::unique_ptr<Branch>> branches;
  branches.reserve(static_cast<size_t>(owner->request.samples));
  for (int32_t i = 0; i < owner->request.samples; ++i) {
    branches.push_back(std::make_unique<Branch>(owner, i, static_cast<int32_t>(total), loaded->tokenizer.get()));
  }
  // Whatever runs out of memory does so before the engine knows of the request.
  active.reserve(active.size() + 1);
  scheduler->add(std::move(branches));
  owner->id = next_id++;
  active.push_back(owner);
  return owner->id;
}

// Before the first row is read, and once: rows of a prompt are shared with prompts that are read the same way.
void Engine::Impl::choose_prompt_class(ActiveRequest* owner) const {
  const Request& r = owner->request;
  const int32_t prompt_len = static_cast<int32_t>(r.tokens.size());
  const SelectorSet& selectors = memory->selectors();
  if (r.observe_prompt && !r.observe_sparse) owner->seq_flags = kSeqDense;
  const uint32_t short_terms = selectors.dense_terms(prompt_len, 0);
  const uint32_t dense_terms = selectors.dense_terms(prompt_len, owner->seq_flags);
  owner->stats.dense_short = short_terms != 0;
  owner->stats.dense_observed = dense_terms != short_terms;
  owner->prompt_tag = dense_terms * 0x9e3779b97f4a7c15u;  // 0: nothing is read densely
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
  impl_->clock.count(&s);
  s.preemptions = impl_->scheduler->preemptions();
  s.weight_bytes = static_cast<int64_t>(impl_->loaded->model->weight_bytes());
  s.workspace_bytes = static_cast<int64_t>(impl_->memory->context().arena.capacity());
  const KvStats kv = impl_->memory->store().stats();
  s.kv_bytes_full = kv.bytes_k + kv.bytes_v;
  s.kv_bytes_mid_k = kv.bytes_mid_k;
  s.kv_bytes_mid_v = kv.bytes_mid_v;
  s.kv_bytes_mid_scales = kv.bytes_mid_scales;
  s.kv_bytes_allocated =
      s.kv_bytes_full + s.kv_bytes_mid_k + s.kv_bytes_mid_v + s.kv_bytes_mid_scales + kv.bytes_tables;
  s.kv_bytes_used = kv.bytes_used;
  s.kv_bytes_used_peak = kv.bytes_used_peak;
  s.kv_bytes_per_token = kv.bytes_per_row;
  for (int32_t c = 0; c < kv.n_classes; ++c) {
    s.kv_pages += kv.classes[c].pages + kv.classes[c].mid_pages;
    s.kv_pages_used += kv.classes[c].pages_used + kv.classes[c].mid_pages_used;
    s.kv_pages_moved += kv.classes[c].moved;
    s.kv_pages_cached += kv.classes[c].pages_cached;
    s.kv_pages_freed += kv.classes[c].freed_dead;
  }
  s.kv_pages_used_peak = kv.pages_used_peak;
  s.prefix_hit_rows = kv.prefix_hit_rows;
  s.sequences = kv.sequences;
  return s;
}

std::vector<StepStamp> Engine::take_step_stamps() { return impl_->clock.take(); }
const std::string& Engine::attn_spec() const { return impl_->memory->attn_spec(); }
const std::string& Engine::kv_spec() const { return impl_->memory->kv_spec(); }
const LoadedModel& Engine::model() const { return *impl_->loaded; }
int32_t Engine::threads() const { return impl_->memory->context().pool.threads(); }

}  // namespace pare
