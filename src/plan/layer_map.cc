#include "plan/layer_map.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"
#include "plan/kv_layout.h"

namespace pare {

Expected<LayerMap> make_layer_map(std::span<const LayerInfo> layers) {
  if (layers.empty() || static_cast<int64_t>(layers.size()) > kMaxLayers) {
    return invalid_argument(fmt::format("model with {} layers, limit 1 to {}", layers.size(), kMaxLayers));
  }
  LayerMap map;
  map.layers.assign(layers.begin(), layers.end());
  const int32_t n = static_cast<int32_t>(layers.size());
  for (int32_t l = 0; l < n; ++l) {
    const LayerInfo& info = layers[l];
    if (info.window < 1) return invalid_argument(fmt::format("layer {}: attention window {} < 1", l, info.window));
    if (info.kv_layer < 0 || info.kv_layer >= n) {
      return invalid_argument(fmt::format("layer {}: KV layer {} outside [0, {})", l, info.kv_layer, n));
    }
    map.n_kv_layers = std::max(map.n_kv_layers, info.kv_layer + 1);
    auto cls = std::find_if(map.classes.begin(), map.classes.end(),
                            [&](const LayerClass& c) { return c.window == info.window; });
    if (cls == map.classes.end()) {
      if (map.classes.size() == kMaxClasses) {
        return unsupported(fmt::format("layer {}: more than {} different attention windows", l, kMaxClasses));
      }
      map.classes.push_back({info.window, {}, {}});
      cls = map.classes.end() - 1;
    }
    map.class_of.push_back(static_cast<int32_t>(cls - map.classes.begin()));
    cls->layers.push_back(l);
    if (info.writes_kv) cls->kv_layers.push_back(info.kv_layer);
  }
  std::vector<int32_t> writer(map.n_kv_layers, -1);
  for (int32_t l = 0; l < n; ++l) {
    if (!layers[l].writes_kv) continue;
    int32_t& w = writer[layers[l].kv_layer];
    if (w >= 0) {
      return invalid_argument(fmt::format("layers {} and {} both write KV layer {}", w, l, layers[l].kv_layer));
    }
    w = l;
  }
  for (int32_t l = 0; l < n; ++l) {
    const int32_t w = writer[layers[l].kv_layer];
    if (w < 0) return invalid_argument(fmt::format("layer {}: no layer writes KV layer {}", l, layers[l].kv_layer));
    if (map.class_of[w] != map.class_of[l]) {
      return unsupported(fmt::format("layer {} reads the rows of layer {}, which has another attention window", l, w));
    }
  }
  if (std::find(writer.begin(), writer.end(), -1) != writer.end()) {
    return invalid_argument("KV layers are not numbered without holes");
  }
  for (LayerClass& cls : map.classes) std::sort(cls.kv_layers.begin(), cls.kv_layers.end());
  return map;
}

LayerMap uniform_layer_map(int32_t n) {
  std::vector<LayerInfo> layers(n);
  for (int32_t l = 0; l < n; ++l) layers[l].kv_layer = l;
  return make_layer_map(layers).value_or(LayerMap{});
}

}  // namespace pare
