// One of the outputs that share a launch of small_linear.h or batch_linear.h, as the kernels get it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pare::cuda {

struct OutputRows {
  const std::byte* weight;  // packed, device_format.h
  void* y;                  // [T][ld_y], fp32 or bf16
  const float* bias;        // [n] or null
  int64_t ld_y;
  int32_t n;      // rows of the weight
  int32_t first;  // the launch's number of the output's first unit of work
  bool bf16, accumulate;
};

}  // namespace pare::cuda
