#include "runtime/policy_files.h"

#include <fmt/format.h>

#include "io/mask_file.h"
#include "io/ranking_file.h"

namespace pare {

Expected<ChannelMask> DiskPolicyFiles::channel_mask(const std::string& path) { return read_channel_mask(path); }
Expected<LayerRanking> DiskPolicyFiles::layer_ranking(const std::string& path) { return read_ranking_file(path); }

std::string device_class(CpuLevel level) { return fmt::format("cpu-{}", cpu_level_name(level)); }
std::string device_class(const ops::AcceleratorInfo& card) {
  return fmt::format("cuda-sm{}{}", card.major, card.minor);
}
std::string device_class(const LoadedModel& model, CpuLevel level) {
  return model.accelerator ? device_class(model.accelerator->info()) : device_class(level);
}

PolicyContext policy_context(const LoadedModel& model, std::string_view device, PolicyFiles* files) {
  const ModelConfig& c = model.model->config();
  PolicyContext context;
  context.n_layers = c.n_layers;
  context.n_heads = c.n_heads;
  context.n_kv_heads = c.n_kv_heads;
  context.head_dim = c.head_dim;
  context.model_hash = model.content_hash;
  context.device_class = device;
  context.files = files;
  return context;
}

}  // namespace pare
