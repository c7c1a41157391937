// `pare inspect mask`: what a channel mask keeps.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "pare/status.h"
#include "plan/channel_mask.h"

namespace pare::cli {

// `svg` unless empty: a figure to write there, the share of kept channels by RoPE frequency.
Status inspect_mask(const std::string& path, const std::string& svg, bool json);

// The same of a mask in memory.
nlohmann::ordered_json mask_json(const ChannelMask& mask);
void print_mask(const ChannelMask& mask);

}  // namespace pare::cli
