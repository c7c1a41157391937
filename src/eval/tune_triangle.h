// Which layers of a model bear attn=triangle (TriangleMix, arXiv 2507.21526): a ranking by forward ablation. The paper
// ranks by the gradient of the answer's logit through the middle of the attention matrix; pare has no gradients at run
// time, and asks the same question by experiment: how far do the answer's distributions move when one layer drops its
// middle.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pare/status.h"
#include "plan/layer_ranking.h"
#include "runtime/loaded_model.h"

namespace pare {

struct TuneOptions {
  int32_t sink = 8, window = 512, last = 128;  // of the selector that is ablated
  int32_t tokens = 2048;                       // of a prompt, the answer apart
  int32_t samples = 4;                         // prompts; the texts' and retrieval prompts take turns
  int32_t answer = 4;                          // tokens of the answer whose distributions are compared
  double kl_max = 0.02;                        // nats: what all recommended layers together may cost
  int32_t count_max = 0;                       // of them; 0: half of the model's layers, as published
  uint64_t seed = 1;
  int32_t threads = 0;
};

// A prompt and the beginning of its answer (all but the last token: the rows before it predict it).
struct TuneSample {
  std::vector<TokenId> tokens;
  int32_t answer = 1;     // of the last rows, how many predict a token of the answer
  std::string_view kind;  // "text" or "retrieval"
};

// Windows of the texts and prompts of key-value lines with a question about one of them, both drawn by the seed.
// Errors: no sample, or prompts too short for the selector to leave anything out, or longer than the model's context.
Expected<std::vector<TuneSample>> triangle_samples(const LoadedModel& model, std::span<const std::string> texts,
                                                   const TuneOptions& options);

struct TriangleTuning {
  LayerRanking ranking;
  // As ranked; layers with a window of their own come last, they were not measured: triangle changes nothing there.
  std::vector<std::pair<int32_t, double>> layer_kl;  // layer, mean KL in nats of dense against that layer alone
  std::vector<std::pair<int32_t, double>> joint_kl;  // how many of the first layers, mean KL of all of them
};

// done and total in prompts read; return false to stop (kCancelled).
using TuneProgress = std::function<bool(int64_t done, int64_t total)>;

// Reads every sample once densely, once for each layer, and about log2(layers) times more to find how many may be taken
// together. Deterministic for the same model, samples and options.
Expected<TriangleTuning> tune_triangle(const std::shared_ptr<const LoadedModel>& model,
                                       std::span<const TuneSample> samples, const TuneOptions& options,
                                       const TuneProgress& progress);

}  // namespace pare
