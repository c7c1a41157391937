#include "quant/recipe.h"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <charconv>

#include "io/quote_name.h"

namespace pare {
namespace {

constexpr std::array kRecipes = {
    Recipe{"F32", DType::F32, DType::F32, DType::F32, 0},
    Recipe{"F16", DType::F16, DType::F16, DType::F16, 1},
    Recipe{"BF16", DType::BF16, DType::BF16, DType::BF16, 32},
    Recipe{"Q4_0", DType::Q4_0, DType::Q4_0, DType::Q6_K, 2},
    Recipe{"Q4_1", DType::Q4_1, DType::Q4_1, DType::Q6_K, 3},
    Recipe{"Q5_0", DType::Q5_0, DType::Q5_0, DType::Q6_K, 8},
    Recipe{"Q5_1", DType::Q5_1, DType::Q5_1, DType::Q6_K, 9},
    Recipe{"Q8_0", DType::Q8_0, DType::Q8_0, DType::Q8_0, 7},
    Recipe{"Q6_K", DType::Q6_K, DType::Q6_K, DType::Q6_K, 18},
    Recipe{"Q4_K_S", DType::Q4_K, DType::Q4_K, DType::Q6_K, 14},
    Recipe{"Q4_K_M", DType::Q4_K, DType::Q6_K, DType::Q6_K, 15},
};

// The number in "blk.12.attn_v.weight", or -1.
int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  int64_t layer = -1;
  if (!name.starts_with(kPrefix)) return -1;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  return error == std::errc() && layer >= 0 ? layer : -1;
}

// The first and last eighth of the layers, and every third of those between: errors made early pass through
// everything, and late ones are not averaged out any more.
bool needs_more_bits(int64_t layer, int64_t n_layers) {
  const int64_t eighth = n_layers / 8;
  return layer < eighth || layer >= n_layers - eighth || (layer - eighth) % 3 == 2;
}

DType fit_rows(DType dtype, int64_t row) {
  if (row % dtype_info(dtype).block_items == 0) return dtype;
  const DType smaller = dtype == DType::Q4_K ? DType::Q5_0 : DType::Q8_0;
  return row % dtype_info(smaller).block_items == 0 ? smaller : DType::F16;
}

}  // namespace

std::span<const Recipe> recipes() { return kRecipes; }

Expected<Recipe> find_recipe(std::string_view name) {
  std::string upper(name), known;
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  for (const Recipe& recipe : kRecipes) {
    if (recipe.name == upper) return recipe;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", recipe.name);
  }
  return invalid_argument(fmt::format("unknown format {} (known: {})", quote_name(name), known));
}

DType recipe_dtype(const Recipe& recipe, std::string_view gguf_name, std::span<const int64_t> shape, int64_t n_layers,
                   bool tied) {
  const bool table = gguf_name == "position_embd.weight" || gguf_name == "token_types.weight";
  if (shape.size() < 2 || gguf_name.ends_with("_norm.weight") || table) return DType::F32;
  DType dtype = recipe.matrices;
  if (gguf_name == "output.weight" || (tied && gguf_name == "token_embd.weight")) {
    dtype = recipe.output;
  } else if (gguf_name.ends_with(".attn_v.weight") || gguf_name.ends_with(".ffn_down.weight")) {
    const int64_t layer = layer_of(gguf_name);
    if (layer >= 0 && needs_more_bits(layer, n_layers)) dtype = recipe.sensitive;
  }
  return fit_rows(dtype, shape.back());
}

}  // namespace pare
