// Prefix adoption, statistics and the self-check of the store.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kv/store_impl.h"

namespace pare {
int32_t KvStore::adopt_prefix(SeqId seq, std::span<const int32_t> prompt) {
  Impl& m = *impl_;
  Sequence& s = m.at(seq);
  PARE_CHECK(s.len == 0 && s.staged == 0 && s.n_pages == 0);
  if (!m.config.share_prefixes || prompt.empty()) return 0;
  ++m.prefix_lookups;
  const uint64_t tag = s.tag ^ m.config.tag;
  // A shared row may lie in this prompt's tail, where its own length decides what the row attends.
#ifdef PARE_FAULT_KV_ADOPT_TAIL
  const int64_t own = 1;
#else
  const int64_t own = std::max<int64_t>(1, m.config.share_tail_rows);
#endif
  const int64_t shareable = std::max<int64_t>(0, static_cast<int64_t>(prompt.size()) - own);
  const int32_t most = static_cast<int32_t>(std::min<int64_t>(shareable / kPageRows, m.layout.list_pitch));

  // Walk down while nodes match; remember the deepest end whose every class holds what a row there sees.
  PrefixPoint point = PrefixIndex::root(tag), best_point;
  int32_t best = 0;
  int32_t last_missing[kMaxClasses];
  bool sinks_missing = false;
  std::fill(std::begin(last_missing), std::end(last_missing), -1);
  for (int32_t p = 0; p < most && !sinks_missing; ++p) {
    const int32_t node = m.prefixes.find(point, tag, prompt.subspan(size_t{kPageRows} * p, kPageRows));
    if (node == PrefixIndex::kNone) break;
    m.chain[p] = node;
    point = m.prefixes.point(node);
    bool complete = true;
    for (int32_t c = 0; c < m.n_classes(); ++c) {
      const Reach keep = m.layout.classes[c].prompt_keep;
      if (m.prefixes.page(node, c) == PrefixIndex::kNone || m.prefixes.pending(node, c)) {
        last_missing[c] = p;
        sinks_missing |= p < ceil_div(keep.sink, kPageRows);
      }
      // Pages between the sinks and the window may be missing.
      const DeadPages dead = dead_pages(keep, (p + 1) * kPageRows, m.config.tile_rows);
      complete &= last_missing[c] < dead.end || last_missing[c] < 0;
    }
    if (complete && !sinks_missing) {
      best = p + 1;
      best_point = point;
    }
  }
  if (best == 0) return 0;

  for (int32_t c = 0; c < m.n_classes(); ++c) {
    DeadPages dead = dead_pages(m.layout.classes[c].prompt_keep, best * kPageRows, m.config.tile_rows);
    dead.end = std::max(dead.begin, dead.end);
    int32_t* ids = m.list(seq, c);
    for (int32_t p = 0; p < best; ++p) {
      if (p >= dead.begin && p < dead.end) continue;
      ids[p] = m.prefixes.page(m.chain[p], c);
      m.pages[c].ref(ids[p]);
    }
    if (dead.begin < dead.end) {
      s.dead_begin[c] = dead.begin;
      s.dead_end[c] = dead.end;
    }
  }
  // Rows that are to move at the end of this step leave their pages to whom adopted them now, and need others.
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    if (m.promised[c] == 0 || m.bytes_used(c) + m.room_for_moves(c, -1, 0) <= m.layout.classes[c].bytes_limit) continue;
    for (int32_t cls = 0; cls < m.n_classes(); ++cls) {
      m.release_pages(seq, cls, 0, best);
      s.dead_begin[cls] = s.dead_end[cls] = 0;
    }
    return 0;
  }
  s.n_pages = best;
  s.len = best * kPageRows;
  s.tail.adopt(best, best_point);
  m.prefix_hit_rows += s.len;
  return s.len;
}

void KvStore::clear_cache() {
  for (int32_t c = 0; c < impl_->n_classes(); ++c) {
    while (impl_->pages[c].n_cached() > 0) impl_->forget_page(c, impl_->pages[c].oldest_cached());
  }
}

KvStats KvStore::stats() const {
  const Impl& m = *impl_;
  KvStats stats;
  stats.bytes_tables = m.layout.table_bytes;
  stats.bytes_used_peak = m.bytes_used_peak;
  stats.pages_used_peak = m.pages_used_peak;
  stats.copies = m.n_copies;
  stats.prefix_hit_rows = m.prefix_hit_rows;
  stats.prefix_lookups = m.prefix_lookups;
  stats.n_classes = m.n_classes();
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    KvClassStats& cls = stats.classes[c];
    cls.pages = m.pages[c].pages();
    cls.pages_used = m.pages[c].n_used();
    cls.pages_cached = m.pages[c].n_cached();
    cls.pages_free = m.pages[c].n_free();
    cls.page_bytes = m.layout.classes[c].page_bytes;
    cls.freed_dead = m.freed_dead[c];
    cls.evicted = m.evicted[c];
    const ClassLayout& layout = m.layout.classes[c];
    cls.mid_pages = layout.mid.pages;
    cls.mid_pages_used = m.mid_pages[c].n_used();
    cls.mid_page_bytes = layout.mid.page_bytes;
    cls.moved = m.moved_pages[c];
    cls.bytes_held = m.bytes_held(c);
    cls.bytes_held_peak = m.bytes_held_peak[c];
    cls.bytes_limit = layout.bytes_limit;
    stats.bytes_k += layout.pool_bytes / 2;
    stats.bytes_v += layout.pool_bytes / 2;
    stats.bytes_mid_k += layout.mid.page_bytes_k * layout.mid.pages;
    stats.bytes_mid_v += layout.mid.page_bytes_v * layout.mid.pages;
    stats.bytes_mid_scales += layout.mid.page_bytes_scales * layout.mid.pages;
    stats.bytes_used += m.bytes_used(c);
    stats.bytes_per_row += cls.page_bytes / kPageRows;
    for (const Sequence& s : m.sequences) {
      if (s.live) cls.rows_held += s.len - int64_t{s.dead_end[c] - s.dead_begin[c]} * kPageRows;
    }
  }
  for (const Sequence& s : m.sequences) {
    if (!s.live) continue;
    ++stats.sequences;
    stats.rows += s.len;
  }
  return stats;
}

Status KvStore::check() const {
  const Impl& m = *impl_;
  int64_t nodes_named = 0;
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    const PagePool& pool = m.pages[c];
    std::vector<int32_t> holders(pool.pages(), 0);
    for (SeqId seq = 0; seq < m.config.max_sequences; ++seq) {
      const Sequence& s = m.sequences[seq];
      const int32_t* ids = m.list(seq, c);
      const int32_t listed = s.live ? s.n_pages : 0;
      for (int32_t i = 0; i < m.layout.list_pitch; ++i) {
        const bool dead = i >= listed || (i >= s.dead_begin[c] && i < s.dead_end[c]);
        if (dead != (ids[i] == kNoPage)) {
          return internal_error(
              fmt::format("sequence {}, class {}, page {}: id {} where {}", seq, c, i, ids[i], dead ? "none" : "one"));
        }
        if (dead) continue;
        if (ids[i] < 0 || ids[i] >= pool.pages()) return internal_error(fmt::format("page id {} out of range", ids[i]));
        ++holders[ids[i]];
      }
      if (!s.live || s.staged == 0) continue;
      for (int32_t row = s.len; row < s.len + s.staged; row += kPageRows - row % kPageRows) {
        if (pool.refs(ids[row / kPageRows]) != 1) {
          return internal_error(fmt::format("sequence {}, class {}: writes row {} of a page with {} holders", seq, c,
                                            row, pool.refs(ids[row / kPageRows])));
        }
      }
    }
    int32_t used = 0, cached = 0;
    for (int32_t page = 0; page < pool.pages(); ++page) {
      if (pool.refs(page) != holders[page]) {
        return internal_error(
            fmt::format("class {}, page {}: {} references, {} holders", c, page, pool.refs(page), holders[page]));
      }
      const int32_t node = pool.node(page);
      if (node != PagePool::kNone) {
        ++nodes_named;
        if (m.prefixes.page(node, c) != page) {
          return internal_error(
              fmt::format("class {}, page {}: its prefix node names {}", c, page, m.prefixes.page(node, c)));
        }
      }
      used += pool.refs(page) > 0;
      cached += pool.refs(page) == 0 && node != PagePool::kNone;
    }
    if (used != pool.n_used() || cached != pool.n_cached()) {
      return internal_error(fmt::format("class {}: {} pages used and {} cached, counted {} and {}", c, pool.n_used(),
                                        pool.n_cached(), used, cached));
    }
  }
  if (m.prefixes.size() > nodes_named) {
    return internal_error(fmt::format("{} prefix nodes, {} named pages", m.prefixes.size(), nodes_named));
  }
  return m.check_mid();
}

}  // namespace pare
