// Pages of one layer class: reference counts, the free list and the list of cached pages. Knows page numbers
// only.
#pragma once

#include <cstdint>
#include <vector>

namespace pare {

// A page is used (refs > 0), cached (refs = 0, named by a prefix node) or free. Cached pages are in order of
// release; the oldest is evicted first. No allocation after the constructor. Deterministic: the page freed
// last is taken first, fresh pages in ascending order.
class PagePool {
 public:
  static constexpr int32_t kNone = -1;

  explicit PagePool(int32_t pages);

  int32_t pages() const { return static_cast<int32_t>(meta_.size()); }
  int32_t n_free() const { return n_free_; }
  int32_t n_cached() const { return n_cached_; }
  int32_t n_used() const { return pages() - n_free_ - n_cached_; }

  // A free page with refs = 1, or kNone.
  int32_t take();
  // One more holder of a used or cached page.
  void ref(int32_t page);
  // One holder less; the last one makes it cached if a node names it, else free. True if it was the last.
  bool unref(int32_t page);

  int32_t refs(int32_t page) const { return meta_[page].refs; }
  int32_t node(int32_t page) const { return meta_[page].node; }
  // Names a used page for the prefix index.
  void set_node(int32_t page, int32_t node) { meta_[page].node = node; }
  // The index no longer names it; a cached page becomes free.
  void clear_node(int32_t page);
  int32_t oldest_cached() const { return oldest_; }

  static int64_t bytes(int64_t pages) { return pages * static_cast<int64_t>(sizeof(Meta) + sizeof(int32_t)); }

 private:
  struct Meta {
    int32_t refs = 0, node = kNone;
    int32_t older = kNone, newer = kNone;  // in the list of cached pages
  };
  void push_free(int32_t page) { free_[n_free_++] = page; }
  void link_newest(int32_t page);
  void unlink(int32_t page);

  std::vector<Meta> meta_;
  std::vector<int32_t> free_;  // a stack of n_free_ pages
  int32_t n_free_ = 0, n_cached_ = 0;
  int32_t oldest_ = kNone, newest_ = kNone;
};

}  // namespace pare
