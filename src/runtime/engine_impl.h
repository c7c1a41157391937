// The state of an Engine; private to src/runtime/engine*.cc, and to tests that look at its store.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pare/engine.h"
#include "runtime/engine_memory.h"
#include "runtime/loaded_model.h"
#include "runtime/scheduler.h"
#include "runtime/step_clock.h"

namespace pare {

// A draw whose result has not been looked at.
struct PendingToken {
  Branch* branch = nullptr;  // null: has ended meanwhile
  Branch* parent = nullptr;  // the sibling whose rows the branch forks after the step; null: it ran by itself
  int32_t row = 0;           // in the step's sample outputs
};

struct Engine::Impl {
  std::shared_ptr<const LoadedModel> loaded;
  EngineOptions options;
  std::unique_ptr<EngineMemory> memory;
  std::unique_ptr<Scheduler> scheduler;
  RequestId next_id = 1;
  std::vector<std::shared_ptr<ActiveRequest>> active;
  std::deque<std::pair<RequestId, RequestStats>> finished;
  EngineStats totals;
  StepClock clock;

  // Step state, kept to reuse its capacity.
  std::vector<ScheduledRows> step_rows;
  std::vector<StepSeq> step_seqs;
  std::vector<int32_t> step_tokens;
  std::vector<Branch*> siblings;
  std::vector<float> observed_logits;
  std::vector<PendingToken> pending[2];  // by parity of the step
  // A step whose stamps have not been read: all but its times.
  struct LaunchedStep {
    bool launched = false;
    StepStamp stamp;
  } launched[2];  // likewise
  int parity = 0;

  const ModelConfig& config() const { return loaded->model->config(); }

  Expected<RequestId> submit(Request request, EventSink sink);
  Expected<bool> step();

 private:
  void choose_prompt_class(ActiveRequest* owner) const;
  void apply_cancels();
  Status run_step();
  void gather_rows(Clock::time_point now);
  void fill_inputs(StepInputs* inputs, Tensor* known, Tensor* slots);
  ops::SampleBatch plan_draws();
  void add_draw(Branch* branch, const ScheduledRows& scheduled);
  Status observe(const Tensor& logits);
  void after_step();
  void count_step(const ExecCounters& before, double ms);
  void read_stamp(int outputs);
  Status deliver(std::vector<PendingToken>& results, int outputs);
  void finish(Branch* branch, FinishReason reason, const Status* error, std::string_view text, const TokenEvent* last);
  void fail_oldest();
};

inline constexpr size_t kFinishedKept = 256;  // requests whose stats outlive them

}  // namespace pare
