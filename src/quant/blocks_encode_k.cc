// Q4_K and Q6_K: a search for the scales, since their codes are not determined by the extreme values alone.
//
// Each group's scale (and minimum) is first fitted by weighted least squares over a fan of starting grids, then
// rounded to the block's 6- or 8-bit grid, and last the grid's neighbours are tried with the fp16 scales that
// the decoder will see. The weight of an element is rms + |x|: large weights matter more to a product.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/half.h"
#include "quant/block_layouts.h"
#include "quant/blocks_encode.h"

namespace pare {
namespace {

constexpr int kFan = 10;  // starting grids on each side of the plain one, a tenth of a code apart

void fill_weights(const float* in, float* weight) {
  double squares = 0.0;
  for (int i = 0; i < kSuperBlock; ++i) squares += double{in[i]} * in[i];
  const auto rms = static_cast<float>(std::sqrt(squares / kSuperBlock));
  for (int i = 0; i < kSuperBlock; ++i) weight[i] = rms + std::abs(in[i]);
}

float nearest(float value, float low, float high) { return std::clamp(std::nearbyint(value), low, high); }

// Weighted squared error of group `x` when decoded as scale * q - min with the nearest codes in [low, high].
float grid_error(const float* x, const float* weight, int n, float scale, float min, float low, float high) {
  const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
  float error = 0.0f;
  for (int i = 0; i < n; ++i) {
    const float miss = scale * nearest((x[i] + min) * inverse, low, high) - min - x[i];
    error += weight[i] * miss * miss;
  }
  return error;
}

struct Affine {
  float scale = 0.0f, min = 0.0f;  // x ~ scale * q - min, both >= 0
};

// Best scale and minimum for 32 elements with codes 0..15.
Affine fit_affine(const float* x, const float* weight) {
  constexpr int kItems = 32;
  const auto [low, high] = std::minmax_element(x, x + kItems);
  const float floor = std::min(*low, 0.0f), range = *high - floor;
  if (!(range > 0.0f)) return {0.0f, -floor};
  Affine best{range / 15.0f, -floor};
  float best_error = grid_error(x, weight, kItems, best.scale, best.min, 0.0f, 15.0f);
  for (int step = -kFan; step <= kFan; ++step) {
    const float inverse = (15.0f + 0.1f * static_cast<float>(step)) / range;
    // Weighted least squares for x = scale * q + offset, given the codes of this grid.
    float sw = 0, sq = 0, sqq = 0, sx = 0, sxq = 0;
    for (int i = 0; i < kItems; ++i) {
      const float w = weight[i], q = nearest((x[i] - floor) * inverse, 0.0f, 15.0f);
      sw += w;
      sq += w * q;
      sqq += w * q * q;
      sx += w * x[i];
      sxq += w * x[i] * q;
    }
    const float determinant = sw * sqq - sq * sq;
    if (!(determinant > 0.0f)) continue;
    Affine fit{(sw * sxq - sq * sx) / determinant, -(sqq * sx - sq * sxq) / determinant};
    // The format has no positive offset: without one, the scale is fitted alone.
    if (fit.min < 0.0f) fit = {sxq / sqq, 0.0f};
    if (!(fit.scale > 0.0f)) continue;
    const float error = grid_error(x, weight, kItems, fit.scale, fit.min, 0.0f, 15.0f);
    if (error < best_error) {
      best_error = error;
      best = fit;
    }
  }
  return best;
}

// Best signed scale for 16 elements with codes -32..31.
float fit_symmetric(const float* x, const float* weight) {
  constexpr int kItems = 16;
  float extreme = 0.0f;
  for (int i = 0; i < kItems; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  if (extreme == 0.0f) return 0.0f;
  float best = extreme / -32.0f;
  float best_error = grid_error(x, weight, kItems, best, 0.0f, -32.0f, 31.0f);
  for (int step = -kFan; step <= kFan; ++step) {
    const float inverse = -(32.0f + 0.1f * static_cast<float>(step)) / extreme;
    float sqq = 0, sxq = 0;
    for (int i = 0; i < kItems; ++i) {
      const float q = nearest(x[i] * inverse, -32.0f, 31.0f);
      sqq += weight[i] * q * q;
      sxq += weight[i] * x[i] * q;
    }
    if (!(sqq > 0.0f)) continue;
    const float error = grid_error(x, weight, kItems, sxq / sqq, 0.0f, -32.0f, 31.0f);
    if (error < best_error) {
      best_error = error;
      best = sxq / sqq;
    }
  }
  return best;
}

// A factor as the decoder will read it. Never rounds a non-zero factor to infinity: callers bound magnitudes.
float through_half(float value) { return half_to_float(float_to_half(value)); }

int to_grid(float value, float unit, int low, int high) {
  return unit == 0.0f ? 0 : static_cast<int>(nearest(value / unit, static_cast<float>(low), static_cast<float>(high)));
}

}  // namespace

void encode_q4_k(const float* in, std::byte* block) {
  constexpr int kGroups = 8, kItems = 32;
  float weight[kSuperBlock];
  fill_weights(in, weight);
  Affine fits[kGroups];
  float scale_max = 0.0f, min_max = 0.0f;
  for (int g = 0; g < kGroups; ++g) {
    fits[g] = fit_affine(in + g * kItems, weight + g * kItems);
    scale_max = std::max(scale_max, fits[g].scale);
    min_max = std::max(min_max, fits[g].min);
  }
  const float d = through_half(scale_max / 63.0f), dmin = through_half(min_max / 63.0f);
  ScalesAndMins packed{};
  uint8_t codes[kSuperBlock];
  for (int g = 0; g < kGroups; ++g) {
    const float *x = in + g * kItems, *w = weight + g * kItems;
    const int scale0 = to_grid(fits[g].scale, d, 0, 63), min0 = to_grid(fits[g].min, dmin, 0, 63);
    float best_error = std::numeric_limits<float>::infinity();
    for (int scale = std::max(0, scale0 - 1); scale <= std::min(63, scale0 + 1); ++scale) {
      for (int min = std::max(0, min0 - 1); min <= std::min(63, min0 + 1); ++min) {
        const float error =
            grid_error(x, w, kItems, d * static_cast<float>(scale), dmin * static_cast<float>(min), 0.0f, 15.0f);
        if (error < best_error) {
          best_error = error;
          packed.scale[g] = static_cast<uint8_t>(scale);
          packed.min[g] = static_cast<uint8_t>(min);
        }
      }
    }
    const float scale = d * packed.scale[g], min = dmin * packed.min[g];
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int i = 0; i < kItems; ++i) {
      codes[g * kItems + i] = static_cast<uint8_t>(nearest((x[i] + min) * inverse, 0.0f, 15.0f));
    }
  }
  store_half(block, d);
  store_half(block + 2, dmin);
  pack_scales(packed, block + 4);
  for (int pair = 0; pair < kGroups / 2; ++pair) {
    const uint8_t* q = codes + pair * 64;
    for (int i = 0; i < 32; ++i) block[16 + pair * 32 + i] = std::byte(q[i] | q[i + 32] << 4);
  }
}

void encode_q6_k(const float* in, std::byte* block) {
  constexpr int kGroups = 16, kItems = 16;
  float weight[kSuperBlock];
  fill_weights(in, weight);
  std::array<float, kGroups> fits;
  float extreme = 0.0f;
  for (int g = 0; g < kGroups; ++g) {
    fits[g] = fit_symmetric(in + g * kItems, weight + g * kItems);
    if (std::abs(fits[g]) > std::abs(extreme)) extreme = fits[g];
  }
  // The int8 grid reaches one step further down than up, so the largest scale takes -128.
  const float d = through_half(extreme / -128.0f);
  uint8_t codes[kSuperBlock];
  std::byte* const scales = block + 192;
  for (int g = 0; g < kGroups; ++g) {
    const float *x = in + g * kItems, *w = weight + g * kItems;
    const int scale0 = to_grid(fits[g], d, -128, 127);
    int best = scale0;
    float best_error = std::numeric_limits<float>::infinity();
    for (int scale = std::max(-128, scale0 - 1); scale <= std::min(127, scale0 + 1); ++scale) {
      const float error = grid_error(x, w, kItems, d * static_cast<float>(scale), 0.0f, -32.0f, 31.0f);
      if (error < best_error) {
        best_error = error;
        best = scale;
      }
    }
    scales[g] = std::byte(static_cast<uint8_t>(static_cast<int8_t>(best)));
    const float scale = d * static_cast<float>(best), inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int i = 0; i < kItems; ++i) {
      codes[g * kItems + i] = static_cast<uint8_t>(nearest(x[i] * inverse, -32.0f, 31.0f) + 32.0f);
    }
  }
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = codes + half * 128;
    for (int i = 0; i < 64; ++i) block[half * 64 + i] = std::byte((q[i] & 15) | (q[i + 64] & 15) << 4);
    for (int i = 0; i < 32; ++i) {
      block[128 + half * 32 + i] =
          std::byte(q[i] >> 4 | (q[i + 32] >> 4) << 2 | (q[i + 64] >> 4) << 4 | (q[i + 96] >> 4) << 6);
    }
  }
  store_half(block + 208, d);
}

}  // namespace pare
