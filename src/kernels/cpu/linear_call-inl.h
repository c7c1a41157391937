// What the level files of the matrix product share: a call's arguments, and the way from a format known at run time to
// code compiled for it. Everything has internal linkage, so that no level's copy is linked into another.
#pragma once

#include <cstdint>

#include "kernels/linear.h"
#include "kernels/packed_format.h"

namespace pare {
namespace {

struct Call {
  const PackedWeight& w;
  const ActRows& x;
  const LinearEpilogue& epilogue;
  float* y;  // row t0 of output column column0
  int64_t ld_y;
  int64_t t0, column0;

  float* out(int64_t t, int64_t column) const { return y + (t - t0) * ld_y + (column - column0); }
};

// Asks for the weights 4 KiB ahead, some 13 blocks. With several rows a block takes so long that the memory's own
// prefetchers fall behind (Zen 4: +45 % at 8 rows); with one row they do on Sapphire Rapids, where a core's share of
// the memory is far away (+45 % at two threads), while Zen 4 loses 5 %.
template <const PackedFormat& F>
inline void prefetch_weights(const uint8_t* quants) {
  constexpr int kAhead = 4096;
#pragma GCC unroll 16
  for (int i = 0; i < F.quant_bytes; i += 64) __builtin_prefetch(quants + kAhead + i);
}

// run.operator()<F>() for the block format of `dtype`; false for one that multiplies in fp32.
template <typename Run>
inline bool with_block_format(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::Q4_0: run.template operator()<kPackedQ4_0>(); return true;
    case DType::Q4_1: run.template operator()<kPackedQ4_1>(); return true;
    case DType::Q5_0: run.template operator()<kPackedQ5_0>(); return true;
    case DType::Q5_1: run.template operator()<kPackedQ5_1>(); return true;
    case DType::Q8_0: run.template operator()<kPackedQ8_0>(); return true;
    case DType::Q2_K: run.template operator()<kPackedQ2_K>(); return true;
    case DType::Q3_K: run.template operator()<kPackedQ3_K>(); return true;
    case DType::Q4_K: run.template operator()<kPackedQ4_K>(); return true;
    case DType::Q5_K: run.template operator()<kPackedQ5_K>(); return true;
    case DType::Q6_K: run.template operator()<kPackedQ6_K>(); return true;
    case DType::IQ4_NL: run.template operator()<kPackedIQ4_NL>(); return true;
    case DType::IQ4_XS: run.template operator()<kPackedIQ4_XS>(); return true;
    default: return false;
  }
}

}  // namespace
}  // namespace pare
