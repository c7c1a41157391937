#include "kv/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/checked.h"
#include "base/host_memory.h"
#include "kv/store_impl.h"

namespace pare {

// --- creation ---

Expected<int64_t> KvStore::planned_bytes(const KvStoreConfig& config) {
  PARE_ASSIGN_OR_RETURN(const StoreLayout layout, plan_store_layout(config));
  return layout.pool_bytes + layout.table_bytes;
}

Expected<std::unique_ptr<KvStore>> KvStore::create(const KvStoreConfig& config) {
  PARE_ASSIGN_OR_RETURN(StoreLayout layout, plan_store_layout(config));
  const int64_t table_bytes = layout.table_bytes;
  try {
    auto impl = std::make_unique<Impl>();
    impl->config = config;
    impl->layout = std::move(layout);
    for (int32_t c = 0; c < impl->n_classes(); ++c) {
      const ClassLayout& cls = impl->layout.classes[c];
      const size_t bytes = static_cast<size_t>(cls.pool_bytes);
      auto buffer = config.allocate_pool ? config.allocate_pool(bytes) : allocate_host_memory(bytes);
      if (!buffer.ok()) {
        return buffer.status().with_context(
            fmt::format("KV pool of {} pages with {} bytes each", cls.pages, cls.page_bytes));
      }
      impl->pools[c] = buffer->get();
      impl->buffers.push_back(std::move(buffer).value());
      impl->pages.emplace_back(static_cast<int32_t>(cls.pages));
      impl->mid_pages.emplace_back(static_cast<int32_t>(cls.mid.pages));
      if (cls.mid.pool_bytes == 0) continue;
      const size_t mid_bytes = static_cast<size_t>(cls.mid.pool_bytes);
      auto mid = config.allocate_pool ? config.allocate_pool(mid_bytes) : allocate_host_memory(mid_bytes);
      if (!mid.ok()) {
        return mid.status().with_context(
            fmt::format("KV pool of {} mid pages with {} bytes each", cls.mid.pages, cls.mid.page_bytes));
      }
      impl->pools[kMaxClasses + c] = mid->get();
      impl->buffers.push_back(std::move(mid).value());
    }
    impl->formats = make_row_formats(config, impl->layout, &impl->channels);
    impl->zones.resize(kMaxZones);
    impl->zones[kZoneSum].page_rows = kSumPageRows;
    impl->prefixes = PrefixIndex(static_cast<int32_t>(impl->layout.prefix_nodes));
    impl->page_ids.assign(
        static_cast<size_t>(config.max_sequences * impl->n_classes() * impl->layout.lists * impl->layout.list_pitch),
        kNoPage);
    impl->sequences.resize(config.max_sequences);
    for (SeqId seq = config.max_sequences - 1; seq >= 0; --seq) impl->free_sequences.push_back(seq);
    impl->chain.resize(impl->layout.list_pitch);
    impl->touched.reserve(config.max_sequences);
    impl->copies.reserve(static_cast<size_t>(config.max_sequences) * impl->n_classes());
    if (impl->layout.lists > 1) impl->moves.reserve(impl->layout.list_pitch);

    KvView& view = impl->view;
    std::copy(std::begin(impl->pools), std::end(impl->pools), std::begin(view.pools));
    view.formats = impl->formats.data();
    view.zones = impl->zones.data();
    view.channels = impl->channels.data();
    view.page_ids = impl->page_ids.data();
    view.n_kv_layers = config.layers->n_kv_layers;
    view.n_kv_heads = config.n_kv_heads;
    view.head_dim = config.head_dim;
    impl->config.layers = nullptr;
    return std::unique_ptr<KvStore>(new KvStore(std::move(impl)));
  } catch (const std::bad_alloc&) {
    return resource_exhausted(fmt::format("KV store: no memory for {} bytes of tables", table_bytes));
  }
}

KvStore::KvStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvStore::~KvStore() = default;

// --- pages ---

Sequence& KvStore::Impl::at(SeqId seq) {
  PARE_CHECK(seq >= 0 && seq < static_cast<SeqId>(sequences.size()) && sequences[seq].live);
  return sequences[seq];
}

void KvStore::Impl::forget_page(int32_t cls, int32_t page) {
  const int32_t node = pages[cls].node(page);
  if (node == PagePool::kNone) return;
  pages[cls].clear_node(page);
  prefixes.drop_page(node, cls);
  if (pages[cls].refs(page) == 0) FreedPages(*this, cls, kZoneFull).add(page);
}

void KvStore::Impl::evict_oldest(int32_t cls) {
  PARE_CHECK(pages[cls].n_cached() > 0);
  forget_page(cls, pages[cls].oldest_cached());
  ++evicted[cls];
}

int32_t KvStore::Impl::take_page(int32_t cls) {
  make_room(cls, layout.classes[cls].page_bytes);
  if (pages[cls].n_free() == 0) evict_oldest(cls);
  return pages[cls].take();
}

void KvStore::Impl::drop_copies_to(int32_t cls, int32_t page) {
  std::erase_if(copies, [&](const PageCopy& copy) { return copy.cls == cls && copy.dst == page; });
}

bool KvStore::Impl::is_copy_source(int32_t cls, int32_t page) const {
  return std::any_of(copies.begin(), copies.end(),
                     [&](const PageCopy& copy) { return copy.cls == cls && copy.src == page; });
}

int32_t KvStore::Impl::release_pages(SeqId seq, int32_t cls, int32_t begin, int32_t end) {
  int32_t* ids = list(seq, cls);
  int32_t released = 0;
  FreedPages freed(*this, cls, kZoneFull);
  for (int32_t i = end - 1; i >= begin; --i) {
    if (ids[i] == kNoPage) continue;
    if (pages[cls].unref(ids[i])) {
      if (!copies.empty()) drop_copies_to(cls, ids[i]);
      if (pages[cls].node(ids[i]) == PagePool::kNone) freed.add(ids[i]);
    }
    ids[i] = kNoPage;
    ++released;
  }
  return released;
}

// --- sequences ---

Expected<SeqId> KvStore::create_sequence(uint64_t tag) {
  Impl& m = *impl_;
  if (m.free_sequences.empty()) {
    return resource_exhausted(fmt::format("KV store: all {} sequences are in use", m.config.max_sequences));
  }
  const SeqId seq = m.free_sequences.back();
  m.free_sequences.pop_back();
  Sequence& s = m.sequences[seq];
  s = Sequence();
  s.live = true;
  s.tag = tag;
  s.tail.reset(tag ^ m.config.tag);
  if (!m.config.share_prefixes) s.tail.break_off();
  return seq;
}

Expected<SeqId> KvStore::fork(SeqId parent) {
  Impl& m = *impl_;
  Sequence& from = m.at(parent);
  PARE_CHECK(from.staged == 0);
  PARE_ASSIGN_OR_RETURN(const SeqId seq, create_sequence(from.tag));
  Sequence& s = m.sequences[seq];
  s = from;
  // Pages reserved but not begun stay with the parent.
  s.n_pages = ceil_div(from.len, kPageRows);
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    const int32_t* ids = m.list(parent, c);
    std::copy(ids, ids + s.n_pages, m.list(seq, c));
#ifndef PARE_FAULT_PLAN_FORK_REFS
    for (int32_t i = 0; i < s.n_pages; ++i) {
      if (ids[i] != kNoPage) m.pages[c].ref(ids[i]);
    }
#endif
    if (!m.has_mid(c)) continue;
    // Moved rows never change, so both read the same ones. What was promised for the next ones stays with the parent.
    s.promised[c] = 0;
    const int32_t* mid_ids = m.mid_list(parent, c);
    for (int32_t i = m.config.mid->first_page(); i < s.moved[c] / kPageRows; ++i) {
      m.mid_list(seq, c)[i] = mid_ids[i];
      m.mid_pages[c].ref(mid_ids[i]);
    }
  }
  return seq;
}

void KvStore::free_sequence(SeqId seq) {
  Impl& m = *impl_;
  Sequence& s = m.at(seq);
  if (s.staged > 0) m.unstage(seq);
  for (int32_t c = 0; c < m.n_classes(); ++c) m.release_pages(seq, c, 0, s.n_pages);
  m.release_mid_pages(seq);
  s.live = false;
  m.free_sequences.push_back(seq);
}

Status KvStore::truncate(SeqId seq, int32_t len) {
  Impl& m = *impl_;
  Sequence& s = m.at(seq);
  PARE_CHECK(s.staged == 0);
  if (len < min_length(seq) || len > s.len) {
    return invalid_argument(
        fmt::format("sequence {}: cannot truncate to {} rows, {} to {} is possible", seq, len, min_length(seq), s.len));
  }
  const int32_t pages = ceil_div(len, kPageRows);
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    m.release_pages(seq, c, pages, s.n_pages);
    m.promise(s, c, 0);
    s.dead_end[c] = std::min(s.dead_end[c], pages);
    s.dead_begin[c] = std::min(s.dead_begin[c], s.dead_end[c]);
  }
  s.n_pages = pages;
  s.len = len;
  s.tail.truncate(len, s.tag ^ m.config.tag);
  if (!m.config.share_prefixes) s.tail.break_off();
  return ok_status();
}

int32_t KvStore::length(SeqId seq) const { return impl_->at(seq).len; }

bool KvStore::is_live(SeqId seq) const {
  return seq >= 0 && seq < impl_->config.max_sequences && impl_->sequences[seq].live;
}

int32_t KvStore::min_length(SeqId seq) const {
  const Impl& m = *impl_;
  const Sequence& s = impl_->at(seq);
  int32_t min = 0;
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    // Rows that have moved are gone as they were: a shorter sequence would still read some of them whole.
    if (s.moved[c] > 0) {
      min = std::max({min, s.prompt_len, s.moved[c] + m.config.mid->recent, m.config.mid->min_tokens});
    }
    if (m.has_mid(c) || s.dead_begin[c] == s.dead_end[c]) continue;
    const ClassLayout& cls = m.layout.classes[c];
    const int64_t first_kept = int64_t{s.dead_end[c]} * kPageRows, grid = m.config.tile_rows;
    int64_t needed = round_up(first_kept + cls.decode_keep.window - 1, grid);
    if (needed < s.prompt_len) {
      // Back inside the prompt, prompt rows to come need their own window and sinks; if these are gone, no
      // way back.
      const bool gone = cls.prompt_keep.unlimited() || s.dead_begin[c] < ceil_div(cls.prompt_keep.sink, kPageRows);
      needed = gone ? s.prompt_len
                    : std::min<int64_t>(round_up(first_kept + cls.prompt_keep.window - 1, grid), s.prompt_len);
    }
    min = static_cast<int32_t>(std::max<int64_t>(min, needed));
  }
  return std::min(min, s.len);
}

// --- a step ---

Status KvStore::reserve(SeqId seq, int32_t rows, int32_t prompt_len) {
  Impl& m = *impl_;
  Sequence& s = m.at(seq);
  PARE_CHECK(s.staged == 0 && rows >= 0);
  if (rows > m.config.max_context - s.len || rows > m.config.max_step_rows) {
    return invalid_argument(fmt::format("sequence {}: {} more rows after {}, limits: {} a step, {} in all", seq, rows,
                                        s.len, m.config.max_step_rows, m.config.max_context));
  }
  if (rows == 0) return ok_status();
  if (m.reserves_until_denied > 0 && --m.reserves_until_denied == 0) return resource_exhausted("KV pages: denied");
  const int32_t end = ceil_div(s.len + rows, kPageRows);
  const int32_t fresh = std::max(0, end - s.n_pages);
  const int32_t tail_page = s.len / kPageRows;
  const bool writes_tail = s.len % kPageRows != 0;
  const auto is_shared = [&](int32_t c) { return writes_tail && m.pages[c].refs(m.list(seq, c)[tail_page]) > 1; };
  const auto moving = [&](int32_t c) {
    const int32_t moved = m.moved_at(s, c, s.len + rows, prompt_len);
    return moved == s.moved[c] ? 0 : moved / kPageRows - m.first_unmoved(s, c);
  };
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    const int64_t needed = int64_t{fresh} + (is_shared(c) ? 1 : 0);
    const int64_t unused = int64_t{m.pages[c].n_free()} + m.pages[c].n_cached();
    if (needed > unused) {
      return resource_exhausted(
          fmt::format("KV pages: {} needed, {} of {} available (class {})", needed, unused, m.pages[c].pages(), c));
    }
    if (!m.has_mid(c)) continue;
    const int32_t mid_needed = moving(c);
    const int64_t mid_free = m.mid_pages[c].n_free() - (m.promised[c] - s.promised[c]);
    if (mid_needed > mid_free) {
      return resource_exhausted(fmt::format("KV mid pages: {} needed, {} of {} available (class {})", mid_needed,
                                            mid_free, m.mid_pages[c].pages(), c));
    }
#ifndef PARE_FAULT_KV_MOVE_WITHOUT_ROOM
    const ClassLayout& cls = m.layout.classes[c];
    const int64_t bytes = needed * cls.page_bytes + m.room_for_moves(c, seq, mid_needed);
    if (bytes > cls.bytes_limit - m.bytes_used(c)) {
      return resource_exhausted(fmt::format("KV pages: {} bytes needed, {} of {} available (class {})", bytes,
                                            cls.bytes_limit - m.bytes_used(c), cls.bytes_limit, c));
    }
#endif
  }
  for (int32_t c = 0; c < m.n_classes(); ++c) {
    int32_t* ids = m.list(seq, c);
    if (is_shared(c)) {
      const int32_t copy = m.take_page(c);
      m.copies.push_back({c, ids[tail_page], copy});
      ++m.n_copies;
      m.pages[c].unref(ids[tail_page]);
      ids[tail_page] = copy;
    } else if (writes_tail) {
      m.forget_page(c, ids[tail_page]);  // its rows change: the index must not name it any longer
    }
    for (int32_t i = s.n_pages; i < end; ++i) ids[i] = m.take_page(c);
    m.promise(s, c, moving(c));
  }
  s.n_pages = std::max(s.n_pages, end);
  return ok_status();
}

void KvStore::deny_reserve_after(int64_t n) { impl_->reserves_until_denied = n + 1; }
void KvStore::set_move_pages(int32_t pages) { impl_->move_pages = pages; }

void KvStore::append(SeqId seq, std::span<const int32_t> tokens, int32_t prompt_len) {
  Impl& m = *impl_;
  Sequence& s = m.at(seq);
  const int64_t begin = int64_t{s.len} + s.staged;
  PARE_CHECK(begin + static_cast<int64_t>(tokens.size()) <= int64_t{s.n_pages} * kPageRows);
  if (tokens.empty()) return;
  if (s.staged == 0) {
    m.touched.push_back(seq);
    s.committed = s.tail;
  }
  s.prompt_len = prompt_len;
  for (size_t i = 0; i < tokens.size() && !s.tail.broken(); ++i) {
    const int32_t row = static_cast<int32_t>(begin + i);
    s.tail.push(row, tokens[i]);
    if (row % kPageRows == kPageRows - 1) m.seal_page(seq, row / kPageRows);
  }
  s.staged += static_cast<int32_t>(tokens.size());
}

int32_t KvStore::Impl::shareable_rows(const Sequence& s) const {
  if (config.share_decoded) return INT32_MAX;
  return s.prompt_len - config.share_tail_rows;
}

void KvStore::Impl::seal_page(SeqId seq, int32_t page) {
  Sequence& s = sequences[seq];
  if ((page + 1) * kPageRows > shareable_rows(s)) return s.tail.break_off();
  const uint64_t tag = s.tag ^ config.tag;
  const std::span<const int32_t> tokens = s.tail.page_tokens(page);
  int32_t node = prefixes.find(s.tail.before(page), tag, tokens);
  if (node == PrefixIndex::kNone) {
    node = prefixes.insert(s.tail.before(page), tag, tokens);
    if (node == PrefixIndex::kNone) return s.tail.break_off();
  }
  // A node that was there may have lost the pages of some classes to eviction.
  for (int32_t c = 0; c < n_classes(); ++c) {
    if (prefixes.page(node, c) != PrefixIndex::kNone) continue;
    const int32_t id = list(seq, c)[page];
    prefixes.set_pending_page(node, c, id);
    pages[c].set_node(id, node);
  }
  s.tail.seal(page, prefixes.point(node));
}

void KvStore::Impl::unstage(SeqId seq) {
  Sequence& s = sequences[seq];
  // Pages that this step was to fill, and put into the index itself, hold nothing yet.
  for (int32_t i = s.len / kPageRows; i < s.n_pages; ++i) {
    for (int32_t c = 0; c < n_classes(); ++c) {
      const int32_t id = list(seq, c)[i];
      const int32_t node = id == kNoPage ? PagePool::kNone : pages[c].node(id);
      if (node != PagePool::kNone && prefixes.pending(node, c)) forget_page(c, id);
    }
  }
  s.tail = s.committed;
  s.staged = 0;
  std::erase(touched, seq);
}

void KvStore::abort_step() {
  while (!impl_->touched.empty()) impl_->unstage(impl_->touched.back());
  // Copies stay due: the sequences that asked for them still hold the copies' targets.
}

void KvStore::Impl::count_peak() {
  int64_t bytes = 0, used = 0;
  for (int32_t c = 0; c < n_classes(); ++c) {
    used += pages[c].n_used() + mid_pages[c].n_used();
    bytes += bytes_used(c);
    bytes_held_peak[c] = std::max(bytes_held_peak[c], bytes_held(c));
  }
  pages_used_peak = std::max(pages_used_peak, used);
  bytes_used_peak = std::max(bytes_used_peak, bytes);
}

void KvStore::commit_step(const MoveRows& move) {
  Impl& m = *impl_;
  m.count_peak();
  for (const SeqId seq : m.touched) {
    Sequence& s = m.sequences[seq];
    const int32_t first = s.len / kPageRows;
    s.len += s.staged;
    s.staged = 0;
    for (int32_t i = first; i < s.len / kPageRows; ++i) {
      for (int32_t c = 0; c < m.n_classes(); ++c) {
        const int32_t node = m.pages[c].node(m.list(seq, c)[i]);
        if (node != PagePool::kNone) m.prefixes.set_filled(node, c);
      }
    }
    m.commit_moves(seq, move);
    m.free_dead_pages(seq);
  }
  m.touched.clear();
  while (!m.copies.empty()) {
    const PageCopy copy = m.copies.back();
    m.copies.pop_back();
    const PagePool& pool = m.pages[copy.cls];
    if (pool.refs(copy.src) == 0 && pool.node(copy.src) == PagePool::kNone) {
      Impl::FreedPages(m, copy.cls, kZoneFull).add(copy.src);
    }
  }
}

const Reach& KvStore::Impl::keep(const Sequence& s, int32_t cls, int32_t len) const {
  const ClassLayout& c = layout.classes[cls];
  return len < s.prompt_len ? c.prompt_keep : c.decode_keep;
}

void KvStore::Impl::free_dead_pages(SeqId seq) {
  Sequence& s = sequences[seq];
  for (int32_t c = 0; c < n_classes(); ++c) {
    const Reach& reach = keep(s, c, s.len);
    if (reach.unlimited()) continue;
    const auto [begin, end] = dead_pages(reach, std::max(0, s.len - config.rollback_rows), config.tile_rows);
    if (end <= begin) continue;
    kill_pages(seq, c, begin, end);
  }
}

void KvStore::Impl::kill_pages(SeqId seq, int32_t c, int32_t begin, int32_t end) {
  // Neither the sinks nor the window move back, so the dead entries stay one stretch.
  const auto die = [&](int32_t from, int32_t to) { freed_dead[c] += release_pages(seq, c, from, to); };
  int32_t& dead_begin = sequences[seq].dead_begin[c];
  int32_t& dead_end = sequences[seq].dead_end[c];
  if (dead_begin == dead_end) dead_begin = dead_end = std::min(begin, end);
  die(begin, dead_begin);
  die(dead_end, end);
  dead_begin = std::min(dead_begin, begin);
  dead_end = std::max(dead_end, end);
}

// --- reading ---

int32_t KvStore::page0(SeqId seq, int32_t cls) const { return impl_->list_base(seq, cls); }

void KvStore::fill_dst(SeqId seq, int32_t cls, std::span<int32_t> dst) const {
  const Sequence& s = impl_->at(seq);
  PARE_CHECK(static_cast<int32_t>(dst.size()) == s.staged);
  const int32_t* ids = impl_->list(seq, cls);
  for (int32_t i = 0; i < s.staged; ++i) {
    const int32_t row = s.len + i;
    dst[i] = ids[row / kPageRows] * kPageRows + row % kPageRows;
  }
}

std::span<const PageCopy> KvStore::copies() const { return impl_->copies; }

void KvStore::execute_copies() {
  for (const PageCopy& copy : impl_->copies) {
    const ClassLayout& cls = impl_->layout.classes[copy.cls];
    const int64_t bytes = cls.layer_page_bytes;
    for (size_t i = 0; i < cls.kv_layers.size(); ++i) {
      std::byte* layer = impl_->pools[copy.cls] + static_cast<int64_t>(i) * cls.pages * bytes;
      std::memcpy(layer + copy.dst * bytes, layer + copy.src * bytes, static_cast<size_t>(bytes));
    }
  }
}

const KvView& KvStore::view() const { return impl_->view; }
std::byte* const* KvStore::pools() const { return impl_->pools; }
std::array<size_t, kMaxPools> KvStore::pool_bytes() const {
  std::array<size_t, kMaxPools> bytes{};
  for (size_t c = 0; c < impl_->layout.classes.size(); ++c) {
    bytes[c] = static_cast<size_t>(impl_->layout.classes[c].pool_bytes);
    bytes[kMaxClasses + c] = static_cast<size_t>(impl_->layout.classes[c].mid.pool_bytes);
  }
  return bytes;
}
int32_t KvStore::n_classes() const { return impl_->n_classes(); }

int64_t KvStore::available_pages(int32_t cls) const {
  const Impl& m = *impl_;
  const ClassLayout& c = m.layout.classes[cls];
  const int64_t bytes = c.bytes_limit - m.bytes_used(cls) - m.room_for_moves(cls, -1, 0);
  return std::min(int64_t{m.pages[cls].n_free()} + m.pages[cls].n_cached(), std::max<int64_t>(0, bytes) / c.page_bytes);
}

}  // namespace pare
