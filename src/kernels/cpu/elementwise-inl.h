// Element-wise kernels in Highway, compiled once for each level's file: 16 virtual lanes, whatever the vector
// width. Everything has internal linkage; Highway's own functions are static.
#pragma once

#include <math.h>

#define HWY_COMPILE_ONLY_STATIC
#define HWY_DISABLE_PCLMUL_AES  // not among the levels' flags, and unused
#include <hwy/highway.h>

#include "kernels/elementwise_constants.h"
#include "kernels/level_tables.h"

namespace pare {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using namespace elementwise;

using D = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;

constexpr D kTag;
constexpr int64_t kWidth = static_cast<int64_t>(hn::MaxLanes(kTag));
constexpr int64_t kLanes = 16, kParts = kLanes / kWidth;
constexpr float kInfinity = __builtin_inff();

inline V set(float x) { return hn::Set(kTag, x); }

// The first `count` lanes from p, the others zero.
inline V load(const float* p, int64_t count) {
  return count == kWidth ? hn::LoadU(kTag, p) : hn::MaskedLoad(hn::FirstN(kTag, static_cast<size_t>(count)), kTag, p);
}
inline void store(V v, float* p, int64_t count) {
  if (count == kWidth) {
    hn::StoreU(v, kTag, p);
  } else {
    hn::BlendedStore(v, hn::FirstN(kTag, static_cast<size_t>(count)), kTag, p);
  }
}

// step(i, count) over [0, n), count lanes from i.
template <typename Step>
inline void for_vectors(int64_t n, Step step) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) step(i, kWidth);
  if (i < n) step(i, n - i);
}

// acc = term(acc, i, count) into 16 lanes, then folds halves. A term must leave lanes at and beyond count
// unchanged.
template <typename Term>
inline float sum_lanes(int64_t n, Term term) {
  V acc[kParts];
  for (int64_t p = 0; p < kParts; ++p) acc[p] = hn::Zero(kTag);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t p = 0; p < kParts; ++p) acc[p] = term(acc[p], i + p * kWidth, kWidth);
  }
#ifndef PARE_FAULT_ELEMENTWISE_TAIL
  for (int64_t p = 0; i < n; ++p, i += kWidth) acc[p] = term(acc[p], i, n - i < kWidth ? n - i : kWidth);
#endif
  alignas(64) float lane[kLanes];
  for (int64_t p = 0; p < kParts; ++p) hn::Store(acc[p], kTag, lane + p * kWidth);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) lane[j] += lane[j + half];
  }
  return lane[0];
}

inline V power_of_two(hn::Vec<DI> n) { return hn::BitCast(kTag, hn::ShiftLeft<23>(hn::Add(n, hn::Set(DI(), 127)))); }

inline V exp(V x) {
  x = hn::IfThenElse(hn::Gt(x, set(kExpMin)), x, set(kExpMin));
  x = hn::IfThenElse(hn::Lt(x, set(kExpMax)), x, set(kExpMax));
  const V n = hn::Round(hn::Mul(x, set(kLog2E)));
  const V r = hn::MulAdd(n, set(-kLn2Low), hn::MulAdd(n, set(-kLn2High), x));
  V p = hn::MulAdd(set(kExp7), r, set(kExp6));
  p = hn::MulAdd(p, r, set(kExp5));
  p = hn::MulAdd(p, r, set(kExp4));
  p = hn::MulAdd(p, r, set(kExp3));
  p = hn::MulAdd(p, r, set(0.5f));
  p = hn::Add(hn::MulAdd(hn::Mul(p, r), r, r), set(1.0f));
  const auto power = hn::ConvertTo(DI(), n), half = hn::ShiftRight<1>(power);
  return hn::Mul(hn::Mul(p, power_of_two(half)), power_of_two(hn::Sub(power, half)));
}

// x / (1 + exp(-z))
inline V times_sigmoid(V x, V minus_z) { return hn::Div(x, hn::Add(set(1.0f), exp(minus_z))); }

template <Activation kAct>
inline V activation(V x) {
  if constexpr (kAct == Activation::kSilu) return times_sigmoid(x, hn::Neg(x));
  if constexpr (kAct == Activation::kGeluTanh) {
    const V inner = hn::MulAdd(hn::Mul(hn::Mul(set(kGeluCubic), x), x), x, x);
    return times_sigmoid(x, hn::Mul(set(-kGelu2Sqrt2OverPi), inner));
  }
  const V z = hn::Mul(hn::Abs(x), set(kSqrtHalf));
  const V t = hn::Div(set(1.0f), hn::MulAdd(set(kErfP), z, set(1.0f)));
  V p = hn::MulAdd(set(kErf5), t, set(kErf4));
  p = hn::MulAdd(p, t, set(kErf3));
  p = hn::MulAdd(p, t, set(kErf2));
  p = hn::MulAdd(p, t, set(kErf1));
  const V half_erfc = hn::Mul(set(0.5f), hn::Mul(hn::Mul(p, t), exp(hn::Neg(hn::Mul(z, z)))));
  return hn::Mul(x, hn::IfThenElse(hn::Gt(x, hn::Zero(kTag)), hn::Sub(set(1.0f), half_erfc), half_erfc));
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const float squares = sum_lanes(n, [x](V acc, int64_t i, int64_t count) {
    const V v = load(x + i, count);
    return hn::MulAdd(v, v, acc);
  });
  const V inverse = set(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  for_vectors(n, [=](int64_t i, int64_t count) {
    store(hn::Mul(hn::Mul(load(x + i, count), inverse), load(weight + i, count)), out + i, count);
  });
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n, float* out) {
  const float sum = sum_lanes(n, [x](V acc, int64_t i, int64_t count) { return hn::Add(acc, load(x + i, count)); });
  const V mean = set(sum / static_cast<float>(n));
  const float squares = sum_lanes(n, [x, mean](V acc, int64_t i, int64_t count) {
    V centred = hn::Sub(load(x + i, count), mean);
    if (count < kWidth) centred = hn::IfThenElseZero(hn::FirstN(kTag, static_cast<size_t>(count)), centred);
    return hn::MulAdd(centred, centred, acc);
  });
  const V inverse = set(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  for_vectors(n, [=](int64_t i, int64_t count) {
    const V unit = hn::Mul(hn::Sub(load(x + i, count), mean), inverse);
    store(hn::MulAdd(unit, load(weight + i, count), load(bias + i, count)), out + i, count);
  });
}

void rope(float* x, const float* cos, const float* sin, int64_t rot) {
  const int64_t half = rot / 2;
  for_vectors(half, [=](int64_t i, int64_t count) {
    const V a = load(x + i, count), b = load(x + i + half, count);
    const V c = load(cos + i, count), s = load(sin + i, count);
    store(hn::MulAdd(a, c, hn::Neg(hn::Mul(b, s))), x + i, count);
    store(hn::MulAdd(b, c, hn::Mul(a, s)), x + i + half, count);
  });
}

// body.template operator()<act>() for the run-time act.
template <typename Body>
inline void with_activation(Activation act, Body body) {
  switch (act) {
    case Activation::kSilu: return body.template operator()<Activation::kSilu>();
    case Activation::kGeluTanh: return body.template operator()<Activation::kGeluTanh>();
    case Activation::kGeluErf: return body.template operator()<Activation::kGeluErf>();
  }
}

void glu(Activation act, const float* gate, const float* up, int64_t n, float* out) {
  with_activation(act, [=]<Activation kAct>() {
    for_vectors(n, [=](int64_t i, int64_t count) {
      store(hn::Mul(activation<kAct>(load(gate + i, count)), load(up + i, count)), out + i, count);
    });
  });
}

void activate(Activation act, float* x, int64_t n) {
  with_activation(act, [=]<Activation kAct>() {
    for_vectors(n, [=](int64_t i, int64_t count) { store(activation<kAct>(load(x + i, count)), x + i, count); });
  });
}

void add(const float* x, int64_t n, float* y) {
  for_vectors(n,
              [=](int64_t i, int64_t count) { store(hn::Add(load(y + i, count), load(x + i, count)), y + i, count); });
}

void scale(float* x, float s, int64_t n) {
  for_vectors(n, [=](int64_t i, int64_t count) { store(hn::Mul(load(x + i, count), set(s)), x + i, count); });
}

// Largest number among x; -infinity when there is none.
inline float largest(const float* x, int64_t n) {
  V best = set(-kInfinity);
  for_vectors(n, [&](int64_t i, int64_t count) {
    V v = load(x + i, count);
    if (count < kWidth) v = hn::IfThenElse(hn::FirstN(kTag, static_cast<size_t>(count)), v, best);
    best = hn::IfThenElse(hn::Gt(v, best), v, best);
  });
  alignas(64) float lane[kWidth];
  hn::Store(best, kTag, lane);
  for (int64_t i = 1; i < kWidth; ++i) lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
  return lane[0];
}

float log_sum_exp(const float* x, int64_t n) {
  const float max = largest(x, n);
  if (__builtin_isinf(max)) return max;
  const V shift = set(max);
  const float sum = sum_lanes(n, [=](V acc, int64_t i, int64_t count) {
    V e = exp(hn::Sub(load(x + i, count), shift));
    if (count < kWidth) e = hn::IfThenElseZero(hn::FirstN(kTag, static_cast<size_t>(count)), e);
    return hn::Add(acc, e);
  });
  return max + ::logf(sum);
}

int64_t argmax(const float* x, int64_t n) {
  const float max = largest(x, n);
  const V wanted = set(max);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const intptr_t at = hn::FindFirstTrue(kTag, hn::Eq(hn::LoadU(kTag, x + i), wanted));
    if (at >= 0) return i + at;
  }
  for (; i < n; ++i) {
    if (x[i] == max) return i;
  }
  return 0;
}

constexpr ElementwiseKernels kKernels = {rms_norm, layer_norm, rope, glu, activate, add, scale, log_sum_exp, argmax};

}  // namespace
}  // namespace pare
