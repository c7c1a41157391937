// What a channel mask keeps, counted: for `pare inspect mask`, and to compare masks with published ones.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "plan/channel_mask.h"

namespace pare {

// A channel's RoPE frequency is its id modulo D / 2; index 0 turns fastest. All rates are shares in [0, 1].
struct MaskStatistics {
  std::map<int32_t, int32_t> widths;              // kept channels -> KV heads that keep so many
  std::map<int32_t, int32_t> layers_by_widths;    // distinct non-zero widths in a layer -> such layers
  std::array<double, 4> quartile_keep_rate = {};  // by frequency, fast to slow
  std::vector<double> frequency_keep_rate;        // [D / 2]
  int64_t channels = 0, kept = 0;                 // over all layers and heads
  int64_t pairs_both = 0, pairs_one = 0;          // RoPE pairs of which both members, or one, are kept
  int64_t heads = 0, heads_empty = 0, heads_full = 0;
  int64_t alphas_not_one = 0;

  double kept_fraction() const { return channels > 0 ? static_cast<double>(kept) / static_cast<double>(channels) : 0; }
  // If every pair of which one member is kept were kept whole.
  double kept_fraction_paired() const {
    return channels > 0 ? 2.0 * static_cast<double>(pairs_both + pairs_one) / static_cast<double>(channels) : 0;
  }
};

// `mask` as check_channel_mask accepts it. Cost: O(channels).
MaskStatistics mask_statistics(const ChannelMask& mask);

}  // namespace pare
