#include "runtime/placement.h"

namespace pare {

void place_rows(const std::shared_ptr<ops::Accelerator>& card, KvStoreConfig* config) {
  if (!card) return;
  config->codec = Codec::Bf16;
  config->order = Order::Rows;
  config->allocate_pool = [card](size_t bytes) { return card->allocate(bytes); };
}

SegmentShape segment_shape(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t threads,
                           const ops::Accelerator* card) {
  SegmentShape shape{n_heads, n_kv_heads, head_dim, threads};
  if (card == nullptr) return shape;
  shape.threads = card->info().multiprocessors;
  shape.item_overhead = kCardItemOverhead;
  return shape;
}

}  // namespace pare
