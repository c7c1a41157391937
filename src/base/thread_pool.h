// A persistent pool for data-parallel loops inside one step of the engine.
//
// Workers spin for a while after each loop (a decode step issues hundreds of loops, microseconds apart) and
// then park. Results never depend on the number of threads: callers split work into tasks that are
// independent, and every reduction order is fixed by the task, not by who ran it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <type_traits>

namespace pare {

class ThreadPool {
 public:
  // `threads` counts the calling thread; 1 makes every loop run inline. Clamped to [1, kMaxThreads].
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(task, thread) for every task in [0, tasks), thread in [0, threads()), and returns when all are
  // done. Tasks are claimed dynamically in ascending order, several at a time while many are left. No allocation. Not
  // reentrant: body must not call run on the same pool; one caller at a time. The body must not throw.
  template <typename Body>
  void run(int64_t tasks, Body&& body) {
    run_with(tasks, Hand::kSome, body);
  }

  // As run, but one task at a time throughout: for tasks of unlike size, the largest first.
  template <typename Body>
  void run_singly(int64_t tasks, Body&& body) {
    run_with(tasks, Hand::kOne, body);
  }

  // As run, but each thread begins with its own contiguous share of the tasks and then helps others: for tasks of like
  // size whose data the same thread had in the loop before.
  template <typename Body>
  void run_shares(int64_t tasks, Body&& body) {
    run_with(tasks, Hand::kShares, body);
  }

  // One task per thread, where body(share) splits the work itself.
  template <typename Body>
  void run_on_all(Body&& body) {
    run_shares(threads_, [&](int64_t task, int) { body(static_cast<int>(task)); });
  }

 private:
  enum class Hand { kSome, kOne, kShares };
  using ErasedBody = void (*)(void*, int64_t task, int thread);
  template <typename Body>
  void run_with(int64_t tasks, Hand hand, Body& body) {
    run_erased(
        tasks, hand, [](void* fn, int64_t task, int thread) { (*static_cast<Body*>(fn))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }
  void run_erased(int64_t tasks, Hand hand, ErasedBody body, void* fn);

  struct Shared;
  int threads_;
  std::unique_ptr<Shared> shared_;
};

// Half-open share of `n` items for `part` of `parts`, in units of `unit` items, sizes differing by one unit at most.
struct Share {
  int64_t begin, end;
};
Share share_of(int64_t n, int part, int parts, int64_t unit = 1);

// What the machine allows this process: affinity mask and cgroup quota considered. At least 1.
int usable_cpus();

// Whole CPUs, rounded up, of a cgroup v2 cpu.max line ("150000 100000" is 2); 0: no quota ("max 100000") or no such
// line.
int cpus_of_quota(std::string_view cpu_max);

}  // namespace pare
