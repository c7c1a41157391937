#include "plan/channel_mask.h"

#include <fmt/format.h>

#include <string_view>

namespace pare {

Status check_mask_model(const ChannelMask& mask, const MaskModel& model) {
  const auto same = [](std::string_view field, int32_t of_mask, int32_t of_model) {
    if (of_mask == of_model) return ok_status();
    return invalid_argument(fmt::format("{}: the mask has {}, the model {}", field, of_mask, of_model));
  };
  PARE_RETURN_IF_ERROR(same("layers", mask.n_layers, model.n_layers));
  PARE_RETURN_IF_ERROR(same("kv_heads", mask.n_kv_heads, model.n_kv_heads));
  PARE_RETURN_IF_ERROR(same("head_dim", mask.head_dim, model.head_dim));
#ifndef PARE_FAULT_PLAN_MASK_MODEL_HASH
  if (mask.model_hash != 0 && model.hash != 0 && mask.model_hash != model.hash) {
    return invalid_argument(
        fmt::format("model_hash: the mask was made for {:016x}, the model is {:016x}", mask.model_hash, model.hash));
  }
#endif
  return ok_status();
}

}  // namespace pare
