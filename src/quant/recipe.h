// Which format each tensor of a converted model gets.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "pare/status.h"
#include "tensor/dtype.h"

namespace pare {

struct Recipe {
  std::string_view name;
  DType matrices;      // most weight matrices
  DType sensitive;     // value and down projections of the layers that need more bits (see recipe_dtype)
  DType output;        // the output matrix, or the embedding that stands for it
  uint32_t file_type;  // GGUF's general.file_type
};

// F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q6_K Q4_K_S Q4_K_M.
std::span<const Recipe> recipes();

// Case-insensitive; kInvalidArgument lists the names.
Expected<Recipe> find_recipe(std::string_view name);

// Format of the tensor with this GGUF name. One-dimensional tensors, norms and the small tables of encoders
// stay F32. A row that is no multiple of 256 falls from Q4_K to Q5_0 and from Q6_K to Q8_0; one that is no
// multiple of 32 becomes F16. `tied`: the embedding is the output matrix too.
DType recipe_dtype(const Recipe& recipe, std::string_view gguf_name, std::span<const int64_t> shape, int64_t n_layers,
                   bool tied);

}  // namespace pare
