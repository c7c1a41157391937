// Scheduler: which branches run in the next step and how many rows each gets. Decides order, admission, chunking and
// pre-emption; touches the KV store only to make, reserve and free sequences.
//
// Order. Branches past their prompt come first, one row each (or up to 16 when replaying after a pre-emption), oldest
// first; what is left of the step's rows goes to prompts, oldest first, each as far as it can. A branch that cannot
// get pages pre-empts the youngest running branch younger than itself; the youngest waits. So the oldest branch always
// advances, and nothing starves.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <span>
#include <vector>

#include "runtime/branch.h"

namespace pare {

struct SchedulerLimits {
  int32_t max_sequences = 1;
  int32_t step_rows = 512;
  int32_t logit_rows = 64;
  int32_t chunk_grid = 1;  // prompt chunks end at multiples of it or with the prompt
};

// One branch's share of a step: rows [branch->computed, + rows).
struct ScheduledRows {
  Branch* branch = nullptr;
  int32_t rows = 0;
  bool decode = false;
  int32_t logit_row0 = 0, n_logit_rows = 0;  // its rows in the step's logits; 0: none wanted
  bool samples = false;                      // the last of them is drawn from
  // Waiting branches of the same request that fork from this one after the step; one further logit row each.
  int32_t n_forks = 0;
};

class Scheduler {
 public:
  Scheduler(KvStore* store, const SchedulerLimits& limits);

  void add(std::unique_ptr<Branch> branch);
  // Fills `step`; empty when nothing can run. An error means that a lone branch cannot get the pages it needs.
  Status plan(std::vector<ScheduledRows>* step);
  // Takes a branch out for good and frees what it holds.
  void retire(Branch* branch);
  // Gives `branch`, waiting, the forked sequence `seq` with `computed` rows.
  void start_fork(Branch* branch, SeqId seq, int32_t computed);

  // Oldest first, valid until the next call that changes them.
  const std::vector<Branch*>& branches() const { return order_; }
  bool idle() const { return order_.empty(); }
  uint64_t preemptions() const { return preemptions_; }
  bool has_free_slot() const { return !free_slots_.empty(); }
  // Waiting branches of `branch`'s request, oldest first.
  void waiting_siblings(const Branch& branch, std::vector<Branch*>* out) const;

 private:
  bool admit(Branch* branch);
  void preempt(Branch* branch);
  // Reserves rows for `branch`, pre-empting younger ones while that helps.
  bool reserve(Branch* branch, int32_t rows, std::vector<ScheduledRows>* step);
  int32_t free_logit_rows(std::span<const ScheduledRows> step) const;

  KvStore& store_;
  SchedulerLimits limits_;
  std::list<std::unique_ptr<Branch>> owned_;
  std::vector<Branch*> order_;  // by arrival
  std::vector<int32_t> free_slots_;
  uint64_t next_arrival_ = 0, preemptions_ = 0;
  int32_t running_ = 0;
};

}  // namespace pare
