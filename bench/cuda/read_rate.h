// The rate at which this card reads memory and does nothing else: the ceiling of kernels that only read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/cuda/stream.h"

namespace pare::cuda::bench {

// Reads `bytes` (a multiple of 64 KiB) with every multiprocessor and adds them up into sink[0] in a way that nothing
// can be left out.
void read_all(const std::byte* data, size_t bytes, uint32_t* sink, Stream stream);

}  // namespace pare::cuda::bench
