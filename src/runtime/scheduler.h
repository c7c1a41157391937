// Scheduler: which branches run in the next step and how many rows each gets. Decides order, admission, chunking and
// pre-emption; touches the KV store only to make, reserve and free sequences.
//
// Order. Branches past their prompt come first, one row each (or up to kMaxDecodeRows when replaying after a
// pre-emption), oldest first; what is left of the step's rows goes to prompts, oldest first, each as far as it can. Two
// rules keep everybody moving: when the oldest branch is still in its prompt, decoding branches leave it the rows of
// one chunk; and a branch that cannot get pages pre-empts the youngest running one, or waits if that is itself. So the
// oldest branch advances in every step, unless what it waits for is its own token in flight.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/branch.h"

namespace pare {

struct SchedulerLimits {
  int32_t max_sequences = 1;
  int32_t step_rows = 512;  // >= chunk_grid
  int32_t logit_rows = 64;  // >= chunk_grid
  int32_t chunk_grid = 1;   // prompt chunks end at multiples of it or with the prompt
};

// One branch's share of a step: rows [branch->computed, + rows).
struct ScheduledRows {
  Branch* branch = nullptr;
  int32_t rows = 0;
  bool decode = false;
  bool samples = false;      // a token is drawn from the last of them
  int32_t logit_row0 = 0;    // in the step's logits
  int32_t n_logit_rows = 0;  // logits are wanted of this many of the last rows
  int32_t n_forks = 0;  // waiting siblings that draw from the last row too and fork from this branch after the step
};

class Scheduler {
 public:
  Scheduler(KvStore* store, const SchedulerLimits& limits);

  // Queues branches behind all others. Strong guarantee: bad_alloc leaves everything as it was.
  void add(std::vector<std::unique_ptr<Branch>> branches);
  // Fills `step`, whose pages are then reserved. Empty when nothing can run before tokens in flight have been looked
  // at; if there are none either, the oldest branch can never run.
  void plan(std::vector<ScheduledRows>* step);
  // Takes a branch out for good and frees what it holds.
  void retire(Branch* branch);
  // Starts `branch`, waiting, on a fork of the rows of `parent`. Only as often as a planned step promised (n_forks).
  void fork(const Branch& parent, Branch* branch);
  // The first `n` siblings of `branch` that could fork from it, oldest first.
  void waiting_siblings(const Branch& branch, int32_t n, std::vector<Branch*>* out) const;

  // Oldest first, valid until the next call that changes them. Pre-empted branches keep their place.
  const std::vector<std::unique_ptr<Branch>>& branches() const { return order_; }
  bool idle() const { return order_.empty(); }
  uint64_t preemptions() const { return preemptions_; }

 private:
  // What decoding branches leave to the oldest branch while it is in its prompt: a chunk, and the logits it may want.
  struct OldestShare {
    int32_t rows = 0, logit_rows = 0;
  };
  OldestShare share_of_oldest_prompt() const;
  void plan_decode(Branch* branch, int32_t rows_max, int32_t logit_rows_max);
  // False when no younger branch may get prompt rows in this step.
  bool plan_prompt(size_t place);
  void give(const ScheduledRows& rows);
  bool waits_for_fork(size_t place) const;
  bool can_fork(const Branch& branch) const;
  int32_t free_slots() const { return static_cast<int32_t>(free_slots_.size()) - slots_promised_; }
  bool admit(Branch* branch);
  void start(Branch* branch, SeqId seq, int32_t computed);
  void stop(Branch* branch);
  // Reserves rows for `branch`, pre-empting younger ones while that helps.
  bool reserve(Branch* branch, int32_t rows);
  void preempt(Branch* branch);

  KvStore& store_;
  const SchedulerLimits limits_;
  std::vector<std::unique_ptr<Branch>> order_;  // by arrival; the branches of a request are neighbours
  std::vector<int32_t> free_slots_;
  uint64_t preemptions_ = 0;

  // While planning.
  std::vector<ScheduledRows>* step_ = nullptr;
  int32_t rows_left_ = 0, logit_rows_left_ = 0;
  int32_t slots_promised_ = 0;  // to siblings that wait for the end of a prompt
};

}  // namespace pare
