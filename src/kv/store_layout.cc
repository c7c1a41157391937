#include "kv/store_layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "base/limits.h"
#include "kv/page_pool.h"
#include "kv/prefix_index.h"
#include "kv/sequence.h"

namespace pare {
namespace {

Status check_dim(const char* name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return ok_status();
  return invalid_argument(fmt::format("KV store: {} {} outside [{}, {}]", name, value, min, max));
}

Status check_config(const KvStoreConfig& c) {
  if (c.layers == nullptr || c.layers->classes.empty()) return invalid_argument("KV store: no layers");
  PARE_RETURN_IF_ERROR(check_dim("KV heads", c.n_kv_heads, 1, kMaxHeads));
  PARE_RETURN_IF_ERROR(check_dim("head dimension", c.head_dim, 16, kMaxHeadDim));
  if (c.head_dim % 16 != 0) {
    return unsupported(fmt::format("KV store: head dimension {} is no multiple of 16", c.head_dim));
  }
  PARE_RETURN_IF_ERROR(check_dim("sequences", c.max_sequences, 1, kMaxSequences));
  PARE_RETURN_IF_ERROR(check_dim("context", c.max_context, 1, kMaxContext));
  PARE_RETURN_IF_ERROR(check_dim("rows of a step", c.max_step_rows, 1, kMaxContext));
  PARE_RETURN_IF_ERROR(check_dim("rollback rows", c.rollback_rows, 0, 4096));
  PARE_RETURN_IF_ERROR(check_dim("rows of a query tile", c.tile_rows, 1, 1024));
  PARE_RETURN_IF_ERROR(check_dim("rows in all", c.total_rows, 0, kMaxContext * kMaxSequences));
  if (c.codec != Codec::F32 && c.codec != Codec::F16 && c.codec != Codec::Bf16) {
    return unsupported("KV store: rows of the full zone are F32, F16 or Bf16");
  }
  for (size_t i = 0; i < c.layers->classes.size(); ++i) {
    for (const Reach& reach : {c.prompt_reach[i], c.decode_reach[i]}) {
      PARE_RETURN_IF_ERROR(check_dim("sink", reach.sink, 0, kMaxContext));
      PARE_RETURN_IF_ERROR(check_dim("window", reach.window, 1, kNoWindow));
    }
  }
  return ok_status();
}

// Pages of one sequence at most: all of its context, or the sinks, the window, the rows of a step and the two
// pages that both ends of that stretch may cut.
int64_t pages_of_sequence(const KvStoreConfig& config, Reach keep) {
  const int64_t all = ceil_div<int64_t>(config.max_context, kPageRows);
  if (keep.unlimited()) return all;
  const int64_t rows =
      int64_t{keep.window} + config.max_step_rows + config.rollback_rows + config.tile_rows + kSpanRows;
  return std::min(all, ceil_div<int64_t>(keep.sink, kPageRows) + ceil_div<int64_t>(rows, kPageRows) + 2);
}

// Pages of the full zone that all sequences need at most when rows move on to a mid zone: one prompt of full length
// while it is read, and of every other sequence its sinks, its recent rows (all that are fewer than the gate) and the
// page that both ends may cut.
int64_t pages_beside_mid(const KvStoreConfig& config, const MidZone& mid) {
  const int64_t whole_rows = mid.most_whole_rows() + config.tile_rows;
  const int64_t of_sequence = ceil_div<int64_t>(mid.sink, kPageRows) + ceil_div<int64_t>(whole_rows, kPageRows) + 2;
  return ceil_div<int64_t>(config.max_context, kPageRows) + config.max_sequences * of_sequence;
}

}  // namespace

DeadPages dead_pages(Reach keep, int32_t len, int32_t tile_rows) {
  if (keep.unlimited()) return {0, 0};
  const int32_t first_seen = std::max(0, len / tile_rows * tile_rows - keep.window + 1);
  if (keep.sink > 0 && first_seen / kSpanRows <= (keep.sink - 1) / kSpanRows) return {0, 0};
#ifdef PARE_FAULT_PLAN_EARLY_FREE
  return {ceil_div(keep.sink, kPageRows), ceil_div(first_seen, kPageRows)};
#else
  return {ceil_div(keep.sink, kPageRows), first_seen / kPageRows};
#endif
}

Expected<StoreLayout> plan_store_layout(const KvStoreConfig& config) {
  PARE_RETURN_IF_ERROR(check_config(config));
  StoreLayout layout;
  layout.plane_bytes = int64_t{kPageRows} * config.head_dim * codec_bits(config.codec) / 8;
  layout.list_pitch = ceil_div<int64_t>(config.max_context, kPageRows);
  const int64_t n_classes = static_cast<int64_t>(config.layers->classes.size());
  const Status too_large = resource_exhausted("KV store: the size of the pools overflows");

  for (int64_t i = 0; i < n_classes; ++i) {
    ClassLayout cls;
    cls.kv_layers = config.layers->classes[i].kv_layers;
    cls.decode_keep = config.decode_reach[i];
    cls.prompt_keep = join(config.prompt_reach[i], config.decode_reach[i]);
    const int64_t per_sequence = config.max_sequences * pages_of_sequence(config, cls.prompt_keep);
    // Every sequence may hold one page of its own beside the rows it shares.
    const int64_t for_rows = ceil_div<int64_t>(config.total_rows, kPageRows) + config.max_sequences;
    cls.pages = config.total_rows == 0 ? per_sequence : std::min(per_sequence, for_rows);
    const int64_t dense_pages = cls.pages;
    // No sequence is long enough for a move: the class needs no second pool.
    const bool moves = config.mid && config.mid->next_move(0) <= config.max_context;
    if (moves && config.layers->classes[i].window == kNoWindow) {
      PARE_ASSIGN_OR_RETURN(cls.mid, plan_mid_layout(*config.mid, plain_rows(config), cls.kv_layers, cls.pages));
      if (config.total_rows > 0) cls.pages = std::min(cls.pages, pages_beside_mid(config, *config.mid));
      layout.lists = 2;
    }
    if (cls.pages > INT32_MAX / kPageRows) {
      return resource_exhausted(
          fmt::format("KV store: {} pages in a class, limit {}", cls.pages, INT32_MAX / kPageRows));
    }
    cls.layer_page_bytes = 2 * layout.plane_bytes * config.n_kv_heads;
    if (cls.layer_page_bytes > UINT32_MAX) return too_large;
    cls.page_bytes = cls.layer_page_bytes * static_cast<int64_t>(cls.kv_layers.size());
    const auto bytes = checked_mul(cls.page_bytes, cls.pages);
    const auto both = bytes ? checked_add(*bytes, cls.mid.pool_bytes) : std::nullopt;
    const auto sum = both ? checked_add(layout.pool_bytes, *both) : std::nullopt;
    if (!sum) return too_large;
    cls.pool_bytes = *bytes;
    cls.bytes_limit = *both;
    if (cls.mid.pages > 0 && !config.allocate_pool) {
      // Memory comes in pieces of up to 2 MiB, which a piece for each layer would waste.
      cls.mid.by_page = true;
      // What the rows take densely, beside a group of pages on their way and the page of each sequence that is in both
      // zones where the sinks end within it. No product is larger than its pool's.
      const int64_t group = move_group_pages(static_cast<int32_t>(std::min(cls.mid.pages, layout.list_pitch)));
      const int64_t cut =
          config.mid->sink % kPageRows == 0 ? 0 : std::min<int64_t>(config.max_sequences, cls.mid.pages);
      const int64_t beside = std::min(group + cut, cls.mid.pages) * cls.mid.page_bytes;
      const auto dense = checked_mul(dense_pages, cls.page_bytes);
      const auto limit = dense ? checked_add(*dense, beside) : std::nullopt;
      if (limit) cls.bytes_limit = std::min(cls.bytes_limit, *limit);
    }
    layout.pool_bytes = *sum;
    layout.prefix_nodes = std::max(layout.prefix_nodes, config.share_prefixes ? cls.pages : 0);
    layout.table_bytes += PagePool::bytes(cls.pages) + PagePool::bytes(cls.mid.pages);
    layout.classes.push_back(std::move(cls));
  }

  const int64_t ids = config.max_sequences * n_classes * layout.lists * layout.list_pitch;
  if (ids > INT32_MAX) {
    return resource_exhausted(fmt::format("KV store: page lists of {} sequences with {} rows hold {} ids, limit {}",
                                          config.max_sequences, config.max_context, ids, INT32_MAX));
  }
  const int64_t copies = config.max_sequences * n_classes;
  if (layout.lists > 1) layout.table_bytes += layout.list_pitch * static_cast<int64_t>(sizeof(RowMove));
  const int64_t formats = int64_t{kMaxZones} * config.layers->n_kv_layers * config.n_kv_heads;
  layout.table_bytes += (ids + layout.list_pitch) * static_cast<int64_t>(sizeof(int32_t)) +
                        copies * static_cast<int64_t>(sizeof(PageCopy)) +
                        formats * static_cast<int64_t>(sizeof(RowFormat)) +
                        config.max_sequences * static_cast<int64_t>(sizeof(Sequence) + 2 * sizeof(SeqId)) +
                        PrefixIndex::bytes(layout.prefix_nodes);
  return layout;
}

std::vector<RowFormat> make_row_formats(const KvStoreConfig& config, const StoreLayout& layout,
                                        std::vector<Channel>* channels) {
  const size_t of_zone = static_cast<size_t>(config.layers->n_kv_layers) * config.n_kv_heads;
  std::vector<RowFormat> formats(kMaxZones * of_zone);
  for (size_t c = 0; c < layout.classes.size(); ++c) {
    const ClassLayout& cls = layout.classes[c];
    for (size_t i = 0; i < cls.kv_layers.size(); ++i) {
      for (int32_t head = 0; head < config.n_kv_heads; ++head) {
        RowFormat& format = formats[static_cast<size_t>(cls.kv_layers[i]) * config.n_kv_heads + head];
        format.k = i * cls.pages * cls.layer_page_bytes + 2 * head * layout.plane_bytes;
        format.v = format.k + layout.plane_bytes;
        format.page_bytes = static_cast<uint32_t>(cls.layer_page_bytes);
        format.k_width = format.v_width = static_cast<uint16_t>(config.head_dim);
        format.k_codec = format.v_codec = config.codec;
        format.order = config.order;
        format.pool = static_cast<uint8_t>(c);
      }
    }
    if (cls.mid.pages > 0) {
      fill_mid_formats(*config.mid, plain_rows(config), cls.kv_layers, cls.mid, kMaxClasses + static_cast<int>(c),
                       {.mid = std::span(formats).subspan(kZoneMid * of_zone, of_zone),
                        .sum = std::span(formats).subspan(kZoneSum * of_zone, of_zone)},
                       channels);
    }
  }
  return formats;
}

}  // namespace pare
