// Plain C++ oracle of the attention kernels, for every codec and order. Slow: one key and channel at a time, std::fma
// throughout.
#pragma once

#include "kernels/attention.h"

namespace pare::ref {

const AttentionKernels& attention_kernels();
void move_rows(const MoveRowsArgs& args, int32_t move, int32_t g);

}  // namespace pare::ref
