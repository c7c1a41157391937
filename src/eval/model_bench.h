// Speed of a model on this machine, with the floor beside every figure.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pare/engine.h"
#include "runtime/loaded_model.h"
#include "runtime/step_clock.h"

namespace pare {

struct BenchConfig {
  int32_t prompt = 512;   // prefill tokens; 0: no prefill figure
  int32_t generate = 64;  // decode steps; 0: no decode figure
  int32_t depth = 0;      // tokens in the cache before the decode steps
  int32_t parallel = 1;   // sequences decoding together, each at `depth`
  int32_t threads = 0;
  std::string attn = "dense", kv = "dense";
  bool strict = false;      // EngineOptions::strict
  bool step_stamps = true;  // EngineOptions::step_stamps
};

// One repetition.
struct BenchSample {
  double prefill_tps = 0, decode_tps = 0;
  // By the card's clock, of the decode steps whose tokens count and the gaps between them, of the last 8,192; empty on
  // the CPU.
  StepTimes steps;
};

struct BenchFloor {
  double decode_bytes_per_step = 0;   // weights used, KV, averaged over the steps
  double prefill_macs_per_token = 0;  // of the matrix products
  double prefill_attention_flop = 0;  // of the whole prompt; 0 where a selector decides what is attended
};

// Holds one engine over repetitions, so that loading, packing and first-touch are outside every figure. Steps may run
// behind the calls that begin them (one in flight on an accelerator): all times are from when work is handed over to
// when its tokens are delivered.
class ModelBench {
 public:
  static Expected<std::unique_ptr<ModelBench>> create(std::shared_ptr<const LoadedModel> model,
                                                      const BenchConfig& config);
  // Prefill and decode are separate runs over fresh sequences with random tokens (fixed seed).
  Expected<BenchSample> run();
  BenchFloor floor() const;
  const Engine& engine() const { return *engine_; }

 private:
  ModelBench() = default;
  Expected<double> prefill();
  Expected<double> decode(StepTimes* steps);
  std::vector<int32_t> random_tokens(int32_t n, uint32_t stream) const;
  // The tokens that a sequence may decode before the last one has read its prompt.
  static int32_t lead(const LoadedModel& model, const BenchConfig& config);

  std::shared_ptr<const LoadedModel> model_;
  BenchConfig config_;
  std::unique_ptr<Engine> engine_;
  double resident_kv_bytes_ = 0;  // mean over the decode steps of the last run
};

// Bytes that a mean decode step must read: `weight_bytes`, and for each sequence the keys and values of the positions
// that it attends, its own among them, as the dense policy stores them.
double decode_floor_bytes(const ModelConfig& model, uint64_t weight_bytes, const BenchConfig& config);

// Floating-point operations of the attention of one prompt of `tokens`: two products of head_dim with every key that a
// row attends, its own among them.
double causal_attention_flop(const ModelConfig& model, int32_t tokens);

double median(std::vector<double> values);

}  // namespace pare
