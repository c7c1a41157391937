// One block of each format to fp32; quant/blocks.cc loops over them.
#pragma once

#include <cstddef>

#include "tensor/dtype.h"

namespace pare {

// Reads dtype_info(dtype).block_bytes at `block`, writes block_items values to `out`.
using BlockDecoder = void (*)(const std::byte* block, float* out);

// Null for plain formats.
BlockDecoder find_block_decoder(DType dtype);

}  // namespace pare
