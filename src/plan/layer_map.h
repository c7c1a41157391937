// Layers grouped into classes with equal row bookkeeping: one page list, one append target and one
// SegmentPlan each.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pare/status.h"
#include "plan/reach.h"

namespace pare {

// What a model says of one of its layers.
struct LayerInfo {
  int32_t window = kNoWindow;  // the layer's own sliding window: it attends i - j < window
  int32_t kv_layer = 0;        // whose stored rows it reads; layers may share
  bool writes_kv = true;       // exactly one layer writes each kv_layer
};

struct LayerClass {
  int32_t window = kNoWindow;
  std::vector<int32_t> layers, kv_layers;  // ascending
};

struct LayerMap {
  std::vector<LayerInfo> layers;
  std::vector<int32_t> class_of;    // [layers]
  std::vector<LayerClass> classes;  // ordered by first layer; at most kMaxClasses
  int32_t n_kv_layers = 0;
};

// Errors: no layers or more than kMaxLayers, window < 1, a kv_layer that no layer or several layers write,
// one that is shared between different windows, more than kMaxClasses windows.
Expected<LayerMap> make_layer_map(std::span<const LayerInfo> layers);

// `n` layers that attend everything and keep their own rows.
LayerMap uniform_layer_map(int32_t n);

}  // namespace pare
