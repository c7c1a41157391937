#include "runtime/scheduler.h"

#include <algorithm>

#include "base/check.h"
#include "kv/segment_planner.h"

namespace pare {

Scheduler::Scheduler(KvStore* store, const SchedulerLimits& limits) : store_(*store), limits_(limits) {
  free_slots_.reserve(limits.max_sequences);
  for (int32_t slot = limits.max_sequences - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

void Scheduler::add(std::vector<std::unique_ptr<Branch>> branches) {
  order_.insert(order_.end(), std::make_move_iterator(branches.begin()), std::make_move_iterator(branches.end()));
}

void Scheduler::retire(Branch* branch) {
#ifdef PARE_FAULT_RUNTIME_CANCEL_LEAKS
  if (branch->is_running() && !branch->owner->cancelled) stop(branch);
#else
  if (branch->is_running()) stop(branch);
#endif
  std::erase_if(order_, [&](const std::unique_ptr<Branch>& b) { return b.get() == branch; });
}

void Scheduler::start(Branch* branch, SeqId seq, int32_t computed) {
  branch->state = BranchState::kRunning;
  branch->seq = seq;
  branch->computed = computed;
  branch->slot = free_slots_.back();
  free_slots_.pop_back();
}

void Scheduler::stop(Branch* branch) {
  store_.free_sequence(branch->seq);
  free_slots_.push_back(branch->slot);
  branch->state = BranchState::kWaiting;
  branch->seq = -1;
  branch->slot = -1;
  branch->computed = 0;
}

bool Scheduler::admit(Branch* branch) {
  if (free_slots() == 0) return false;
  ActiveRequest& owner = *branch->owner;
#ifdef PARE_FAULT_RUNTIME_PROMPT_TAG
  const auto seq = store_.create_sequence();
#else
  const auto seq = store_.create_sequence(owner.prompt_tag);
#endif
  PARE_CHECK(seq.ok());  // there are as many sequences as slots
  // Observed prompts need every row's logits, so nothing of them may come from the cache.
  start(branch, *seq, branch->observes_prompt() ? 0 : store_.adopt_prefix(*seq, owner.request.tokens));
  if (!owner.started) owner.stats.cached_tokens = branch->computed;
  return true;
}

void Scheduler::fork(const Branch& parent, Branch* branch) {
  const auto seq = store_.fork(parent.seq);
  PARE_CHECK(seq.ok());  // as above: the plan promised a slot
#ifdef PARE_FAULT_RUNTIME_FORK_LOSES_ROW
  start(branch, *seq, parent.computed - 1);
#else
  start(branch, *seq, parent.computed);
#endif
}

bool Scheduler::can_fork(const Branch& branch) const {
  return !branch.is_running() && branch.drawn() == branch.prompt_len;
}

void Scheduler::waiting_siblings(const Branch& branch, int32_t n, std::vector<Branch*>* out) const {
  out->clear();
  for (const auto& b : order_) {
    if (static_cast<int32_t>(out->size()) == n) return;
    if (b->owner == branch.owner && can_fork(*b)) out->push_back(b.get());
  }
}

// Whether an older sibling is on its way to the end of the prompt, where this branch can fork from it.
bool Scheduler::waits_for_fork(size_t place) const {
  const Branch& branch = *order_[place];
  if (!can_fork(branch)) return false;
  for (size_t i = place; i-- > 0 && order_[i]->owner == branch.owner;) {
    const Branch& older = *order_[i];
    if (older.is_running() && older.in_prompt() && older.drawn() == older.prompt_len) return true;
  }
  return false;
}

void Scheduler::preempt(Branch* branch) {
  const auto planned = std::find_if(step_->begin(), step_->end(), [&](const auto& s) { return s.branch == branch; });
  if (planned != step_->end()) {
    rows_left_ += planned->rows;
    logit_rows_left_ += planned->n_logit_rows;
    step_->erase(planned);
  }
  ++branch->owner->stats.preemptions;
  ++preemptions_;
  stop(branch);
}

bool Scheduler::reserve(Branch* branch, int32_t rows) {
  while (!store_.reserve(branch->seq, rows, branch->prompt_len).ok()) {
#ifdef PARE_FAULT_RUNTIME_PREEMPT_OLDEST
    const auto victim = std::find_if(order_.begin(), order_.end(), [](const auto& b) { return b->is_running(); });
#else
    const auto victim = std::find_if(order_.rbegin(), order_.rend(), [](const auto& b) { return b->is_running(); });
#endif
    if (victim->get() == branch) return false;
    preempt(victim->get());
  }
  return true;
}

void Scheduler::give(const ScheduledRows& rows) {
  rows_left_ -= rows.rows;
  logit_rows_left_ -= rows.n_logit_rows;
  step_->push_back(rows);
}

void Scheduler::plan_decode(Branch* branch, int32_t rows_max, int32_t logit_rows_max) {
  // The last token it may hold needs no successor: nothing is left to compute but to look at it.
  if (branch->drawn() >= branch->total_max) return;
  ScheduledRows s;
  s.branch = branch;
  s.decode = true;
  // Rows of one step read the same stored rows in the same form: a replay stops where it once moved some.
  const auto until_move = static_cast<int32_t>(std::min<int64_t>(store_.rows_until_move(branch->seq), kMaxDecodeRows));
  s.rows = std::min({branch->drawn() - branch->computed, until_move, rows_max});
  s.samples = branch->computed + s.rows == branch->drawn();
  s.n_logit_rows = s.samples ? 1 : 0;
  if (s.rows <= 0 || s.n_logit_rows > logit_rows_max || !reserve(branch, s.rows)) return;
  give(s);
}

bool Scheduler::plan_prompt(size_t place) {
  Branch* b = order_[place].get();
  if (!b->is_running()) {
    if (waits_for_fork(place)) {
      if (free_slots() > 0) ++slots_promised_;  // younger requests must not take the place of the fork
      return true;
    }
    // A pre-empted branch cannot replay a token that is still in flight. First come, first served.
    if (b->in_flight > 0 || !admit(b)) return false;
  }
  if (!b->in_prompt()) return true;
  const bool observes = b->observes_prompt();
  ScheduledRows s;
  s.branch = b;
  s.rows = std::min(b->prompt_len - b->computed, rows_left_);
  if (observes) s.rows = std::min(s.rows, logit_rows_left_ + std::max(0, b->observed - b->computed));
  const auto end = [&] { return b->computed + s.rows; };
  if (end() < b->prompt_len) s.rows -= end() % limits_.chunk_grid;
  s.samples = end() == b->prompt_len && b->drawn() == b->prompt_len;
  s.n_logit_rows = s.samples ? 1 : 0;
  if (observes) s.n_logit_rows = std::max(0, end() - std::max(b->computed, b->observed));
  if (s.rows <= 0 || s.n_logit_rows > logit_rows_left_ || !reserve(b, s.rows)) return false;
  if (s.samples) {
    for (size_t i = place + 1; i < order_.size() && order_[i]->owner == b->owner; ++i) {
      if (can_fork(*order_[i]) && s.n_forks < free_slots()) ++s.n_forks;
    }
  }
  give(s);
  return true;
}

Scheduler::OldestShare Scheduler::share_of_oldest_prompt() const {
#ifdef PARE_FAULT_RUNTIME_STARVE_OLDEST
  return {};
#else
  if (order_.empty() || !order_.front()->in_prompt()) return {};
  const Branch& oldest = *order_.front();
  const int32_t left = oldest.prompt_len - oldest.computed, chunk = std::min(left, limits_.chunk_grid);
  if (oldest.observes_prompt()) return {chunk, chunk};
  return {chunk, left <= limits_.step_rows ? 1 : 0};
#endif
}

void Scheduler::plan(std::vector<ScheduledRows>* step) {
  step_ = step;
  step_->clear();
  rows_left_ = limits_.step_rows;
  logit_rows_left_ = limits_.logit_rows;
  slots_promised_ = 0;

  const OldestShare kept = share_of_oldest_prompt();
  for (const auto& b : order_) {
    const int32_t rows = rows_left_ - kept.rows, logit_rows = logit_rows_left_ - kept.logit_rows;
    if (rows <= 0) break;
    if (b->is_running() && !b->in_prompt()) plan_decode(b.get(), rows, logit_rows);
  }
  for (size_t place = 0; place < order_.size() && rows_left_ > 0; ++place) {
    if (!plan_prompt(place)) break;
  }

  int32_t next = 0;
  for (ScheduledRows& s : *step_) {
    s.logit_row0 = next;
    next += s.n_logit_rows;
  }
}

}  // namespace pare
