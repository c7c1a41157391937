// The card's own clock, the same for all multiprocessors. Nanoseconds since some moment; how often it moves is the
// card's affair: card_rates.h measures it. For *.cu files.
#pragma once

#include <cstdint>

namespace pare::cuda {

// Neither moved nor merged with another reading, and after the memory operations that stand before it in the source.
__device__ __forceinline__ uint64_t card_clock() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
  return now;
}

}  // namespace pare::cuda
