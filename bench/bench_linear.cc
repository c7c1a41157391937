// Matrix kernels against what the machine can do, both measured here: one row of activations against the
// bandwidth of reading as many bytes with the same threads, several rows against the rate of 8-bit
// multiply-adds in registers.
//
//   bench_linear [--level L] [--threads N] [--format Q4_1] [--seconds S] [--clock cpu]
//
// --clock cpu counts the calling thread's CPU time: for one thread on a machine that others use too.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/arena.h"
#include "base/checked.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/linear.h"

namespace pare {
namespace {

struct Shape {
  DType dtype;
  int64_t n, k;
  const char* what;
};
constexpr Shape kShapes[] = {
    {DType::Q4_1, 1536, 576, "SmolLM2 gate, up"},    {DType::Q4_1, 576, 1536, "SmolLM2 down"},
    {DType::Q8_0, 49152, 576, "SmolLM2 output"},     {DType::Q5_0, 4864, 896, "Qwen 0.5B gate, up"},
    {DType::Q4_K, 8960, 1536, "Qwen 1.5B gate, up"}, {DType::Q6_K, 1536, 8960, "Qwen 1.5B down"},
    {DType::Q5_0, 2048, 640, "Gemma gate, up"},      {DType::BF16, 1536, 1536, "BF16"},
};

double g_seconds = 0.2;
bool g_cpu_time = false;

double now() {
  if (g_cpu_time) {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Best seconds per call over batches that fill g_seconds.
template <typename Call>
double best_seconds(Call call) {
  call();
  double best = 1e9;
  for (const double end = now() + g_seconds; now() < end;) {
    const double start = now();
    call();
    best = std::min(best, now() - start);
  }
  return best;
}

// Bytes per second of reading a buffer far larger than the caches, each thread its share.
double read_bandwidth(ThreadPool& pool) {
  const size_t bytes = size_t{512} << 20;
  AlignedBuffer buffer = AlignedBuffer::allocate(bytes).value();
  std::memset(buffer.data(), 1, bytes);
  std::vector<uint64_t> sums(static_cast<size_t>(pool.threads()) * 8);
  const double seconds = best_seconds([&] {
    pool.run_on_all([&](int part) {
      const Share share = share_of(static_cast<int64_t>(bytes), part, pool.threads(), 4096);
      const auto* p = reinterpret_cast<const uint64_t*>(buffer.data() + share.begin);
      uint64_t sum[8] = {};
      for (int64_t i = 0; i < (share.end - share.begin) / 64; ++i) {
        for (int j = 0; j < 8; ++j) sum[j] ^= p[8 * i + j];
      }
      for (int j = 0; j < 8; ++j) sums[static_cast<size_t>(part) * 8] += sum[j];
    });
  });
  return static_cast<double>(bytes) / seconds;
}

#if defined(__x86_64__)
constexpr int kChains = 12, kSteps = 100'000;

__attribute__((target("avx512f,avx512bw,avx512vnni"))) int64_t vnni_steps() {
  __m512i acc[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_epi32(i);
  const __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(-2);
  for (int s = 0; s < kSteps; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], w, x);
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) asm volatile("" : "+v"(acc[i]));  // or the steps would become one
  }
  int32_t out[16];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) _mm512_storeu_si512(out, acc[i]);
  return out[0];
}

__attribute__((target("avx2"))) int64_t maddubs_steps() {
  __m256i acc[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_epi16(static_cast<int16_t>(i));
  const __m256i x = _mm256_set1_epi8(-2);
  for (int s = 0; s < kSteps; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(acc[i], x));
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) asm volatile("" : "+x"(acc[i]));
  }
  int32_t out[8];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), acc[i]);
  return out[0];
}
#endif

// 8-bit multiply-adds per second that the level's multiply instruction can start; 0 where none is known
// (AMX's own tile rate is not measured: its level is shown against VNNI's).
double int8_peak(ThreadPool& pool, CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::kScalar) return 0;
  const bool vnni = level != CpuLevel::kAvx2;
  const double seconds = best_seconds([&] {
    pool.run_on_all([&](int) {
      volatile int64_t sink = vnni ? vnni_steps() : maddubs_steps();
      (void)sink;
    });
  });
  return static_cast<double>(pool.threads()) * kSteps * kChains * (vnni ? 64 : 32) / seconds;
#else
  (void)pool, (void)level;
  return 0;
#endif
}

// Copies of a weight, enough that one pass over all leaves the caches.
struct Weights {
  AlignedBuffer buffer;
  std::vector<PackedWeight> copies;
};

Weights make_weights(const Shape& s, size_t total_bytes) {
  const DTypeInfo info = dtype_info(s.dtype);
  std::vector<std::byte> source(static_cast<size_t>(s.n * s.k / info.block_items * info.block_bytes));
  Philox rng(1);
  // fp16 fields stay small and finite. The high byte of every 16-bit float has an exponent bit set: denormals are slow.
  const bool floats = info.block_items == 1;
  for (size_t i = 0; i < source.size(); ++i) {
    source[i] = static_cast<std::byte>((rng() & 0x3B) | (floats && i % 2 == 1 ? 0x30 : 0));
  }
  const size_t each = round_up<size_t>(packed_weight_bytes(s.dtype, s.n, s.k), 64);
  const size_t count = std::max<size_t>(1, total_bytes / each);
  Weights w{AlignedBuffer::allocate(each * count).value(), {}};
  for (size_t i = 0; i < count; ++i) {
    std::byte* at = w.buffer.data() + i * each;
    if (i == 0) {
      pack_weight_tiles(s.dtype, source.data(), s.n, s.k, 0, ceil_div(s.n, kRowTile), at);
    } else {
      std::memcpy(at, w.buffer.data(), each);
    }
    w.copies.push_back({s.dtype, s.n, s.k, at});
  }
  return w;
}

struct Rates {
  double bytes_per_second, macs_per_second;
};

Rates measure(ThreadPool& pool, CpuLevel level, const Weights& w, int64_t t) {
  const PackedWeight& first = w.copies.front();
  const LinearKernels& kernels = linear_kernels(level);
  std::vector<float> x(static_cast<size_t>(t * first.k)), y(static_cast<size_t>(t * first.n));
  Philox rng(2);
  for (float& v : x) v = rng.normal();
  AlignedBuffer block = AlignedBuffer::allocate(act_rows_bytes(t, first.k)).value();
  ActRows rows;
  place_act_rows(block.data(), t, first.k, &rows);
  rows.f32 = x.data();
  rows.ld = first.k;
  if (wants_quantized_input(first.dtype)) quantize_rows(kernels, rows, 0, t);
  const int64_t tiles = ceil_div(first.n, kRowTile);
  const size_t copies = t >= 64 ? 1 : w.copies.size();  // many rows read a weight often: the cache may hold it
  const double seconds = best_seconds([&] {
    for (size_t i = 0; i < copies; ++i) {
      const int64_t tasks = pool.threads() == 1 ? 1 : pool.threads() * 4;
      pool.run(tasks, [&](int64_t task, int) {
        const Share share = share_of(tiles, static_cast<int>(task), static_cast<int>(tasks));
        kernels.linear(w.copies[i], rows, 0, t, share.begin, share.end, {}, y.data(), first.n);
      });
    }
  });
  const auto n = static_cast<double>(copies);
  return {n * static_cast<double>(packed_weight_bytes(first.dtype, first.n, first.k)) / seconds,
          n * static_cast<double>(first.n * first.k * t) / seconds};
}

int run(int argc, char** argv) {
  std::string only_level, only_format;
  int only_threads = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--level") only_level = argv[i + 1];
    if (flag == "--format") only_format = argv[i + 1];
    if (flag == "--threads") only_threads = std::atoi(argv[i + 1]);
    if (flag == "--clock") g_cpu_time = std::string(argv[i + 1]) == "cpu";
    if (flag == "--seconds") g_seconds = std::atof(argv[i + 1]);
  }
  for (const int threads : only_threads > 0 ? std::vector<int>{only_threads} : std::vector<int>{1, 2}) {
    ThreadPool pool(threads);
    const double bandwidth = read_bandwidth(pool);
    std::printf("threads %d: reads %.1f GB/s\n", threads, bandwidth / 1e9);
    for (const CpuLevel level : testable_cpu_levels()) {
      if (level == CpuLevel::kScalar || (!only_level.empty() && only_level != cpu_level_name(level))) continue;
      const double peak = int8_peak(pool, level);
      std::printf("%s, %d threads, int8 peak %.0f GMAC/s\n", std::string(cpu_level_name(level)).c_str(), threads,
                  peak / 1e9);
      std::printf("  %-28s %12s %6s | GMAC/s (of peak) at T = 8, 16, 64, 512\n", "weight", "T=1 GB/s", "floor");
      for (const Shape& s : kShapes) {
        if (!only_format.empty() && only_format != dtype_name(s.dtype)) continue;
        const Weights w = make_weights(s, size_t{192} << 20);
        const Rates one = measure(pool, level, w, 1);
        std::printf("  %-5s %-22s %12.1f %5.0f%% |", std::string(dtype_name(s.dtype)).c_str(), s.what,
                    one.bytes_per_second / 1e9, 100 * one.bytes_per_second / bandwidth);
        if (s.n > 20'000) {  // the output matrix multiplies few rows
          std::printf("\n");
          continue;
        }
        for (const int64_t t : {8, 16, 64, 512}) {
          const double macs = measure(pool, level, w, t).macs_per_second;
          std::printf(" %6.0f (%3.0f%%)", macs / 1e9, 100 * macs / std::max(peak, 1.0));
        }
        std::printf("\n");
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace pare

int main(int argc, char** argv) { return pare::run(argc, argv); }
