// Sizes of everything the store owns, from its configuration: the one place with this arithmetic, all of it
// checked.
//
// Pool of a class: [kv layer of the class][page][head][K plane, V plane], so that one task (layer, head)
// walks whole planes and a page of one layer is one copy.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/mid_layout.h"
#include "kv/store.h"
#include "pare/status.h"
#include "plan/kv_layout.h"

namespace pare {

struct ClassLayout {
  std::vector<int32_t> kv_layers;
  Reach prompt_keep, decode_keep;  // what must be kept while the prompt is read, and after
  int64_t pages = 0;
  int64_t layer_page_bytes = 0;  // K and V of one page in one layer
  int64_t page_bytes = 0;        // in every layer of the class
  int64_t pool_bytes = 0;
  MidLayout mid;
  // Used and cached pages of both pools hold at most this; less than both pools: the pools are addresses, and memory
  // that is free is given back.
  int64_t bytes_limit = 0;
  bool is_limited() const { return bytes_limit < pool_bytes + mid.pool_bytes; }
};

// Of `pages` that move together, as many as move at once: few enough that a sequence's peak hardly shows their copies,
// enough that a prompt's moves are no more than 64 launches.
inline int32_t move_group_pages(int32_t pages) { return (pages + 63) / 64; }

struct StoreLayout {
  std::vector<ClassLayout> classes;
  int64_t plane_bytes = 0;  // K (or V) of one page of one head
  int64_t list_pitch = 0;   // page ids of one (sequence, class, zone)
  int64_t lists = 1;        // zones with page lists: full; full and mid
  int64_t prefix_nodes = 0;
  int64_t pool_bytes = 0, table_bytes = 0;  // pools of both zones
};

Expected<StoreLayout> plan_store_layout(const KvStoreConfig& config);

// [kMaxZones][kv layer][K]; the full zone and, where there is one, the mid zone with its estimated rows are filled in.
std::vector<RowFormat> make_row_formats(const KvStoreConfig& config, const StoreLayout& layout,
                                        std::vector<Channel>* channels);

inline PlainRows plain_rows(const KvStoreConfig& config) {
  return {config.n_kv_heads, config.head_dim, config.codec, config.order};
}

// List entries [begin, end) that no row from position len on can need; begin >= end: none. len counts rows
// that are certain to stay. A query tile that begins within [len - tile_rows, len] visits keys for its whole
// cell; and while the window still begins in the last span of the sinks, both are read by one run, so all
// between them stays.
struct DeadPages {
  int32_t begin, end;
};
DeadPages dead_pages(Reach keep, int32_t len, int32_t tile_rows);

}  // namespace pare
