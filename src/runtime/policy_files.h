// What policies may know of a model and a device, and the files that their specs name, read from disk.
#pragma once

#include <string>

#include "kernels/cpu_level.h"
#include "plan/policy_context.h"
#include "runtime/loaded_model.h"

namespace pare {

// Paths are relative to the working directory. Errors name the file.
class DiskPolicyFiles final : public PolicyFiles {
 public:
  Expected<ChannelMask> channel_mask(const std::string& path) override;
  Expected<LayerRanking> layer_ranking(const std::string& path) override;
};

// "cpu-avx2", "cpu-avx512", "cpu-amx" or "cpu-scalar"; of a card "cuda-sm90" and the like.
std::string device_class(CpuLevel level);
std::string device_class(const ops::AcceleratorInfo& card);
std::string device_class(const LoadedModel& model, CpuLevel level);

// Views `device`; `files` is kept.
PolicyContext policy_context(const LoadedModel& model, std::string_view device, PolicyFiles* files);

}  // namespace pare
