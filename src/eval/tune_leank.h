// Channel masks without training: by calibrated magnitude, and random ones to compare with (LeanK §3 and Table 9; the
// budget rule is that of its second stage). Scores stand in for LeanK's learned weights alpha.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pare/engine.h"
#include "plan/channel_mask.h"
#include "runtime/loaded_model.h"
#include "text/tokenizer.h"

namespace pare {

// How much a key channel moves logits: the mean of |q_c k_c| over every query row, every key row and the query heads of
// the KV head's group. Since all pairs count, later keys among them, it is the product of two means, mean |q_c| and
// mean |k_c|, and no pair is ever formed. Channels count half-split, as pare rotates them.
struct ChannelScores {
  int32_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
  std::vector<double> values;     // [layer][KV head][channel], >= 0
  std::vector<uint8_t> windowed;  // [layer] 1: slides a window of its own, and is not pruned
  int64_t rows = 0;               // rows seen by each layer
};

// The first rows of a prompt are always kept whole, and their keys are unlike all others: they do not count.
inline constexpr int32_t kCalibrationSinkRows = 16;

// Runs the prompts through a dense engine on the CPU and looks on. The result depends neither on the number of threads
// nor on how prompts are cut into steps. `progress` in rows; false stops (kCancelled). Errors: what the engine refuses;
// kInvalidArgument when no prompt has more than kCalibrationSinkRows tokens.
Expected<ChannelScores> calibrate_channels(const std::shared_ptr<const LoadedModel>& model,
                                           std::span<const std::vector<TokenId>> prompts, int32_t threads,
                                           const std::function<bool(int64_t done, int64_t total)>& progress = {});

// Widths are multiples of this: 32 from head dimension 128 on, as in the paper, 16 below.
constexpr int32_t mask_width_unit(int32_t head_dim) { return head_dim >= 128 ? 32 : 16; }

// Kept channels of every head [layer][KV head]. The threshold is the (1 - keep) quantile of all scores of pruned
// layers, with linear interpolation; a head's count of scores at or above it is rounded to the nearest multiple of
// `unit` (halves up), at most head_dim. Rounding down gives heads that keep nothing. Windowed layers keep head_dim.
// kInvalidArgument: keep outside (0, 1], a score that is negative or not finite, no layer to prune.
Expected<std::vector<int32_t>> pooled_budgets(const ChannelScores& scores, double keep, int32_t unit);

enum class MaskChannels : uint8_t {
  kMagnitude,  // the head's largest scores; ties to the lowest channel
  kRandom,
};
enum class MaskBudgets : uint8_t {
  kPooled,
  kUniform,  // as many channels in all as kPooled, dealt evenly; heads with one unit more are drawn by the seed
};

struct TuneLeankOptions {
  double keep = 0.5;  // (0, 1]
  MaskChannels channels = MaskChannels::kMagnitude;
  MaskBudgets budgets = MaskBudgets::kPooled;
  uint64_t seed = 0;
};

// All alphas are 1; model_hash and provenance are the caller's to fill in. Errors as pooled_budgets.
Expected<ChannelMask> make_channel_mask(const ChannelScores& scores, const TuneLeankOptions& options);

// Text to calibrate with where the user has none, in English: prose and facts to look up (a name and a number a line),
// in the spirit of the retrieval prompts that LeanK trains on. The same seed gives the same text; at least `bytes`
// long.
std::string calibration_text(uint64_t seed, int64_t bytes);

}  // namespace pare
