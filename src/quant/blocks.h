// Block codecs: rows of any readable format to fp32, and fp32 rows to the writable formats. Block layouts:
// docs/formats/blocks.md.
//
// Plain C++, for loading, converting and as the oracle of the kernels; matrix kernels have their own order of
// weights. Every function is safe from any thread.
#pragma once

#include <cstddef>
#include <span>

#include "pare/status.h"
#include "tensor/dtype.h"

namespace pare {

// Whether dequantize_row reads the format: all floating-point and block formats but F64.
bool can_dequantize(DType dtype);

// Decodes out.size() elements (any number of whole rows) from `bytes`, which may be unaligned. Bit-equal to
// the gguf Python package (fp32, products before sums, no contraction); NaN payloads excepted.
// kInvalidArgument when the sizes disagree or the format holds integers.
Status dequantize_row(DType dtype, std::span<const std::byte> bytes, std::span<float> out);

// Whether quantize_row writes the format: F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q6_K.
bool can_quantize(DType dtype);

// Encodes in.size() elements (whole blocks) into `out`. Halves round to nearest even. Q4_0 to Q8_0 are
// bit-equal to the gguf package. Q4_K and Q6_K search each block's scales for the least squared error weighted
// by magnitude. kInvalidArgument when the sizes disagree, the format is not writable, or (block formats) an
// element is not a number of magnitude up to 65,504.
Status quantize_row(DType dtype, std::span<const float> in, std::span<std::byte> out);

}  // namespace pare
