// Reach: the keys that a row can see, in the only shape that lets pages die: the first `sink` positions and
// the last `window` ones. Selectors state the reach of prefill rows, KV policies that of decode rows; the
// store keeps what either still needs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/limits.h"

namespace pare {

inline constexpr int32_t kNoWindow = INT32_MAX;

struct Reach {
  int32_t sink = 0, window = kNoWindow;  // row i sees j <= i iff j < sink or i - j < window
  bool operator==(const Reach&) const = default;
  bool unlimited() const { return window == kNoWindow; }
  bool sees(int32_t i, int32_t j) const { return j <= i && (j < sink || i - j < window); }
};

// A reach from parameters: a window that no context can exceed is no window.
inline Reach reach_of(int64_t sink, int64_t window) {
  if (window >= kMaxContext) return {};
  return {static_cast<int32_t>(sink), static_cast<int32_t>(window)};
}

// What either sees, rounded up to one reach.
inline Reach join(Reach a, Reach b) { return {std::max(a.sink, b.sink), std::max(a.window, b.window)}; }

// A method's reach on a layer whose model attends only the last `layer_window` keys (kNoWindow: all). The
// shorter window holds, and such a layer has no sinks: beyond its own window the model never saw any, and a
// predicate "sink, but only within the layer's window" would make sinks vanish mid-sequence
// (docs/decisions/0003).
inline Reach within_layer_window(Reach method, int32_t layer_window) {
  if (layer_window == kNoWindow) return method;
  return {0, std::min(method.window, layer_window)};
}

}  // namespace pare
