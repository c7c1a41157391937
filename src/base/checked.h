// Overflow-checked arithmetic for sizes that come from outside (file headers, requests).
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>

namespace pare {

template <std::integral T>
[[nodiscard]] constexpr std::optional<T> checked_add(T a, T b) {
  T out;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}

template <std::integral T>
[[nodiscard]] constexpr std::optional<T> checked_mul(T a, T b) {
  T out;
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}

// Product of all factors, or nothing on overflow.
template <std::integral T>
[[nodiscard]] constexpr std::optional<T> checked_product(std::initializer_list<T> factors) {
  T out = 1;
  for (T f : factors) {
    if (__builtin_mul_overflow(out, f, &out)) return std::nullopt;
  }
  return out;
}

// value rounded up to a multiple of `unit` (unit > 0), or nothing on overflow.
template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_round_up(T value, T unit) {
  const T rest = value % unit;
  if (rest == 0) return value;
  return checked_add<T>(value, unit - rest);
}

// a / b rounded up, for trusted non-negative a and positive b.
template <std::integral T>
[[nodiscard]] constexpr T ceil_div(T a, T b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

// a rounded up to a multiple of b, for trusted values.
template <std::integral T>
[[nodiscard]] constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

}  // namespace pare
