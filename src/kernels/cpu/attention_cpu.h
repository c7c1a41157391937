// Tables of the vector levels (attention.h). Entered only where the CPU has the level.
#pragma once

#include "kernels/attention.h"

namespace pare::avx2 {
const AttentionKernels& attention_kernels();
}
namespace pare::avx512 {
const AttentionKernels& attention_kernels();
}
