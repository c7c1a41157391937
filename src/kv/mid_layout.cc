#include "kv/mid_layout.h"

#include <fmt/format.h>

#include "base/checked.h"

namespace pare {
namespace {

// Planes of one head in a page, one after the other. Each is a multiple of 64 bytes, whatever width and codec.
struct HeadBytes {
  int64_t k = 0, ks = 0, v = 0, vs = 0, lw = 0;
  int64_t all() const { return k + ks + v + vs + lw; }
};

constexpr int64_t kScaleBytes = 2 * sizeof(uint16_t);  // scale and zero

int64_t value_group(const MidZone& zone, const PlainRows& rows) {
  return rows.head_dim % zone.v_group == 0 ? zone.v_group : 16;
}

int64_t k_width(const MidZone& zone, const PlainRows& rows, int32_t layer, int32_t head) {
  return zone.mask ? static_cast<int64_t>(zone.mask->head(layer, head).size()) : rows.head_dim;
}

HeadBytes head_bytes(const MidZone& zone, const PlainRows& rows, int64_t width) {
  HeadBytes bytes;
  if (width == 0) {
    if (!zone.keep_means) return bytes;
    bytes.v = int64_t{kSumPageRows} * rows.head_dim * codec_bits(rows.codec) / 8;
    bytes.lw = kSumPageRows * sizeof(float);
    return bytes;
  }
  const Codec k = zone.k_codec(rows.codec), v = zone.v_codec(rows.codec);
  bytes.k = kPageRows * width * codec_bits(k) / 8;
  bytes.v = int64_t{kPageRows} * rows.head_dim * codec_bits(v) / 8;
  if (is_quantized(k)) bytes.ks = kPageRows / zone.k_group * width * kScaleBytes;
  if (is_quantized(v)) bytes.vs = kPageRows * (rows.head_dim / value_group(zone, rows)) * kScaleBytes;
  return bytes;
}

// The list of a head that keeps every channel as it is needs no table.
bool keeps_all(const std::vector<Channel>& kept, int32_t head_dim) {
  if (static_cast<int32_t>(kept.size()) != head_dim) return false;
  for (const Channel& c : kept) {
    if (c.alpha != 1.0f) return false;
  }
  return true;
}

}  // namespace

Expected<MidLayout> plan_mid_layout(const MidZone& zone, const PlainRows& rows, std::span<const int32_t> kv_layers,
                                    int64_t pages) {
  MidLayout layout;
  layout.pages = pages;
  if (pages > INT32_MAX / kPageRows) {
    return resource_exhausted(fmt::format("KV store: {} mid pages, limit {}", pages, INT32_MAX / kPageRows));
  }
  for (const int32_t layer : kv_layers) {
    if (zone.mask && (layer >= zone.mask->n_layers || zone.mask->n_kv_heads != rows.n_kv_heads)) {
      return invalid_argument(fmt::format("KV store: a channel mask of {} layers and {} KV heads, layer {} of {} heads",
                                          zone.mask->n_layers, zone.mask->n_kv_heads, layer, rows.n_kv_heads));
    }
    int64_t bytes = 0;
    for (int32_t head = 0; head < rows.n_kv_heads; ++head) {
      const int64_t width = k_width(zone, rows, layer, head);
      if (width % 16 != 0 || width > rows.head_dim) {
        return unsupported(
            fmt::format("KV store: layer {}, head {} keeps {} of {} channels; multiples of 16 are stored", layer, head,
                        width, rows.head_dim));
      }
      const HeadBytes planes = head_bytes(zone, rows, width);
      layout.page_bytes_k += planes.k;
      layout.page_bytes_v += planes.v;
      layout.page_bytes_scales += planes.ks + planes.vs + planes.lw;
      bytes += planes.all();
    }
    layout.layer_page_bytes.push_back(bytes);
    layout.page_bytes += bytes;
  }
  const auto pool = checked_mul(layout.page_bytes, pages);
  if (!pool || layout.page_bytes > UINT32_MAX)
    return resource_exhausted("KV store: the size of the mid pools overflows");
  layout.pool_bytes = *pool;
  return layout;
}

void fill_mid_formats(const MidZone& zone, const PlainRows& rows, std::span<const int32_t> kv_layers,
                      const MidLayout& layout, int pool, const MidFormats& formats, std::vector<Channel>* channels) {
  uint64_t base = 0;
  for (size_t i = 0; i < kv_layers.size(); ++i) {
    uint64_t at = base;
    for (int32_t head = 0; head < rows.n_kv_heads; ++head) {
      const int64_t width = k_width(zone, rows, kv_layers[i], head);
      const HeadBytes planes = head_bytes(zone, rows, width);
      if (planes.all() == 0) continue;  // v_width 0: absent
      const size_t place = static_cast<size_t>(kv_layers[i]) * rows.n_kv_heads + head;
      RowFormat& f = width == 0 ? formats.sum[place] : formats.mid[place];
      f.k = at;
      if (planes.ks > 0) f.ks = f.k + planes.k;
      f.v = at + planes.k + planes.ks;
      if (planes.vs > 0) f.vs = f.v + planes.v;
      if (planes.lw > 0) f.lw = f.v + planes.v;
      at += planes.all();
      f.page_bytes = static_cast<uint32_t>(layout.by_page ? layout.page_bytes : layout.layer_page_bytes[i]);
      f.k_width = static_cast<uint16_t>(width);
      f.v_width = static_cast<uint16_t>(rows.head_dim);
      f.k_group = static_cast<uint16_t>(zone.k_group);
      f.v_group = static_cast<uint16_t>(value_group(zone, rows));
      f.k_codec = width == 0 ? rows.codec : zone.k_codec(rows.codec);
      f.v_codec = width == 0 ? rows.codec : zone.v_codec(rows.codec);
      f.order = rows.order;
      f.pool = static_cast<uint8_t>(pool);
      if (width == 0 || !zone.mask || keeps_all(zone.mask->head(kv_layers[i], head), rows.head_dim)) continue;
      f.chan = static_cast<int32_t>(channels->size());
      const std::vector<Channel>& kept = zone.mask->head(kv_layers[i], head);
      channels->insert(channels->end(), kept.begin(), kept.end());
    }
    base += static_cast<uint64_t>(layout.layer_page_bytes[i] * (layout.by_page ? 1 : layout.pages));
  }
}

}  // namespace pare
