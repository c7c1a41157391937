// Estimated rows of zone sum (MoveRowsArgs, attention.h): which rows of a page they stand for and how much they weigh.
// Shared by all backends, so that they store the same bits.
#pragma once

#include <cstdint>

#include "plan/kv_layout.h"

namespace pare {

static_assert(kSumRows == 4);

// ln n in fp32, n in [1, kSumRows]: the log weight of a row that stands for n rows.
constexpr float log_rows(int32_t n) {
  switch (n) {
    case 2: return 0x1.62e430p-1f;
    case 3: return 0x1.193ea8p+0f;
#ifndef PARE_FAULT_KV_MEAN_WEIGHT
    case 4: return 0x1.62e430p+0f;
#endif
    default: return 0.0f;
  }
}

// Rows [begin, end) of a page that estimated row `group` of the page stands for when rows [row0, row0 + rows) move.
struct SumGroup {
  int32_t begin, end;
};
constexpr SumGroup sum_group(int32_t group, int32_t row0, int32_t rows) {
  const int32_t first = group * kSumRows, last = first + kSumRows, end = row0 + rows;
  return {first > row0 ? first : row0, last < end ? last : end};
}

}  // namespace pare
