// Speed of a model on this machine, with the floor beside every figure.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pare/engine.h"
#include "runtime/loaded_model.h"

namespace pare {

struct BenchConfig {
  int32_t prompt = 512;   // prefill tokens; 0: no prefill figure
  int32_t generate = 64;  // decode steps; 0: no decode figure
  int32_t depth = 0;      // tokens in the cache before the decode steps
  int32_t parallel = 1;   // sequences decoding together, each at `depth`
  int32_t threads = 0;
  std::string attn = "dense", kv = "dense";
};

// One repetition.
struct BenchSample {
  double prefill_tps = 0, decode_tps = 0;
};

struct BenchFloor {
  double decode_bytes_per_step = 0;   // weights used, KV, averaged over the steps
  double prefill_macs_per_token = 0;  // of the matrix products
};

// Holds one engine over repetitions, so that loading, packing and first-touch are outside every figure.
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
  Expected<double> decode();
  std::vector<int32_t> random_tokens(int32_t n, uint32_t stream) const;

  std::shared_ptr<const LoadedModel> model_;
  BenchConfig config_;
  std::unique_ptr<Engine> engine_;
};

// Bytes that a mean decode step must read: `weight_bytes`, and for each sequence the keys and values of the positions
// that it attends, its own among them, as the dense policy stores them.
double decode_floor_bytes(const ModelConfig& model, uint64_t weight_bytes, const BenchConfig& config);

double median(std::vector<double> values);

}  // namespace pare
