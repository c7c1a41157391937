// ChannelMask: which key channels each KV head keeps for its mid-context rows, and with what weight (LeanK §3). Files
// hold it (io/mask_file.h), calibration makes it (eval/), the `leank` policy stores and reads rows by it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pare/status.h"
#include "plan/kv_layout.h"
#include "plan/length_gate.h"

namespace pare {

// Channel ids count as pare's RoPE does: half-split, c pairs with c + D/2.
struct ChannelMask {
  int32_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
  // [layer * n_kv_heads + head]: ids ascending, a multiple of 16 of them (0: the head keeps no mid row at all).
  std::vector<std::vector<Channel>> heads;
  LengthGates min_tokens;   // shorter sequences keep their rows whole
  uint64_t model_hash = 0;  // LoadedModel::content_hash of the weights it was made for; 0: not known
  std::string provenance;   // how it was made: method, data, seed; free text, printed by inspect

  const std::vector<Channel>& head(int32_t layer, int32_t kv_head) const {
    return heads[static_cast<size_t>(layer) * n_kv_heads + kv_head];
  }
};

// The model that a mask is to be used with. Zero hash: not known, any is accepted, as is a mask without one.
struct MaskModel {
  int32_t n_layers = 0, n_kv_heads = 0, head_dim = 0;
  uint64_t hash = 0;
};
// kInvalidArgument: which of layers, kv_heads, head_dim or model_hash is not the model's, with both values.
Status check_mask_model(const ChannelMask& mask, const MaskModel& model);

}  // namespace pare
