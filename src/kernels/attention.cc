#include "kernels/attention.h"

#include <algorithm>

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
  // Long tiles spread the conversion of a K and V block over more rows; the rows' queries and sums must stay in L2.
  const int32_t rows = group * head_dim <= 512 ? 64 : 32;
  return std::max(16, rows);
}

}  // namespace pare
