// `pare inspect mask`: what a channel mask keeps.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "pare/status.h"
#include "plan/channel_mask.h"

namespace pare::cli {

Status inspect_mask(const std::string& path, bool json);

// The same of a mask in memory.
nlohmann::ordered_json mask_json(const ChannelMask& mask);
void print_mask(const ChannelMask& mask);

}  // namespace pare::cli
