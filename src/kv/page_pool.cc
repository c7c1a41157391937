#include "kv/page_pool.h"

#include "base/check.h"

namespace pare {

PagePool::PagePool(int32_t pages) : meta_(pages), free_(pages) {
  // Descending, so that the lowest page is on top: untouched pages of the pool stay untouched memory.
  for (int32_t page = pages - 1; page >= 0; --page) push_free(page);
}

int32_t PagePool::take() {
  if (n_free_ == 0) return kNone;
  const int32_t page = free_[--n_free_];
  PARE_CHECK(meta_[page].refs == 0 && meta_[page].node == kNone);
  meta_[page].refs = 1;
  return page;
}

void PagePool::ref(int32_t page) {
  Meta& m = meta_[page];
  if (m.refs == 0) {
    PARE_CHECK(m.node != kNone);
    unlink(page);
  }
  ++m.refs;
}

bool PagePool::unref(int32_t page) {
  Meta& m = meta_[page];
  PARE_CHECK(m.refs > 0);
  if (--m.refs > 0) return false;
  if (m.node != kNone) {
    link_newest(page);
  } else {
    push_free(page);
  }
  return true;
}

void PagePool::clear_node(int32_t page) {
  Meta& m = meta_[page];
  PARE_CHECK(m.node != kNone);
  m.node = kNone;
  if (m.refs > 0) return;
  unlink(page);
  push_free(page);
}

void PagePool::link_newest(int32_t page) {
  Meta& m = meta_[page];
  m.older = newest_;
  m.newer = kNone;
  (newest_ == kNone ? oldest_ : meta_[newest_].newer) = page;
  newest_ = page;
  ++n_cached_;
}

void PagePool::unlink(int32_t page) {
  Meta& m = meta_[page];
  (m.older == kNone ? oldest_ : meta_[m.older].newer) = m.newer;
  (m.newer == kNone ? newest_ : meta_[m.newer].older) = m.older;
  m.older = m.newer = kNone;
  --n_cached_;
}

}  // namespace pare
