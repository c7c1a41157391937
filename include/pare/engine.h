// Engine: continuous batching over one loaded model. Single-threaded control: submit, step and cancel are called by one
// thread; a step itself runs on the engine's pool.
//
// Determinism: the fp32 logits of a row depend on its token, position, visible KV and policy alone: not on batch mates,
// threads, chunk sizes, pre-emption or cache hits (one binary, one CPU level).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pare/attention_observer.h"
#include "pare/request.h"
#include "pare/status.h"

namespace pare {

struct LoadedModel;             // runtime/loaded_model.h
enum class CpuLevel : uint8_t;  // kernels/cpu_level.h

struct EngineOptions {
  int32_t threads = 0;  // 0: what the machine allows
  // Instruction set of the CPU kernels, for this engine alone; whatever PARE_CPU_LEVEL says. Empty: what
  // selected_cpu_level() gives. One that the machine does not have is refused.
  std::optional<CpuLevel> cpu_level;
  int32_t max_sequences = 8;  // branches running at once
  int32_t max_context = 0;    // tokens of one sequence; 0: the model's
  int64_t kv_rows = 0;        // tokens held over all sequences, shared ones once; 0: one full context
  int32_t step_rows = 0;      // rows of one step: decode rows first, then prompt chunks; 0: 512, accelerators 4,096
  int32_t logit_rows = 64;    // of those, rows whose logits may be wanted at once
  bool share_prefixes = true;
  int32_t steps_in_flight = -1;  // 0: tokens are looked at after each step; 1: one step late; -1: 1 on an accelerator
  bool kv_f32 = false;           // stored rows in fp32 instead of fp16: to compare with exact references; CPU only
  bool graphs = true;            // accelerators: capture decode steps once and replay them
  // Accelerators: rows of a prompt and rows of an answer each have one kernel family and one order of summation,
  // whatever else is in the step, as the CPU always has. Off: the fastest kernel for the step at hand.
  bool strict = false;
  // Accelerators: each step writes the card's clock when it begins and when it ends. Costs two reads of that clock, and
  // eight bytes over the bus beside each drawn id.
  bool step_stamps = true;
  std::string attn = "dense";      // selector spec (docs/formats/spec.md)
  std::string kv = "dense";        // policy spec
  AttentionObserver on_attention;  // may be empty; the CPU only
};

struct EngineStats {
  uint64_t steps = 0, prefill_rows = 0, decode_rows = 0, preemptions = 0;
  double prefill_ms = 0, decode_ms = 0;  // steps with prompt rows; steps of decode rows alone
  uint64_t decode_steps = 0;             // steps of decode rows alone
  // Bytes that had to be read by decode-only steps: weights and stored rows.
  uint64_t decode_weight_bytes = 0, decode_kv_bytes = 0;
  // Decode-only steps by the accelerator's own clock (StepStamp), and the gaps from the end of one to the begin of the
  // next, where both are decode-only and nothing was queued between: number, sums and the largest, in microseconds. All
  // 0 on the CPU.
  uint64_t device_steps = 0, device_gaps = 0;
  double device_step_us = 0, device_gap_us = 0, device_gap_us_max = 0;
  uint64_t keys_visited = 0;  // query-key pairs computed, every layer and head; 0 on an accelerator
  uint64_t keys_causal = 0;   // those that the same rows would have had with dense policies
  // Requests that have begun, and those whose prompt some selector read densely although it leaves keys out of others:
  // because it is shorter than the selector's min_tokens; because its log-probabilities were wanted.
  uint64_t prompts = 0, prompts_dense_short = 0, prompts_dense_observed = 0;
  // Answers that have ended, samples counted one by one, and those whose rows all stayed whole only because they are
  // fewer than the KV policy's min_tokens.
  uint64_t answers = 0, answers_whole_short = 0;
  int64_t weight_bytes = 0, workspace_bytes = 0;
  int64_t kv_bytes_allocated = 0, kv_bytes_used = 0, kv_bytes_per_token = 0;
  int64_t kv_pages = 0, kv_pages_used = 0, kv_pages_cached = 0, kv_pages_freed = 0;
  int64_t kv_bytes_used_peak = 0, kv_pages_used_peak = 0;  // the most that one step held
  // Pools as allocated, by kind: whole rows; of pruned or quantized ones keys, values and scales.
  int64_t kv_bytes_full = 0, kv_bytes_mid_k = 0, kv_bytes_mid_v = 0, kv_bytes_mid_scales = 0;
  int64_t kv_pages_moved = 0;  // from whole to pruned or quantized
  int64_t prefix_hit_rows = 0, sequences = 0;
};

// When a step ran on an accelerator, by its clock, in nanoseconds since some moment: from the first thread of its first
// launch, once everything queued before has ended, to the last thread of its draws.
struct StepStamp {
  uint64_t step = 0;  // EngineStats::steps before it
  int64_t begin_ns = 0, end_ns = 0;
  bool decode = false;  // of decode rows alone
  // More was queued behind the draws, which runs after end_ns: rows that leave the full zone, tokens for forked
  // samples, copies of observed logits.
  bool followed = false;
};

class Engine {
 public:
  // Errors: option out of range, spec (with its place), illegal pair of policies, memory.
  static Expected<std::unique_ptr<Engine>> create(std::shared_ptr<const LoadedModel> model,
                                                  const EngineOptions& options);
  ~Engine();

  // Queues a request. Refused at once when it could never run: invalid field, prompt beyond the context, KV beyond the
  // pool, memory. A refused request leaves no trace.
  Expected<RequestId> submit(Request request, EventSink sink);
  // Runs one step and delivers its events. False when nothing is queued or running.
  Expected<bool> step();
  // Steps until idle.
  Status run();
  // Ends every branch of the request before the next step; others are not touched. Unknown ids are ignored.
  void cancel(RequestId id);

  // Stats of a request that is alive or finished within the last 256; kNotFound otherwise.
  Expected<RequestStats> request_stats(RequestId id) const;
  EngineStats stats() const;
  // Of the steps whose results were delivered since the last call, oldest first, at most the last 8,192. Empty on the
  // CPU and without EngineOptions::step_stamps. Steps without a draw have none.
  std::vector<StepStamp> take_step_stamps();
  const std::string& attn_spec() const;  // canonical
  const std::string& kv_spec() const;
  int32_t threads() const;
  const LoadedModel& model() const;

 private:
  friend struct EngineTestPeer;
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pare
