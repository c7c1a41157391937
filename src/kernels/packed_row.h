// One row's view of a packed block, for the oracle, unpacking and tests: plain C++, slow.
#pragma once

#include <cstdint>

#include "kernels/linear.h"

namespace pare {

// 32 weights of one row. Their values are, with h = i / 16:
//   kSym32: d * value[i]      kMin32: d * value[i] + m
//   kSym16: (d * scale[h]) * value[i]      kMin16: (d * scale[h]) * value[i] - m * min[h]
struct PackedBlock {
  int32_t value[kActBlock];
  float d = 0, m = 0;
  int32_t scale[2] = {}, min[2] = {};
};
PackedBlock read_packed_block(const PackedWeight& w, int64_t row, int64_t block);

// Element (row, i) of a packed F32, F16 or BF16 weight.
float read_packed_float(const PackedWeight& w, int64_t row, int64_t i);

}  // namespace pare
