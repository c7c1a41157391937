// What the benches of single kernels share: the clock, the card's rates, random operands and the report.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "eval/kernel_bench.h"
#include "kernels/cuda/card_rates.h"
#include "plan/kv_layout.h"
#include "tensor/cuda/device_memory.h"
#include "tensor/cuda/stopwatch.h"
#include "tensor/dtype.h"

namespace pare::cuda {

inline constexpr int kBenchRepeats = 21;
// Operands that follow each other before the first one is used again: far more than any second-level cache.
inline constexpr size_t kRotatedBytes = size_t{400} << 20;

// What a kernel must do at least. The largest of the three times is its floor.
struct KernelWork {
  double read_bytes = 0;   // only read
  double moved_bytes = 0;  // read and written, about as many of each
  double flop = 0;
};

class KernelRun {
 public:
  static Expected<KernelRun> create(const KernelBenchOptions& options, KernelReport* report);

  Stream stream() const { return watch_.stream(); }
  // Whether the line is to be measured; asked before its operands are made.
  bool wants(std::string_view group, std::string_view name) const;

  // One call between two events, after the caches were filled with something else.
  Status measure(std::string group, std::string name, const KernelWork& work, const Stopwatch::Call& call);
  // One of `calls` in a graph, as in a decode step; `call` takes other operands each time, kRotatedBytes in all.
  Status measure_in_graph(std::string group, std::string name, const KernelWork& work, int calls,
                          const Stopwatch::Call& call);
  // The last line's work by a kernel of another program, `peer`, measured in the same way.
  Status measure_peer(const std::string& peer, const Stopwatch::Call& call);
  size_t lines() const { return report_.lines.size(); }
  // A line that adds up the last `lines` lines.
  void add_sum(std::string group, std::string name, size_t lines);

 private:
  KernelRun(const KernelBenchOptions& options, KernelReport* report, Stopwatch watch)
      : options_(options), report_(*report), watch_(std::move(watch)) {}
  Expected<double> seconds_of(const Stopwatch::Call& call);
  Status announce(const std::string& group, const std::string& name) const;
  void add(std::string group, std::string name, const KernelWork& work, double seconds);

  const KernelBenchOptions& options_;
  KernelReport& report_;
  Stopwatch watch_;
  DeviceBuffer flush_, sink_;
};

// Memory of the card: zeros; a copy of `host`.
Expected<DeviceBuffer> zeros(size_t bytes);
Expected<DeviceBuffer> uploaded_bytes(const void* host, size_t bytes);
template <typename T>
Expected<DeviceBuffer> uploaded(const std::vector<T>& host) {
  return uploaded_bytes(host.data(), host.size() * sizeof(T));
}

// "8K tokens", "512 tokens"
std::string tokens_text(int64_t tokens);

// One group each.
Status bench_prefill_attention(KernelRun& run);
Status bench_decode_attention(KernelRun& run, int32_t multiprocessors);
// Decode over a pruned store (LeanK, section 4.2): of each sequence the first 128 and the last 768 rows with all
// channels, those between with widths[layer][head] channels of K (0: the head keeps none of them). Every layer is
// measured alone, with 32 query heads and as many KV heads of 128 channels as widths[layer] has; then their sum, and
// one dense layer beside it. `codec` of the rows between: Bf16, or quantized in groups of 32.
struct PrunedDecode {
  std::string name;                      // of the mask
  std::vector<std::vector<int>> widths;  // multiples of 16 up to 128
  int sequences = 64, context = 32768;
  Codec codec = Codec::Bf16;
};
Status bench_pruned_decode(KernelRun& run, const PrunedDecode& shape);
Status bench_small_linear(KernelRun& run);
Status bench_row_ops(KernelRun& run);
Status bench_sampler(KernelRun& run);

}  // namespace pare::cuda
