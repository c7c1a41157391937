// Bytes of mid-zone pages: which planes each head has, how wide, in which codec. The one place with this arithmetic.
//
// Pool of a class: [kv layer of the class][page][head][K, K scales, V, V scales], or by_page: [page][kv layer].. with
// the same behind; heads without channels have nothing, or kSumPageRows estimated rows: [V, log weights]
// (MidZone::keep_means).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/mid_zone.h"
#include "pare/status.h"
#include "plan/kv_layout.h"

namespace pare {

struct MidLayout {
  int64_t pages = 0;                       // 0: the class has no mid zone
  bool by_page = false;                    // the first pages touch the start of the pool, not one place for each layer
  std::vector<int64_t> layer_page_bytes;   // [kv layer of the class]
  int64_t page_bytes = 0, pool_bytes = 0;  // of a page in every layer; of all pages
  // What page_bytes is made of; scales: with the log weights.
  int64_t page_bytes_k = 0, page_bytes_v = 0, page_bytes_scales = 0;
};

// What the rows of the full zone are like.
struct PlainRows {
  int32_t n_kv_heads = 0, head_dim = 0;
  Codec codec = Codec::F16;
  Order order = Order::Tiles;
};

// Errors: sizes that overflow; a mask that lacks a layer or has a width that is no multiple of 16.
Expected<MidLayout> plan_mid_layout(const MidZone& zone, const PlainRows& rows, std::span<const int32_t> kv_layers,
                                    int64_t pages);

// The formats of zones mid and sum, [kv layer][K] each. A head has rows in one of them at most.
struct MidFormats {
  std::span<RowFormat> mid, sum;
};

// Writes the formats of the class's layers, and appends their channel lists.
void fill_mid_formats(const MidZone& zone, const PlainRows& rows, std::span<const int32_t> kv_layers,
                      const MidLayout& layout, int pool, const MidFormats& formats, std::vector<Channel>* channels);

}  // namespace pare
