#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/checked.h"
#include "base/limits.h"

namespace pare {
namespace {

using Clock = std::chrono::steady_clock;

// A decode step leaves gaps of a few microseconds between loops, a sampling step some tens: spinning covers the first,
// yielding the second (and lets an oversubscribed machine get on), parking everything longer.
constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr auto kYieldTime = std::chrono::microseconds(200);
constexpr int kPausesPerClockRead = 32;

inline void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until ready(), spinning then yielding; gives up after both (false) unless `forever`.
template <typename Ready>
bool wait_busily(bool forever, Ready ready) {
  for (int i = 0; i < kPausesPerClockRead; ++i) {
    if (ready()) return true;
    cpu_pause();
  }
  const Clock::time_point start = Clock::now();
  for (;;) {
    const auto waited = Clock::now() - start;
    if (waited < kSpinTime) {
      for (int i = 0; i < kPausesPerClockRead; ++i) {
        if (ready()) return true;
        cpu_pause();
      }
    } else {
      if (ready()) return true;
      if (!forever && waited > kSpinTime + kYieldTime) return false;
      std::this_thread::yield();
    }
  }
}

}  // namespace

// A loop's tasks lie in shares: one for all threads (run) or one for each (run_shares). A share is one 64-bit word, the
// loop's number in the upper half and the unclaimed tasks in the lower; a claim is a compare-and-swap on it, so a
// worker that comes late can never claim a task of a loop whose body it has not seen, and a parked worker is not waited
// for: the loop is over when its tasks are. A claim of run takes a part of what is left, so that its cache
// line does not become the bottleneck of short tasks while the last ones still go out one by one.
struct ThreadPool::Shared {
  struct alignas(64) Tasks {
    std::atomic<uint64_t> word{0};
    int64_t end = 0;  // the next task is end - unclaimed; written before the word
  };
  alignas(64) std::atomic<uint32_t> loop{0};
  std::atomic<int> n_shares{1};
  std::atomic<uint32_t> parts{1};  // a claim takes this part of what a share has left, one task at least
  alignas(64) std::atomic<int64_t> unfinished{0};
  // Written by the caller before the shares are; stable while a task of the loop is unfinished.
  alignas(64) ErasedBody body = nullptr;
  void* fn = nullptr;
  alignas(64) std::atomic<int> parked{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<Tasks> shares;
  std::vector<std::thread> workers;

  static uint32_t unclaimed(uint64_t w) { return static_cast<uint32_t>(w); }

  void set_share(Tasks& share, uint32_t number, int64_t begin, int64_t end) {
    share.end = end;
    share.word.store(uint64_t{number} << 32 | static_cast<uint64_t>(end - begin), std::memory_order_release);
  }

  // Runs tasks until none is left to claim: the thread's own share first, then what others have not begun.
  void work(int thread) {
    const int n = n_shares.load(std::memory_order_relaxed);
    const uint32_t part = parts.load(std::memory_order_relaxed);
    int64_t ran = 0;
    for (int i = 0; i < n; ++i) {
      Tasks& share = shares[static_cast<size_t>((thread + i) % n)];
      uint64_t w = share.word.load(std::memory_order_acquire);
      while (unclaimed(w) > 0) {
        const uint32_t claimed = std::max(1u, unclaimed(w) / part);
        if (!share.word.compare_exchange_weak(w, w - claimed, std::memory_order_acquire, std::memory_order_acquire)) {
          continue;
        }
        const int64_t first = share.end - unclaimed(w);
        for (int64_t task = first; task < first + claimed; ++task) body(fn, task, thread);
        ran += claimed;
        w = share.word.load(std::memory_order_acquire);  // still this loop: its end waits for the report below
      }
    }
    if (ran > 0) unfinished.fetch_sub(ran, std::memory_order_acq_rel);
  }

  void worker(int thread) {
    uint32_t seen = 0;
    const auto ready = [this, &seen] {
      return loop.load(std::memory_order_acquire) != seen || stop.load(std::memory_order_relaxed);
    };
    for (;;) {
      if (!wait_busily(false, ready)) {
        std::unique_lock<std::mutex> lock(mutex);
        // Sequentially consistent with run_erased: either it sees this worker parked, or this worker sees its loop.
        parked.fetch_add(1, std::memory_order_seq_cst);
        wake.wait(lock, [this, &seen] {
          return loop.load(std::memory_order_seq_cst) != seen || stop.load(std::memory_order_relaxed);
        });
        parked.fetch_sub(1, std::memory_order_relaxed);
      }
      if (stop.load(std::memory_order_relaxed)) return;
      seen = loop.load(std::memory_order_acquire);
      work(thread);
    }
  }
};

ThreadPool::ThreadPool(int threads)
    : threads_(std::clamp<int>(threads, 1, kMaxThreads)), shared_(std::make_unique<Shared>()) {
  shared_->shares = std::vector<Shared::Tasks>(static_cast<size_t>(threads_));
  shared_->workers.reserve(static_cast<size_t>(threads_ - 1));
  for (int t = 1; t < threads_; ++t) {
    shared_->workers.emplace_back([shared = shared_.get(), t] { shared->worker(t); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->stop.store(true, std::memory_order_relaxed);
  }
  shared_->wake.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadPool::run_erased(int64_t tasks, Hand hand, ErasedBody body, void* fn) {
  if (tasks <= 0) return;
  if (threads_ == 1 || tasks == 1) {
    for (int64_t task = 0; task < tasks; ++task) body(fn, task, 0);
    return;
  }
  PARE_CHECK(tasks <= UINT32_MAX);
  Shared& s = *shared_;
  s.body = body;
  s.fn = fn;
  s.unfinished.store(tasks, std::memory_order_relaxed);
  const uint32_t number = s.loop.load(std::memory_order_relaxed) + 1;
  const int n = hand == Hand::kShares ? threads_ : 1;
  s.n_shares.store(n, std::memory_order_relaxed);
  s.parts.store(hand == Hand::kSome ? 2 * static_cast<uint32_t>(threads_) : UINT32_MAX, std::memory_order_relaxed);
  for (int i = 0; i < n; ++i) {
    const Share share = share_of(tasks, i, n);
    s.set_share(s.shares[static_cast<size_t>(i)], number, share.begin, share.end);
  }
  s.loop.store(number, std::memory_order_seq_cst);
  if (s.parked.load(std::memory_order_seq_cst) > 0) {
    { const std::lock_guard<std::mutex> lock(s.mutex); }  // a worker about to wait has then begun to
    s.wake.notify_all();
  }
  s.work(0);
  wait_busily(true, [&s] { return s.unfinished.load(std::memory_order_acquire) == 0; });
}

Share share_of(int64_t n, int part, int parts, int64_t unit) {
  const int64_t units = ceil_div(n, unit);
  const int64_t each = units / parts, extra = units % parts;
  const int64_t begin = each * part + std::min<int64_t>(part, extra);
#ifdef PARE_FAULT_BASE_SHARE_TAIL
  const int64_t end = begin + each;
#else
  const int64_t end = begin + each + (part < extra ? 1 : 0);
#endif
  return {std::min(n, begin * unit), std::min(n, end * unit)};
}

int cpus_of_quota(std::string_view cpu_max) {
  const auto number = [&cpu_max](int64_t* value) {
    const auto [end, error] = std::from_chars(cpu_max.data(), cpu_max.data() + cpu_max.size(), *value);
    if (error != std::errc() || *value <= 0) return false;
    cpu_max.remove_prefix(static_cast<size_t>(end - cpu_max.data()));
    while (!cpu_max.empty() && cpu_max.front() == ' ') cpu_max.remove_prefix(1);
    return true;
  };
  int64_t quota = 0, period = 0;
  if (!number(&quota) || !number(&period)) return 0;
  return static_cast<int>(std::min<int64_t>(ceil_div(quota, period), kMaxThreads));
}

namespace {

int cpus_of_affinity() {
  for (size_t cpus = 1024; cpus <= (size_t{1} << 18); cpus *= 4) {  // the kernel's mask may be wider than cpu_set_t
    std::vector<unsigned long> mask(cpus / (8 * sizeof(unsigned long)));
    const size_t bytes = mask.size() * sizeof(unsigned long);
    if (sched_getaffinity(0, bytes, reinterpret_cast<cpu_set_t*>(mask.data())) != 0) continue;
    int count = 0;
    for (const unsigned long word : mask) count += __builtin_popcountl(word);
    return std::max(1, count);
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// The tightest cpu.max from this process's control group up to the root; 0: none.
int cpus_of_cgroup() {
  std::ifstream membership("/proc/self/cgroup");
  std::string line, group;
  while (std::getline(membership, line)) {
    if (line.rfind("0::", 0) == 0) group = line.substr(3);
  }
  int tightest = 0;
  for (;;) {
    std::ifstream file("/sys/fs/cgroup" + group + "/cpu.max");
    std::string text;
    if (file && std::getline(file, text)) {
      const int cpus = cpus_of_quota(text);
      if (cpus > 0 && (tightest == 0 || cpus < tightest)) tightest = cpus;
    }
    if (group.empty()) return tightest;
    group.erase(group.find_last_of('/') == std::string::npos ? 0 : group.find_last_of('/'));
  }
}

}  // namespace

int usable_cpus() {
  const int affinity = cpus_of_affinity(), quota = cpus_of_cgroup();
  return quota > 0 ? std::min(affinity, quota) : affinity;
}

}  // namespace pare
