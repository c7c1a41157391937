#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/limits.h"

namespace pare {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceOnAKnownThread) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 7, 100, 1000}) {
      std::vector<int> runs(static_cast<size_t>(tasks));  // plain: a task run twice is a data race, which TSan reports
      std::atomic<int> strangers{0};
      const auto body = [&](int64_t task, int thread) {
        ++runs[static_cast<size_t>(task)];
        if (thread < 0 || thread >= threads) ++strangers;
      };
      pool.run(tasks, body);
      for (const int n : runs) EXPECT_EQ(n, 1);
      pool.run_shares(tasks, body);
      for (const int n : runs) EXPECT_EQ(n, 2);
      pool.run_singly(tasks, body);
      for (const int n : runs) EXPECT_EQ(n, 3);
      EXPECT_EQ(strangers, 0);
    }
  }
}

TEST(ThreadPool, ManyShortLoopsSeeTheirOwnBody) {
  ThreadPool pool(4);
  int64_t total = 0;
  for (int64_t loop = 0; loop < 20'000; ++loop) {
    int64_t values[5] = {};
    const auto body = [&values, loop](int64_t task, int) { values[task] = loop + task; };
    if (loop % 3 == 0) {
      pool.run(5, body);
    } else if (loop % 3 == 1) {
      pool.run_singly(5, body);
    } else {
      pool.run_shares(5, body);
    }
    for (int64_t task = 0; task < 5; ++task) ASSERT_EQ(values[task], loop + task);
    total += values[0];
  }
  EXPECT_EQ(total, 20'000LL * 19'999 / 2);
}

TEST(ThreadPool, WakesParkedWorkers) {
  ThreadPool pool(3);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // longer than the spin and yield phases
    // Each task waits for the other two: only three running threads can finish the loop.
    std::atomic<int> arrived{0};
    pool.run(3, [&](int64_t, int) {
      ++arrived;
      while (arrived < 3) std::this_thread::yield();
    });
    EXPECT_EQ(arrived, 3);
  }
}

TEST(ThreadPool, SingleTasksAreNotTakenInBunches) {
  ThreadPool pool(2);
  // The first task ends when all others are done: whoever took it may have claimed none of them with it.
  constexpr int kTasks = 64;
  std::atomic<int> done{0};
  pool.run_singly(kTasks, [&](int64_t task, int) {
    while (task == 0 && done < kTasks - 1) std::this_thread::yield();
    ++done;
  });
  EXPECT_EQ(done, kTasks);
}

TEST(ThreadPool, RunOnAllCoversEveryPart) {
  ThreadPool pool(4);
  std::vector<int> parts(4);
  pool.run_on_all([&](int part) { ++parts[static_cast<size_t>(part)]; });
  EXPECT_EQ(parts, (std::vector<int>{1, 1, 1, 1}));
}

TEST(ThreadPool, ClampsTheNumberOfThreads) {
  EXPECT_EQ(ThreadPool(0).threads(), 1);
  EXPECT_EQ(ThreadPool(-5).threads(), 1);
  EXPECT_LE(ThreadPool(1 << 30).threads(), kMaxThreads);
}

TEST(ThreadPool, StartsAndStopsWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(3);
}

TEST(ShareOf, SharesAreContiguousCompleteAndEven) {
  for (const int64_t n : {0, 1, 15, 16, 17, 1000}) {
    for (const int parts : {1, 2, 3, 7}) {
      for (const int64_t unit : {1, 16}) {
        int64_t next = 0, smallest = n, largest = 0;
        for (int part = 0; part < parts; ++part) {
          const Share share = share_of(n, part, parts, unit);
          EXPECT_EQ(share.begin, next);
          EXPECT_TRUE(share.begin % unit == 0 || share.begin == n);
          next = share.end;
          smallest = std::min(smallest, share.end - share.begin);
          largest = std::max(largest, share.end - share.begin);
        }
        EXPECT_EQ(next, n);
        EXPECT_LE(largest - smallest, 2 * unit - 1);  // one unit, and a last unit that is cut short
      }
    }
  }
}

TEST(UsableCpus, IsPositiveAndQuotasAreRead) {
  EXPECT_GE(usable_cpus(), 1);
  EXPECT_EQ(cpus_of_quota("max 100000"), 0);
  EXPECT_EQ(cpus_of_quota("100000 100000"), 1);
  EXPECT_EQ(cpus_of_quota("150000 100000"), 2);
  EXPECT_EQ(cpus_of_quota("1000 100000"), 1);
  for (const char* bad : {"", "x", "5", "-1 5", "5 0", "5 x", "99999999999999999999 1"}) {
    EXPECT_EQ(cpus_of_quota(bad), 0) << bad;
  }
  EXPECT_EQ(cpus_of_quota("900000000000 1"), kMaxThreads);
}

}  // namespace
}  // namespace pare
