// Rows that leave the full zone: pages taken ahead by reserve, moves listed for the step, bookkeeping at its end.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
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

int64_t KvStore::Impl::mid_pages_needed(SeqId seq, int32_t cls, int32_t moved) const {
  if (moved == 0 || !has_mid(cls)) return 0;
  const int32_t taken = std::max(sequences[seq].n_mid[cls], config.mid->first_page());
  return std::max(0, moved / kPageRows - taken);
}

void KvStore::Impl::take_mid_pages(SeqId seq, int32_t cls, int32_t moved) {
  if (mid_pages_needed(seq, cls, moved) == 0) return;
  int32_t& n_mid = sequences[seq].n_mid[cls];
  for (int32_t i = std::max(n_mid, config.mid->first_page()); i < moved / kPageRows; ++i) {
    mid_list(seq, cls)[i] = mid_pages[cls].take();
  }
  n_mid = moved / kPageRows;
}

void KvStore::Impl::release_mid_pages(SeqId seq) {
  Sequence& s = sequences[seq];
  for (int32_t c = 0; c < n_classes(); ++c) {
    if (!has_mid(c)) continue;
    for (int32_t i = s.n_mid[c] - 1; i >= config.mid->first_page(); --i) {
      mid_pages[c].unref(mid_list(seq, c)[i]);
      mid_list(seq, c)[i] = kNoPage;
    }
    s.n_mid[c] = s.moved[c] = 0;
  }
}

void KvStore::Impl::commit_moves(SeqId seq) {
  Sequence& s = sequences[seq];
  for (int32_t c = 0; c < n_classes(); ++c) {
    const int32_t moved = moved_at(s, c, s.len, s.prompt_len);
    if (moved == s.moved[c]) continue;
    moved_pages[c] += moved / kPageRows - std::max(s.moved[c] / kPageRows, config.mid->first_page());
    s.moved[c] = moved;
    kill_pages(seq, c, ceil_div(config.mid->sink, kPageRows), moved / kPageRows);
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

// Calls visit(seq, class, rows moved so far, rows moved after this step) where there is a difference.
template <typename Visit>
void KvStore::Impl::for_each_move(const Visit& visit) const {
  for (const SeqId seq : touched) {
    const Sequence& s = sequences[seq];
    for (int32_t c = 0; c < n_classes(); ++c) {
      const int32_t moved = moved_at(s, c, s.len + s.staged, s.prompt_len);
      if (moved > s.moved[c]) visit(seq, c, s.moved[c], moved);
    }
  }
}

int64_t KvStore::n_moves() const {
  int64_t n = 0;
  impl_->for_each_move([&](SeqId, int32_t, int32_t before, int32_t after) {
    n += after / kPageRows - std::max(before / kPageRows, impl_->config.mid->first_page());
  });
  return n;
}

void KvStore::fill_moves(std::span<RowMove> out) const {
  const Impl& m = *impl_;
  size_t n = 0;
  m.for_each_move([&](SeqId seq, int32_t c, int32_t before, int32_t after) {
    PARE_CHECK(m.mid_pages_needed(seq, c, after) == 0);
    // What moves begins behind the sinks, which may end within a page, or where the last move ended.
    const int32_t begin = std::max(before, m.config.mid->sink);
    for (int32_t page = begin / kPageRows; page < after / kPageRows; ++page) {
      const int32_t row0 = std::max(0, begin - page * kPageRows);
      out[n++] = {c, m.list(seq, c)[page], m.mid_list(seq, c)[page], row0, kPageRows - row0};
    }
  });
  PARE_CHECK(n == out.size());
}

Status KvStore::Impl::check_mid() const {
  for (int32_t c = 0; c < n_classes(); ++c) {
    if (!has_mid(c)) continue;
    const PagePool& pool = mid_pages[c];
    std::vector<int32_t> holders(pool.pages(), 0);
    for (SeqId seq = 0; seq < config.max_sequences; ++seq) {
      const Sequence& s = sequences[seq];
      const int32_t begin = config.mid->first_page(), end = s.live ? s.n_mid[c] : 0;
      for (int32_t i = 0; i < layout.list_pitch; ++i) {
        const int32_t id = mid_list(seq, c)[i];
        const bool listed = i >= begin && i < end;
        if (listed != (id != kNoPage) || id >= pool.pages()) {
          return internal_error(fmt::format("sequence {}, class {}, mid page {}: id {} where {}", seq, c, i, id,
                                            listed ? "one" : "none"));
        }
        if (listed) ++holders[id];
      }
      if (s.live && s.moved[c] > 0 && (s.moved[c] / kPageRows > end || s.moved[c] > s.len)) {
        return internal_error(
            fmt::format("sequence {}, class {}: {} rows moved into {} pages", seq, c, s.moved[c], end));
      }
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
