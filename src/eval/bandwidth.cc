#include "eval/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <vector>

#include "base/arena.h"
#include "base/thread_pool.h"

namespace pare {
namespace {

// Beyond the last-level cache of any socket in sight, and no more: the buffer counts as resident while it is read.
constexpr size_t kBufferBytes = size_t{256} << 20;
constexpr int kPasses = 8;

// Sums a share; the result keeps the loads alive. Eight chains hide the latency of the additions.
uint64_t sum(const uint64_t* data, int64_t n) {
  uint64_t total[8] = {};
  for (int64_t i = 0; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) total[j] += data[i + j];
  }
  return total[0] + total[1] + total[2] + total[3] + total[4] + total[5] + total[6] + total[7];
}

double measure(int threads) {
  auto buffer = AlignedBuffer::allocate(kBufferBytes);
  if (!buffer.ok()) return 0.0;
  ThreadPool pool(threads);
  auto* words = reinterpret_cast<uint64_t*>(buffer->data());
  const int64_t n = static_cast<int64_t>(kBufferBytes / sizeof(uint64_t));
  // First touch by the thread that reads it later; values differ, so that no page is shared with another.
  pool.run_on_all([&](int thread) {
    const Share share = share_of(n, thread, threads, 512);
    for (int64_t i = share.begin; i < share.end; ++i) words[i] = static_cast<uint64_t>(i);
  });
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);  // a cache line each
  double best = 0.0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run_on_all([&](int thread) {
      const Share share = share_of(n, thread, threads, 512);
      sums[static_cast<size_t>(thread) * 8] += sum(words + share.begin, share.end - share.begin);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, static_cast<double>(kBufferBytes) / seconds);
  }
  // An optimizer that dropped the sums would make memory look infinitely fast.
  return sums[0] == 1 ? 0.0 : best;
}

}  // namespace

double read_bandwidth_bytes_per_s(int threads) {
  static std::mutex mutex;
  static std::map<int, double> known;
  const std::lock_guard lock(mutex);
  const auto [entry, inserted] = known.try_emplace(threads, 0.0);
  if (inserted) entry->second = measure(threads);
  return entry->second;
}

}  // namespace pare
