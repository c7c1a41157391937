// Captured decode steps. A step's launches follow from the addresses and counts that its ops are given; those are the
// key. A key seen for the second time is captured, afterwards replayed.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "ops/exec.h"
#include "pare/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

class StepGraphs {
 public:
  enum class Action : uint8_t { kRun, kCapture, kReplay };

  StepGraphs() = default;
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;
  ~StepGraphs();

  // What to do with a step of this key on `stream`. kCapture: capturing has begun, the caller queues its launches and
  // calls finish_capture. kReplay: they are queued.
  Expected<Action> begin(std::span<const uint64_t> key, Stream stream);
  // Ends the capture, keeps the graph and queues it.
  Status finish_capture(Stream stream);
  // What is kept with the step of the last begin().
  ExecCounters* cost() { return entries_.empty() ? nullptr : &entries_.front().cost; }

  int64_t captured() const { return captured_; }
  int64_t replayed() const { return replayed_; }

 private:
  struct Entry {
    std::vector<uint64_t> key;
    GraphExec graph = nullptr;  // null: seen once
    ExecCounters cost;
  };
  static constexpr size_t kMaxEntries = 128;  // least recently used goes

  std::list<Entry> entries_;  // most recently used first
  int64_t captured_ = 0, replayed_ = 0;
};

}  // namespace pare::cuda
