// What a selector keeps of one head's attention on one prompt, and how much softmax mass that holds: the picture behind
// a sparse pattern. Measured in the engine's own steps, on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pare/status.h"
#include "runtime/loaded_model.h"

namespace pare {

struct AttentionMapOptions {
  std::string attn = "dense";
  int32_t layer = 0, head = 0;  // query head
  int32_t cells = 48;           // the picture's side at most; a cell is a square of tokens, a multiple of 16
  int32_t threads = 0;
};

struct AttentionMap {
  std::string attn;  // canonical
  int32_t layer = 0, head = 0, tokens = 0;
  int32_t cells = 0, cell_tokens = 0;
  // [query cell * cells + key cell]: the share of the cell's causal pairs that are attended; the softmax mass of the
  // cell, a mean over its rows, as the whole row would have it (all rows of `mass` sum to 1). Above the diagonal 0.
  std::vector<float> kept, mass;
  // Softmax mass of the attended keys, by query cell, then over rows: the mean, the least, the mean of the last 128.
  std::vector<float> captured;
  double captured_mean = 0, captured_min = 1, captured_last = 0;
  int64_t pairs_kept = 0, pairs_causal = 0;
};

// Cost O(T^2 D) for the one head. The rows before are those of the same engine: with a selector in earlier layers, keys
// and queries are what it made of them. Errors: a layer or head that the model has not, no tokens, what Engine::create
// finds.
Expected<AttentionMap> attention_map(const std::shared_ptr<const LoadedModel>& model, std::vector<TokenId> tokens,
                                     const AttentionMapOptions& options);

// A character a cell: '.' where nothing is attended, else the mass: 9 for half of a row's and more, one less each
// factor of two below. After each line the mass that its rows capture.
std::string attention_map_text(const AttentionMap& map);
// The same, shaded; cells left out are red. A whole SVG document.
std::string attention_map_svg(const AttentionMap& map);

}  // namespace pare
