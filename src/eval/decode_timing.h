// When tokens of sequences that decode together count, and over which time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace pare {

// The clock of a decode run starts when every sequence has delivered its first token. Tokens that come with later steps
// count; the clock stops at the last of them. So neither prompts nor the depth of the engine's queue are in the time.
class DecodeTiming {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit DecodeTiming(int32_t sequences) : started_(static_cast<size_t>(sequences)) {}

  // A token of `sequence` was delivered by the step at hand.
  void token(int32_t sequence) {
    ++step_tokens_;
    if (started_[static_cast<size_t>(sequence)]) return;
    started_[static_cast<size_t>(sequence)] = true;
    ++n_started_;
  }
  // The step has delivered all that it will; a step may deliver nothing.
  void step_ended(Time now) {
    if (running_ && step_tokens_ > 0) {
      tokens_ += step_tokens_;
      ++steps_;
      end_ = now;
    }
    if (!running_ && n_started_ == started_.size()) {
      running_ = true;
      begin_ = end_ = now;
    }
    step_tokens_ = 0;
  }

  int64_t tokens() const { return tokens_; }
  int64_t steps() const { return steps_; }  // with tokens that count
  double seconds() const { return std::chrono::duration<double>(end_ - begin_).count(); }
  double tokens_per_second() const { return tokens_ == 0 ? 0.0 : static_cast<double>(tokens_) / seconds(); }

 private:
  std::vector<bool> started_;
  size_t n_started_ = 0;
  bool running_ = false;
  int64_t step_tokens_ = 0, tokens_ = 0, steps_ = 0;
  Time begin_{}, end_{};
};

}  // namespace pare
