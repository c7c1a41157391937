#include "kernels/attention.h"

#include "kernels/cpu/attention_cpu.h"
#include "kernels/ref/attention_ref.h"

namespace pare {

const AttentionKernels& attention_kernels(CpuLevel level) {
#if defined(__x86_64__)
  if (level >= CpuLevel::kAvx512) return avx512::attention_kernels();
  if (level == CpuLevel::kAvx2) return avx2::attention_kernels();
#endif
  (void)level;
  return ref::attention_kernels();
}

int32_t preferred_tile_rows(CpuLevel, int32_t group, int32_t head_dim) {
  // Long tiles spread the widening of a block over more rows, until the rows' queries and sums leave L2.
  // Measured with 16, 32, 64 and 128 on Zen 4 and Sapphire Rapids, R 1 to 6, D 64 to 256
  // (docs/kernels_attention.md).
  return group * head_dim <= 768 ? 64 : 32;
}

}  // namespace pare
