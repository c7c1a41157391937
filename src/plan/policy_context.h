// PolicyContext: what a policy may know when it is made: the model's shape and identity, the device, and the files that
// spec strings name. The folders of policies read no files themselves; the runtime hands them a reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "pare/status.h"
#include "plan/channel_mask.h"
#include "plan/layer_ranking.h"

namespace pare {

// Reads and checks the policy files that specs name. Errors name the file and what is wrong in it.
class PolicyFiles {
 public:
  virtual ~PolicyFiles() = default;
  virtual Expected<ChannelMask> channel_mask(const std::string& path) = 0;
  virtual Expected<LayerRanking> layer_ranking(const std::string& path) = 0;
};

// A default context: no model, no files (specs are checked as far as they can be).
struct PolicyContext {
  int32_t n_layers = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;  // 0: no model
  uint64_t model_hash = 0;
  std::string_view device_class = "cpu";  // "cpu-avx2", "cpu-avx512", "cpu-amx", "cuda-sm90", ...
  PolicyFiles* files = nullptr;           // null: specs that name a file are refused
};

}  // namespace pare
