// What the store remembers of one sequence beside its page lists. Fixed size: a fork copies it.
#pragma once

#include <cstdint>
#include <span>

#include "kv/prefix_index.h"
#include "plan/kv_layout.h"

namespace pare {

// Where a sequence stands in the prefix index: the chain of its full pages, and the tokens of the page being
// filled. Only the end of the chain is kept, enough to follow truncations of up to a page; after a longer
// one, the chain is broken: the sequence's later pages are not shared.
class PrefixTail {
 public:
  void reset(uint64_t tag);
  // After adopting `pages` full pages that end at `point`.
  void adopt(int32_t pages, PrefixPoint point);

  void push(int32_t row, int32_t token);
  std::span<const int32_t> page_tokens(int32_t page) const { return {tokens_ + page % 2 * kPageRows, kPageRows}; }
  PrefixPoint before(int32_t page) const { return points_[page % kPoints]; }
  void seal(int32_t page, PrefixPoint point);  // `page` is full and stands at `point`

  void truncate(int32_t len, uint64_t tag);
  void break_off() { broken_ = true; }
  bool broken() const { return broken_; }

 private:
  static constexpr int32_t kPoints = 4;
  PrefixPoint points_[kPoints];  // before page p, at p % kPoints
  int32_t tokens_[2 * kPageRows] = {};
  int32_t first_point_ = 0, last_point_ = 0;  // pages p whose before(p) is known
  int32_t first_page_ = 0;                    // pages from here on have their tokens
  bool broken_ = false;
};

struct Sequence {
  bool live = false;
  int32_t len = 0;         // committed rows
  int32_t staged = 0;      // rows appended in this step
  int32_t n_pages = 0;     // entries of its page lists, the same in every class
  int32_t prompt_len = 0;  // of the last append
  uint64_t tag = 0;
  // Pages [dead_begin, dead_end) of its list in each class have been given back.
  int32_t dead_begin[kMaxClasses] = {}, dead_end[kMaxClasses] = {};
  // Rows [sink, moved) of each class lie in the mid zone; `promised` more mid pages will be taken at the end of the
  // step that was reserved.
  int32_t moved[kMaxClasses] = {}, promised[kMaxClasses] = {};
  PrefixTail tail;       // with the rows of this step
  PrefixTail committed;  // as it was before this step; meaningful while staged > 0
};

}  // namespace pare
