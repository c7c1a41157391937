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
  // Long tiles spread the widening of a block over more rows; short ones give many cores tasks of even size. A group of
  // heads alone (R = 1) needs the former. Measured with 16, 32, 64 and 128 (docs/kernels_attention.md).
  return group == 1 && head_dim <= 128 ? 64 : 32;
}

}  // namespace pare
