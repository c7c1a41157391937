// LayerRanking: which layers of a model bear a sparse selector, and from which prompt length it pays. Made by
// `pare tune`, held in files (io/ranking_file.h), named by selector specs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/length_gate.h"

namespace pare {

struct LayerRanking {
  std::vector<int32_t> layers;  // every layer once, the one that bears it best first
  int32_t recommended = 0;      // how many of them take the selector unless the spec says otherwise
  LengthGates min_tokens;       // prompts of fewer tokens run dense
  uint64_t model_hash = 0;      // LoadedModel::content_hash of the weights it was made for; 0: not known
  std::string provenance;       // method, data, seed; free text, printed by inspect
};

}  // namespace pare
