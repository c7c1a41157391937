// What the place where a model runs, this machine or a card, means for stored rows and for how decode work is cut.
#pragma once

#include <cstdint>
#include <memory>

#include "kv/segment_planner.h"
#include "kv/store.h"
#include "ops/accelerator.h"

namespace pare {

// On a card, rows are bf16 in row order and lie in its memory; `config` keeps the card for its allocations. Null: this
// machine's memory, in the form that `config` has.
void place_rows(const std::shared_ptr<ops::Accelerator>& card, KvStoreConfig* config);

// Decode work for `threads` threads, or for the multiprocessors of a card.
SegmentShape segment_shape(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t threads,
                           const ops::Accelerator* card);

}  // namespace pare
