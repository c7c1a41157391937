// Rows that sequences have appended, and what attention over them must give: a softmax in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops_rig.h"

namespace pare::test {

inline constexpr int32_t kHeads = 4, kKvHeads = 2, kHeadDim = 16, kWindow = 40;
inline constexpr float kScale = 0.25f;

// Rows [row][heads * D].
struct HeadRows {
  std::vector<float> q, k, v;

  // Adds `n` random rows to these and to `other`.
  void extend(Philox& rng, int32_t n, HeadRows* other) {
    const auto add = [&](std::vector<float> HeadRows::*part, int32_t width) {
      const std::vector<float> rows = random_floats(rng, int64_t{n} * width);
      for (HeadRows* to : {this, other}) (to->*part).insert((to->*part).end(), rows.begin(), rows.end());
    };
    add(&HeadRows::q, kHeads * kHeadDim);
    add(&HeadRows::k, kKvHeads * kHeadDim);
    add(&HeadRows::v, kKvHeads * kHeadDim);
  }
};

// What row `row` gets from the rows before it, [H * D]. has_logit_zero(g, j): KV head g sees key j with logit 0.
template <typename HasLogitZero>
std::vector<double> oracle_row(const HeadRows& h, int32_t row, int32_t window, const HasLogitZero& has_logit_zero) {
  constexpr int32_t q_row = kHeads * kHeadDim, kv_row = kKvHeads * kHeadDim;
  std::vector<double> out(q_row, 0.0);
  for (int32_t head = 0; head < kHeads; ++head) {
    const int32_t g = head / (kHeads / kKvHeads);
    double sum = 0;
    for (int32_t j = std::max(0, row - window + 1); j <= row; ++j) {
      double logit = 0;
      for (int32_t c = 0; !has_logit_zero(g, j) && c < kHeadDim; ++c) {
        logit += double{h.q[row * q_row + head * kHeadDim + c]} * h.k[j * kv_row + g * kHeadDim + c];
      }
      const double p = std::exp(kScale * logit);
      sum += p;
      for (int32_t c = 0; c < kHeadDim; ++c) out[head * kHeadDim + c] += p * h.v[j * kv_row + g * kHeadDim + c];
    }
    for (int32_t c = 0; c < kHeadDim; ++c) out[head * kHeadDim + c] /= sum;
  }
  return out;
}

}  // namespace pare::test
