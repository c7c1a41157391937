// Plain C++ oracle of the attention kernels, for every codec and order that stores rows as floating point
// (F32, F16, Bf16; Rows and Tiles). Slow: one key and channel at a time, std::fma throughout.
#pragma once

#include "kernels/attention.h"

namespace pare::ref {

const AttentionKernels& attention_kernels();

}  // namespace pare::ref
