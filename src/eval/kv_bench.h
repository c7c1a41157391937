// Decode attention under a KV policy beside dense: time, bytes read, bytes held, on the CPU or a card. Attention alone,
// over stored rows of random values: no weights and no other work of a step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ops/accelerator.h"
#include "pare/status.h"
#include "plan/policy_context.h"

namespace pare {

struct KvBenchConfig {
  int32_t n_layers = 1, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  std::string kv = "dense";
  std::vector<int32_t> lengths;  // rows of each sequence before the decode row
  int32_t batch = 1, threads = 1;
  int32_t repetitions = 20;                       // timed steps of each, alternating
  std::shared_ptr<ops::Accelerator> accelerator;  // null: the CPU
  PolicyFiles* files = nullptr;                   // for specs that name one
  // Not null: where this mask begins to pay is what is measured. The spec must use the same channels and no min_tokens
  // of its own; what its file says of this device is not in force. Null: it is.
  const ChannelMask* gated = nullptr;
  // Hears of every group of layers before it is measured; false ends the run (kCancelled).
  std::function<bool(int64_t done, int64_t total)> next;
};

// One configuration at one length; seconds and bytes are those of all layers together.
struct KvBenchSide {
  double seconds = 0;            // sum over groups of layers of the median
  double spread = 0;             // largest (p90 - p10) / median of a group
  uint64_t bytes_read = 0;       // K, V and scales that a step reads
  int64_t bytes_used = 0;        // pages that the sequences hold
  int64_t bytes_allocated = 0;   // pools, as the allocator has them
  int64_t bytes_by_formula = 0;  // bytes_used as rows times bits, without the store
  double rate() const { return static_cast<double>(bytes_read) / seconds; }
};
struct KvBenchLine {
  int32_t length = 0;
  KvBenchSide dense, policy;
  double ratio = 0;  // median over pairs of steps of the policy's time over that of dense
};

struct KvBenchReport {
  std::string kv;  // canonical
  std::string device_class;
  double read_rate = 0;  // bytes a second, measured in this run
  std::vector<KvBenchLine> lines;
};

// Layers are measured in groups that are larger than the caches and fit the memory; on a card each launch repeats its
// group until it lasts about a millisecond. Errors: the spec, a shape that the kernels do not take, memory.
Expected<KvBenchReport> bench_kv(const KvBenchConfig& config);

}  // namespace pare
