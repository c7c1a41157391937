#include "kv/mid_zone.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/limits.h"

namespace pare {

bool MidZone::has_means() const {
  return keep_means && mask != nullptr &&
         std::any_of(mask->heads.begin(), mask->heads.end(), [](const auto& kept) { return kept.empty(); });
}

Status join_windows(MidZone* mid, int64_t sink, int64_t recent, int64_t flush, int64_t min_tokens) {
  if (flush % kPageRows != 0) {
    return invalid_argument(fmt::format("flush is {}: rows move by whole pages of {}", flush, kPageRows));
  }
  const int64_t both = mid->flush == 0 ? flush : std::lcm(int64_t{mid->flush}, flush);
  if (both > kMaxContext) {
    return invalid_argument(fmt::format("flush {} and {} meet only every {} rows", mid->flush, flush, both));
  }
  mid->sink = static_cast<int32_t>(std::max<int64_t>(mid->sink, sink));
  mid->recent = static_cast<int32_t>(std::max<int64_t>(mid->recent, recent));
  mid->flush = static_cast<int32_t>(both);
  mid->min_tokens = static_cast<int32_t>(std::max<int64_t>(mid->min_tokens, min_tokens));
  return ok_status();
}

}  // namespace pare
