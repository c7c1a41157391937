// Times of work on a card, by its own clock.
#pragma once

#include <functional>

#include "pare/status.h"
#include "tensor/cuda/stream.h"

namespace pare::cuda {

// A stream with two events. What is timed is queued on stream() by the callbacks, which wait for nothing.
class Stopwatch {
 public:
  using Call = std::function<Status()>;

  static Expected<Stopwatch> create();
  ~Stopwatch();
  Stopwatch(Stopwatch&& other) noexcept;
  Stopwatch& operator=(Stopwatch&&) = delete;

  Stream stream() const { return stream_; }

  // Median seconds of one call over `repeats` after three that are not timed, each between two events of its own.
  // `before` runs ahead of each call and is not timed: it may flush a cache.
  Expected<double> median_seconds(int repeats, const Call& call, const Call& before = {});
  // The same of one of `calls` that follow each other in a graph, as in a step: what a short kernel costs there, its
  // start included.
  Expected<double> median_seconds_in_graph(int calls, int repeats, const Call& call);

 private:
  Stopwatch() = default;
  Stream stream_ = nullptr;
  Event begin_ = nullptr, end_ = nullptr;
};

}  // namespace pare::cuda
