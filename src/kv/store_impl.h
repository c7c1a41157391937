// The state of a KvStore; private to src/kv/store*.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "base/arena.h"
#include "kv/page_pool.h"
#include "kv/prefix_index.h"
#include "kv/sequence.h"
#include "kv/store.h"
#include "kv/store_layout.h"

namespace pare {

struct KvStore::Impl {
  // Fixed by create().
  KvStoreConfig config;
  StoreLayout layout;
  std::vector<std::shared_ptr<std::byte>> buffers;  // [class]
  std::byte* pools[kMaxPools] = {};
  std::vector<RowFormat> formats;
  std::vector<Zone> zones;
  std::vector<Channel> channels;
  KvView view;

  // Changing.
  std::vector<PagePool> pages;      // [class], full zone
  std::vector<PagePool> mid_pages;  // [class]; without pages where the class has no mid zone
  PrefixIndex prefixes{0};
  std::vector<int32_t> page_ids;  // [sequence][class][zone][list_pitch]
  std::vector<Sequence> sequences;
  std::vector<SeqId> free_sequences;  // a stack
  std::vector<SeqId> touched;         // sequences with staged rows, in order of their first append
  std::vector<PageCopy> copies;
  std::vector<int32_t> chain;  // scratch of adopt_prefix
  std::vector<RowMove> moves;  // a group of them
  int64_t freed_dead[kMaxClasses] = {}, evicted[kMaxClasses] = {}, moved_pages[kMaxClasses] = {};
  int64_t bytes_held_peak[kMaxClasses] = {};
  int64_t promised[kMaxClasses] = {};  // mid pages, over all sequences
  int32_t move_pages = 0;              // set_move_pages
  int64_t n_copies = 0, prefix_hit_rows = 0, prefix_lookups = 0;
  int64_t bytes_used_peak = 0, pages_used_peak = 0;
  int64_t reserves_until_denied = 0;  // 0: none is

  int32_t n_classes() const { return static_cast<int32_t>(layout.classes.size()); }
  int32_t list_base(SeqId seq, int32_t cls) const {
    return static_cast<int32_t>((int64_t{seq} * n_classes() + cls) * layout.lists * layout.list_pitch);
  }
  int32_t mid_list_base(SeqId seq, int32_t cls) const {
    return list_base(seq, cls) + static_cast<int32_t>(layout.list_pitch);
  }
  int32_t* mid_list(SeqId seq, int32_t cls) { return page_ids.data() + mid_list_base(seq, cls); }
  const int32_t* mid_list(SeqId seq, int32_t cls) const { return page_ids.data() + mid_list_base(seq, cls); }
  bool has_mid(int32_t cls) const { return layout.classes[cls].mid.pages > 0; }

  int32_t* list(SeqId seq, int32_t cls) { return page_ids.data() + list_base(seq, cls); }
  const int32_t* list(SeqId seq, int32_t cls) const { return page_ids.data() + list_base(seq, cls); }
  Sequence& at(SeqId seq);

  // A page with one holder, evicting the oldest cached ones if none is free or the limit would be passed. The caller
  // has checked availability.
  int32_t take_page(int32_t cls);
  void evict_oldest(int32_t cls);
  // The prefix index forgets this page; its node goes when it has no page left.
  void forget_page(int32_t cls, int32_t page);
  // Gives back entries [begin, end) of a page list, last first, so that of a prefix its end is evicted first.
  // Returns how many there were.
  int32_t release_pages(SeqId seq, int32_t cls, int32_t begin, int32_t end);
  void drop_copies_to(int32_t cls, int32_t page);
  // A copy that is due reads a page although nobody holds it any longer: its bytes stay until the step is committed.
  bool is_copy_source(int32_t cls, int32_t page) const;

  // Puts a page that this step fills into the prefix index, or finds that an equal one is there.
  void seal_page(SeqId seq, int32_t page);
  // Rows of a sequence that may be shared, as far as its prompt and the configuration allow.
  int32_t shareable_rows(const Sequence& s) const;
  const Reach& keep(const Sequence& s, int32_t cls, int32_t len) const;
  void free_dead_pages(SeqId seq);
  // Gives back full pages [begin, end) of a live sequence's list; dead entries stay one stretch.
  void kill_pages(SeqId seq, int32_t cls, int32_t begin, int32_t end);

  // Mid zone (store_mid.cc). Where moved rows will end once the sequence has `len` rows of a prompt of prompt_len.
  int32_t moved_at(const Sequence& s, int32_t cls, int32_t len, int32_t prompt_len) const;
  // List entries of the first page that has not moved, and of the first that is whole no longer once it has.
  int32_t first_unmoved(const Sequence& s, int32_t cls) const;
  int32_t first_killed() const;
  int32_t group_pages(int32_t n) const { return move_pages > 0 ? move_pages : move_group_pages(n); }
  void promise(Sequence& s, int32_t cls, int32_t n);
  void commit_moves(SeqId seq, const MoveRows& move);
  void move_group(SeqId seq, int32_t cls, int32_t begin, int32_t end, const MoveRows& move);
  void release_mid_pages(SeqId seq);

  // Bytes that n moving pages of a sequence add to a class: for good, and while they move beside that.
  struct Growth {
    int64_t lasting = 0, passing = 0;
  };
  Growth growth_of(SeqId seq, int32_t cls, int32_t n) const;
  // The same of all sequences with promises at the end of a step, if `seq` has n pages to move; -1: none beside those.
  int64_t room_for_moves(int32_t cls, SeqId seq, int32_t n) const;
  int64_t bytes_used(int32_t cls) const;
  int64_t bytes_held(int32_t cls) const;  // with cached pages
  // Evicts cached pages until `bytes` more fit.
  void make_room(int32_t cls, int64_t bytes);
  // Memory of pages [first, last] of a pool, which are free now, goes back to the system.
  void give_back(int32_t cls, int zone, int32_t first, int32_t last);

  // Pages of a pool that become free one after the other: neighbours go back to the system together, the last ones with
  // this object.
  class FreedPages {
   public:
    FreedPages(Impl& store, int32_t cls, int zone) : store_(store), cls_(cls), zone_(zone) {}
    FreedPages(const FreedPages&) = delete;
    FreedPages& operator=(const FreedPages&) = delete;
    ~FreedPages() { flush(); }
    void add(int32_t page) {
#ifndef PARE_FAULT_KV_COPY_SOURCE_LOST
      if (zone_ == kZoneFull && store_.is_copy_source(cls_, page)) return;
#endif
      if (first_ >= 0 && page == first_ - 1) {
        first_ = page;
      } else if (first_ >= 0 && page == last_ + 1) {
        last_ = page;
      } else {
        flush();
        first_ = last_ = page;
      }
    }

   private:
    void flush() {
      if (first_ >= 0) store_.give_back(cls_, zone_, first_, last_);
    }
    Impl& store_;
    int32_t cls_;
    int zone_;
    int32_t first_ = -1, last_ = -1;
  };

  Status check_mid() const;
  void unstage(SeqId seq);
  void count_peak();
};

}  // namespace pare
