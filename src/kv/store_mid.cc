// Rows that leave the full zone: room made sure of by reserve, moves by groups at the end of a step, and the limit
// under which pages of both zones share memory.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "base/host_memory.h"
#include "kv/store_impl.h"

namespace pare {

int32_t KvStore::Impl::moved_at(const Sequence& s, int32_t cls, int32_t len, int32_t prompt_len) const {
  if (!has_mid(cls) || len < prompt_len) return s.moved[cls];
#ifdef PARE_FAULT_KV_MOVE_TOO_EARLY
  return std::max(s.moved[cls], config.mid->moved_before(len + config.mid->flush));
#else
  return std::max(s.moved[cls], config.mid->moved_before(len));
#endif
}

int32_t KvStore::Impl::first_unmoved(const Sequence& s, int32_t cls) const {
  return std::max(s.moved[cls] / kPageRows, config.mid->first_page());
}

int32_t KvStore::Impl::first_killed() const { return ceil_div(config.mid->sink, kPageRows); }

void KvStore::Impl::promise(Sequence& s, int32_t cls, int32_t n) {
  promised[cls] += n - s.promised[cls];
  s.promised[cls] = n;
}

void KvStore::Impl::release_mid_pages(SeqId seq) {
  Sequence& s = sequences[seq];
  for (int32_t c = 0; c < n_classes(); ++c) {
    if (!has_mid(c)) continue;
    promise(s, c, 0);
    FreedPages freed(*this, c, kZoneMid);
    for (int32_t i = s.moved[c] / kPageRows - 1; i >= config.mid->first_page(); --i) {
      int32_t& id = mid_list(seq, c)[i];
      if (mid_pages[c].unref(id)) freed.add(id);
      id = kNoPage;
    }
    s.moved[c] = 0;
  }
}

// A prompt's pages are many, and their narrow copies more than half as large: moved all at once, both would be held.
// The last ones move first, so that of a cached prefix its end is evicted first.
void KvStore::Impl::commit_moves(SeqId seq, const MoveRows& move) {
  Sequence& s = sequences[seq];
  for (int32_t c = 0; c < n_classes(); ++c) {
    const int32_t moved = moved_at(s, c, s.len, s.prompt_len);
    if (moved == s.moved[c]) continue;
    const int32_t first = first_unmoved(s, c), last = moved / kPageRows, group = group_pages(last - first);
    PARE_CHECK(last - first <= s.promised[c]);
    for (int32_t end = last; end > first; end -= group) move_group(seq, c, std::max(first, end - group), end, move);
    moved_pages[c] += last - first;
    promise(s, c, 0);
    s.moved[c] = moved;
    kill_pages(seq, c, first_killed(), last);  // which are given back: one stretch of dead entries from now on
  }
}

// Pages [begin, end) of the list.
void KvStore::Impl::move_group(SeqId seq, int32_t cls, int32_t begin, int32_t end, const MoveRows& move) {
  make_room(cls, (end - begin) * layout.classes[cls].mid.page_bytes);
  moves.clear();
  for (int32_t page = end - 1; page >= begin; --page) {
    int32_t& dst = mid_list(seq, cls)[page];
    dst = mid_pages[cls].take();
    // The sinks may end within a page.
    const int32_t row0 = std::max(0, config.mid->sink - page * kPageRows);
    moves.push_back({cls, list(seq, cls)[page], dst, row0, kPageRows - row0});
  }
  count_peak();
#ifdef PARE_FAULT_KV_FREE_BEFORE_MOVE
  freed_dead[cls] += release_pages(seq, cls, std::max(begin, first_killed()), end);
#endif
  if (move) move(moves);
  freed_dead[cls] += release_pages(seq, cls, std::max(begin, first_killed()), end);
}

KvStore::Impl::Growth KvStore::Impl::growth_of(SeqId seq, int32_t cls, int32_t n) const {
  const int32_t first = first_unmoved(sequences[seq], cls), group = group_pages(n);
  int64_t bytes = 0, most = 0;
  for (int32_t end = first + n; end > first; end -= group) {
    const int32_t begin = std::max(first, end - group);
    bytes += (end - begin) * layout.classes[cls].mid.page_bytes;
    most = std::max(most, bytes);
    for (int32_t page = std::max(begin, first_killed()); page < end; ++page) {
      // A page that somebody else holds stays; one that is still to be reserved is this sequence's own.
      const int32_t id = list(seq, cls)[page];
      if (id == kNoPage || pages[cls].refs(id) == 1) bytes -= layout.classes[cls].page_bytes;
    }
  }
  const int64_t lasting = std::max<int64_t>(0, bytes);
  return {lasting, most - lasting};
}

// Sequences move one after the other: what all add stays, beside what one of them adds on its way.
int64_t KvStore::Impl::room_for_moves(int32_t cls, SeqId seq, int32_t n) const {
  Growth all = n > 0 ? growth_of(seq, cls, n) : Growth{};
  for (SeqId other = 0; promised[cls] > 0 && other < config.max_sequences; ++other) {
    const Sequence& s = sequences[other];
    if (!s.live || other == seq || s.promised[cls] == 0) continue;
    const Growth growth = growth_of(other, cls, s.promised[cls]);
    all.lasting += growth.lasting;
    all.passing = std::max(all.passing, growth.passing);
  }
  return all.lasting + all.passing;
}

int64_t KvStore::Impl::bytes_used(int32_t cls) const {
  const ClassLayout& c = layout.classes[cls];
  return pages[cls].n_used() * c.page_bytes + mid_pages[cls].n_used() * c.mid.page_bytes;
}

int64_t KvStore::Impl::bytes_held(int32_t cls) const {
  return bytes_used(cls) + pages[cls].n_cached() * layout.classes[cls].page_bytes;
}

void KvStore::Impl::make_room(int32_t cls, int64_t bytes) {
  while (bytes_held(cls) + bytes > layout.classes[cls].bytes_limit) evict_oldest(cls);
}

void KvStore::Impl::give_back(int32_t cls, int zone, int32_t first, int32_t last) {
  const ClassLayout& c = layout.classes[cls];
  if (!c.is_limited()) return;
  const int64_t n = last - first + 1;
  if (zone == kZoneMid) {
    PARE_CHECK(c.mid.by_page);
    return return_host_memory(pools[kMaxClasses + cls] + first * c.mid.page_bytes,
                              static_cast<size_t>(n * c.mid.page_bytes));
  }
  for (size_t i = 0; i < c.kv_layers.size(); ++i) {
    std::byte* layer = pools[cls] + static_cast<int64_t>(i) * c.pages * c.layer_page_bytes;
    return_host_memory(layer + first * c.layer_page_bytes, static_cast<size_t>(n * c.layer_page_bytes));
  }
}

MidRows KvStore::mid(SeqId seq, int32_t cls) const {
  const Impl& m = *impl_;
  const Sequence& s = impl_->at(seq);
  if (!m.has_mid(cls)) return {};
  return {m.mid_list_base(seq, cls), s.moved[cls]};
}

int64_t KvStore::rows_until_move(SeqId seq) const {
  const Impl& m = *impl_;
  const Sequence& s = impl_->at(seq);
  const bool any = std::any_of(m.layout.classes.begin(), m.layout.classes.end(),
                               [](const ClassLayout& cls) { return cls.mid.pages > 0; });
  return any ? m.config.mid->next_move(s.len) - s.len : INT32_MAX;
}

Status KvStore::Impl::check_mid() const {
  for (int32_t c = 0; c < n_classes(); ++c) {
    if (!has_mid(c)) continue;
    const PagePool& pool = mid_pages[c];
    std::vector<int32_t> holders(pool.pages(), 0);
    int64_t promises = 0;
    for (SeqId seq = 0; seq < config.max_sequences; ++seq) {
      const Sequence& s = sequences[seq];
      const int32_t begin = config.mid->first_page(), end = s.live ? s.moved[c] / kPageRows : 0;
      if (s.live) promises += s.promised[c];
      for (int32_t i = 0; i < layout.list_pitch; ++i) {
        const int32_t id = mid_list(seq, c)[i];
        const bool listed = i >= begin && i < end;
        if (listed != (id != kNoPage) || id >= pool.pages()) {
          return internal_error(fmt::format("sequence {}, class {}, mid page {}: id {} where {}", seq, c, i, id,
                                            listed ? "one" : "none"));
        }
        if (listed) ++holders[id];
      }
      if (s.live && s.moved[c] > s.len) {
        return internal_error(fmt::format("sequence {}, class {}: {} of {} rows moved", seq, c, s.moved[c], s.len));
      }
    }
    if (promises != promised[c] || promises > pool.n_free()) {
      return internal_error(
          fmt::format("class {}: {} mid pages promised, counted {}, {} free", c, promised[c], promises, pool.n_free()));
    }
    if (bytes_held(c) > layout.classes[c].bytes_limit) {
      return internal_error(
          fmt::format("class {}: {} bytes held, limit {}", c, bytes_held(c), layout.classes[c].bytes_limit));
    }
    for (int32_t page = 0; page < pool.pages(); ++page) {
      if (pool.refs(page) != holders[page]) {
        return internal_error(
            fmt::format("class {}, mid page {}: {} references, {} holders", c, page, pool.refs(page), holders[page]));
      }
    }
  }
  return ok_status();
}

}  // namespace pare
