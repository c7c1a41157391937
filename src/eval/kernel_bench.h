// Speed of the CUDA kernels one by one, each beside its floor: what the card needs to move its bytes or to multiply its
// numbers at the rates that were measured in the same run.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ops/accelerator.h"
#include "pare/status.h"
#include "tensor/tensor.h"

namespace pare {

struct KernelLine {
  std::string group;  // "prefill attention"
  std::string name;   // "dense, 32/8 heads of 128, 8K tokens"
  double seconds = 0, floor_seconds = 0;
  std::string_view bound;   // what the floor is made of: "read", "copy" or "GEMM"
  double peer_seconds = 0;  // of another program's kernel for the same work; 0: unknown

  double ratio() const { return floor_seconds / seconds; }  // 1: as fast as the card allows
};

struct KernelReport {
  ops::AcceleratorInfo card;
  double read_rate = 0, copy_rate = 0;  // bytes a second; a copy's are those read and those written
  double gemm_rate = 0;                 // FLOP a second in bf16
  std::string peer;                     // whose times are beside ours, where they were measured in the same run
  std::vector<KernelLine> lines;
};

struct KernelBenchOptions {
  Device device;
  std::string only;  // lines whose "group: name" contains this
  // Hears of every line before it is measured; false ends the run (kCancelled).
  std::function<bool(std::string_view name)> next;
};

// About a minute for all groups; 10 GB of the card's memory. Each time is the median of 20 or more, by the card's
// clock, with operands that are in no cache. kUnsupported without CUDA.
Expected<KernelReport> bench_kernels(const KernelBenchOptions& options);

// Sets peer_seconds from {"lines": [{"name": ..., "seconds": ...}, ...]}, as tools/bench_cudnn.py prints it. Names
// that the report does not have are left out. kDataLoss when the text is something else.
Status read_peer_kernels(std::string_view json, KernelReport* report);

}  // namespace pare
