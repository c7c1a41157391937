#include "kv/sequence.h"

#include <algorithm>

namespace pare {

void PrefixTail::reset(uint64_t tag) {
  *this = PrefixTail();
  points_[0] = PrefixIndex::root(tag);
}

void PrefixTail::adopt(int32_t pages, PrefixPoint point) {
  points_[pages % kPoints] = point;
  first_point_ = last_point_ = first_page_ = pages;
}

void PrefixTail::push(int32_t row, int32_t token) {
  tokens_[row % (2 * kPageRows)] = token;
  first_page_ = std::max(first_page_, row / kPageRows - 1);
}

void PrefixTail::seal(int32_t page, PrefixPoint point) {
  last_point_ = page + 1;
  points_[last_point_ % kPoints] = point;
  first_point_ = std::max(first_point_, last_point_ - (kPoints - 1));
}

void PrefixTail::truncate(int32_t len, uint64_t tag) {
  if (len == 0) return reset(tag);
  const int32_t page = len / kPageRows;
  if (page < first_point_ || page > last_point_ || (len % kPageRows != 0 && page < first_page_)) broken_ = true;
  last_point_ = std::min(last_point_, page);
}

}  // namespace pare
