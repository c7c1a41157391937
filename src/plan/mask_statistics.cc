#include "plan/mask_statistics.h"

#include <set>

namespace pare {

MaskStatistics mask_statistics(const ChannelMask& mask) {
  MaskStatistics s;
  const int32_t pairs = mask.head_dim / 2;
  std::vector<int64_t> by_frequency(pairs, 0);
  std::vector<uint8_t> members(pairs);
  for (int32_t l = 0; l < mask.n_layers; ++l) {
    std::set<size_t> widths;
    for (int32_t h = 0; h < mask.n_kv_heads; ++h) {
      const std::vector<Channel>& kept = mask.head(l, h);
      ++s.widths[static_cast<int32_t>(kept.size())];
      if (!kept.empty()) widths.insert(kept.size());
      s.kept += static_cast<int64_t>(kept.size());
      s.heads_empty += kept.empty();
      s.heads_full += static_cast<int32_t>(kept.size()) == mask.head_dim;
      members.assign(pairs, 0);
      for (const Channel& c : kept) {
        ++members[c.id % pairs];
        ++by_frequency[c.id % pairs];
        s.alphas_not_one += c.alpha != 1.0f;
      }
      for (const uint8_t n : members) {
        s.pairs_one += n == 1;
        s.pairs_both += n == 2;
      }
    }
    ++s.layers_by_widths[static_cast<int32_t>(widths.size())];
  }
  s.heads = int64_t{mask.n_layers} * mask.n_kv_heads;
  s.channels = s.heads * mask.head_dim;
  const double places = 2.0 * static_cast<double>(s.heads);  // two channels of a head have one frequency
  std::array<int64_t, 4> kept = {}, in_quartile = {};
  for (int32_t f = 0; f < pairs; ++f) {
    s.frequency_keep_rate.push_back(places > 0 ? static_cast<double>(by_frequency[f]) / places : 0);
    const int32_t quartile = f * 4 / pairs;
    kept[quartile] += by_frequency[f];
    ++in_quartile[quartile];
  }
  for (int q = 0; q < 4; ++q) {
    const double all = places * static_cast<double>(in_quartile[q]);
    s.quartile_keep_rate[q] = all > 0 ? static_cast<double>(kept[q]) / all : 0;
  }
  return s;
}

}  // namespace pare
