#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/elementwise_constants.h"
#include "kernels/level_tables.h"

namespace pare::ref {
namespace {

using namespace elementwise;

constexpr int64_t kLanes = 16;

// Sums term(i) in 16 lanes, then folds halves.
template <typename Term>
float sum_lanes(int64_t n, Term term) {
  float lane[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lane[i % kLanes] = term(lane[i % kLanes], i);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

float power_of_two(int n) { return std::bit_cast<float>(static_cast<uint32_t>(n + 127) << 23); }

float exp(float x) {
  x = x > kExpMin ? x : kExpMin;  // NaN becomes the bound: callers multiply by their own x
  x = x < kExpMax ? x : kExpMax;
  const float n = std::nearbyint(x * kLog2E);
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
  float p = std::fma(kExp7, r, kExp6);
  p = std::fma(p, r, kExp5);
  p = std::fma(p, r, kExp4);
  p = std::fma(p, r, kExp3);
  p = std::fma(p, r, 0.5f);
  p = std::fma(p * r, r, r) + 1.0f;
  const int power = static_cast<int>(n), half = power >> 1;
  return p * power_of_two(half) * power_of_two(power - half);
}

float activation(Activation act, float x) {
  switch (act) {
    case Activation::kSilu: return x / (1.0f + exp(-x));
    case Activation::kGeluTanh: {
      const float inner = std::fma(kGeluCubic * x * x, x, x);
      return x / (1.0f + exp(-kGelu2Sqrt2OverPi * inner));
    }
    case Activation::kGeluErf: {
      const float z = std::fabs(x) * kSqrtHalf;
      const float t = 1.0f / std::fma(kErfP, z, 1.0f);
      float p = std::fma(kErf5, t, kErf4);
      p = std::fma(p, t, kErf3);
      p = std::fma(p, t, kErf2);
      p = std::fma(p, t, kErf1);
      const float half_erfc = 0.5f * (p * t * exp(-(z * z)));
      return x * (x > 0.0f ? 1.0f - half_erfc : half_erfc);
    }
  }
  return x;
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const float squares = sum_lanes(n, [x](float acc, int64_t i) { return std::fma(x[i], x[i], acc); });
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n, float* out) {
  const float mean = sum_lanes(n, [x](float acc, int64_t i) { return acc + x[i]; }) / static_cast<float>(n);
  const float squares = sum_lanes(n, [x, mean](float acc, int64_t i) {
    const float centred = x[i] - mean;
    return std::fma(centred, centred, acc);
  });
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = std::fma((x[i] - mean) * inverse, weight[i], bias[i]);
}

void rope(float* x, const float* cos, const float* sin, int64_t rot) {
  const int64_t half = rot / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = std::fma(a, cos[i], -(b * sin[i]));
    x[i + half] = std::fma(b, cos[i], a * sin[i]);
  }
}

void glu(Activation act, const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = activation(act, gate[i]) * up[i];
}

void activate(Activation act, float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = activation(act, x[i]);
}

void add(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void scale(float* x, float s, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= s;
}

float largest(const float* x, int64_t n) {
  float best = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

float log_sum_exp(const float* x, int64_t n) {
  const float max = largest(x, n);
  if (std::isinf(max)) return max;
  return max + std::log(sum_lanes(n, [x, max](float acc, int64_t i) { return acc + exp(x[i] - max); }));
}

int64_t argmax(const float* x, int64_t n) {
  const int64_t at = std::find(x, x + n, largest(x, n)) - x;
  return at < n ? at : 0;
}

}  // namespace

const ElementwiseKernels kElementwise = {rms_norm, layer_norm, rope, glu, activate, add, scale, log_sum_exp, argmax};

}  // namespace pare::ref
