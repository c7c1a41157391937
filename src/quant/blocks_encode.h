// One block of fp32 to each writable block format; quant/blocks.cc loops over them.
#pragma once

#include <cstddef>

#include "tensor/dtype.h"

namespace pare {

// Reads dtype_info(dtype).block_items finite values at `in`, writes block_bytes at `block`.
using BlockEncoder = void (*)(const float* in, std::byte* block);

// Null for plain formats and for those that are only read.
BlockEncoder find_block_encoder(DType dtype);

void encode_q4_k(const float* in, std::byte* block);
void encode_q6_k(const float* in, std::byte* block);

}  // namespace pare
