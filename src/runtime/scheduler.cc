#include "runtime/scheduler.h"

#include <fmt/format.h>

#include <algorithm>

#include "kv/segment_planner.h"

namespace pare {

Scheduler::Scheduler(KvStore* store, const SchedulerLimits& limits) : store_(*store), limits_(limits) {
  for (int32_t slot = limits.max_sequences - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  order_.reserve(limits.max_sequences);
}

void Scheduler::add(std::unique_ptr<Branch> branch) {
  branch->arrival = next_arrival_++;
  order_.push_back(branch.get());
  owned_.push_back(std::move(branch));
}

void Scheduler::preempt(Branch* branch) {
  store_.free_sequence(branch->seq);
  free_slots_.push_back(branch->slot);
  branch->seq = -1;
  branch->slot = -1;
  branch->computed = 0;
  branch->state = BranchState::kWaiting;
  --running_;
}

void Scheduler::retire(Branch* branch) {
  if (branch->state == BranchState::kRunning) preempt(branch);
  order_.erase(std::find(order_.begin(), order_.end(), branch));
  owned_.remove_if([&](const std::unique_ptr<Branch>& b) { return b.get() == branch; });
}

bool Scheduler::admit(Branch* branch) {
  if (free_slots_.empty()) return false;
  auto seq = store_.create_sequence();
  if (!seq.ok()) return false;
  branch->seq = *seq;
  branch->slot = free_slots_.back();
  free_slots_.pop_back();
  branch->state = BranchState::kRunning;
  ++running_;
  // Observed prompts need every row's logits, so nothing of them may come from the cache.
  if (!branch->owner->request.observe_prompt) {
    branch->computed = store_.adopt_prefix(branch->seq, std::span(branch->tokens).first(branch->prompt_len));
    if (!branch->owner->started) branch->owner->stats.cached_tokens = branch->computed;
  }
  return true;
}

void Scheduler::start_fork(Branch* branch, SeqId seq, int32_t computed) {
  branch->seq = seq;
  branch->slot = free_slots_.back();
  free_slots_.pop_back();
  branch->state = BranchState::kRunning;
  branch->computed = computed;
  ++running_;
}

void Scheduler::waiting_siblings(const Branch& branch, std::vector<Branch*>* out) const {
  out->clear();
  for (Branch* b : order_) {
    if (b != &branch && b->owner == branch.owner && b->state == BranchState::kWaiting &&
        b->tokens.size() == static_cast<size_t>(b->prompt_len)) {
      out->push_back(b);
    }
  }
}

int32_t Scheduler::free_logit_rows(std::span<const ScheduledRows> step) const {
  int32_t used = 0;
  for (const ScheduledRows& s : step) used += s.n_logit_rows + s.n_forks;
  return limits_.logit_rows - used;
}

bool Scheduler::reserve(Branch* branch, int32_t rows, std::vector<ScheduledRows>* step) {
  while (!store_.reserve(branch->seq, rows).ok()) {
    // The youngest running branch gives way; the youngest itself waits for pages instead.
    Branch* victim = nullptr;
    for (Branch* b : order_) {
      if (b->state == BranchState::kRunning && b->in_flight == 0) victim = b;
    }
    if (!victim || victim->arrival <= branch->arrival) return false;
    std::erase_if(*step, [&](const ScheduledRows& s) { return s.branch == victim; });
    ++victim->owner->stats.preemptions;
    ++preemptions_;
    preempt(victim);
  }
  return true;
}

Status Scheduler::plan(std::vector<ScheduledRows>* step) {
  step->clear();
  int32_t rows_left = limits_.step_rows;
  const auto give = [&](Branch* b, int32_t rows, bool decode) {
    ScheduledRows s{b, rows, decode, 0, 0, false, 0};
    s.samples = b->computed + rows == b->drawn();
    s.n_logit_rows = b->owner->request.observe_prompt && !decode ? rows : s.samples ? 1 : 0;
    step->push_back(s);
  };

  // Decoding branches never wait for prompts.
  for (size_t i = 0; i < order_.size() && rows_left > 0; ++i) {
    Branch* b = order_[i];
    if (b->state != BranchState::kRunning || b->in_prompt() || free_logit_rows(*step) == 0) continue;
    const int32_t rows = std::min({b->drawn() - b->computed, kMaxDecodeRows, rows_left});
    if (rows == 0 || !reserve(b, rows, step)) continue;
    give(b, rows, true);
    rows_left = limits_.step_rows;
    for (const ScheduledRows& s : *step) rows_left -= s.rows;
  }

  for (size_t i = 0; i < order_.size() && rows_left > 0; ++i) {
    Branch* b = order_[i];
    if (b->state == BranchState::kWaiting && !admit(b)) break;  // first come, first served
    if (!b->in_prompt()) continue;
    int32_t rows = std::min(b->prompt_len - b->computed, rows_left);
    const int32_t logit_rows = free_logit_rows(*step);
    if (b->owner->request.observe_prompt) rows = std::min(rows, logit_rows);
    if (b->computed + rows < b->prompt_len) rows -= (b->computed + rows) % limits_.chunk_grid;
    const bool ends = b->computed + rows == b->prompt_len && b->drawn() == b->prompt_len;
    if (rows <= 0 || (ends && logit_rows == 0)) break;
    if (!reserve(b, rows, step)) break;
    give(b, rows, false);
    rows_left -= rows;
    if (!ends) continue;
    int32_t waiting = 0;
    for (Branch* sibling : order_) {
      waiting += sibling != b && sibling->owner == b->owner && sibling->state == BranchState::kWaiting &&
                 sibling->tokens.size() == static_cast<size_t>(sibling->prompt_len);
    }
    step->back().n_forks = std::min({waiting, static_cast<int32_t>(free_slots_.size()), free_logit_rows(*step)});
    // Siblings that fork after this step must not be admitted by themselves now.
    if (waiting > 0) break;
  }

  int32_t next = 0;
  for (ScheduledRows& s : *step) {
    s.logit_row0 = next;
    next += s.n_logit_rows + s.n_forks;
  }
  if (step->empty() && !order_.empty()) {
    const Branch& b = *order_.front();
    return resource_exhausted(
        fmt::format("request {} needs more KV pages than the pool has at position {}", b.owner->id, b.computed));
  }
  return ok_status();
}

}  // namespace pare
