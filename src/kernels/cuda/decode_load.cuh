// The loading warps of the decode kernel: they keep the rings of K and V tiles filled, tiles ahead of the attending
// warps and across the borders of tasks.
#pragma once

#include "kernels/cuda/decode_plan.cuh"

namespace pare::cuda::decode {

// Copies this warp's `kSlots` rows of a plane. sources[slot]: the row's address, null for an empty slot, which becomes
// zeros: its weight is zero, and zero times an old NaN would not be.
template <int kSlots>
__device__ inline void copy_rows(uint32_t shared, uint32_t row_bytes, const std::byte* const* sources, int32_t width,
                                 const std::byte* anywhere) {
  const int32_t chunks = width / 8;  // of 16 bytes in a row
  int32_t slot = lane_id() / chunks, chunk = lane_id() % chunks;
  const int32_t slot_step = 32 / chunks, chunk_step = 32 % chunks, copies = kSlots / 32 * chunks;
#pragma unroll 4
  for (int32_t i = 0; i < copies; ++i) {
    const std::byte* source = sources[slot];
    copy_async_16(shared + slot * row_bytes + chunk * 16, source != nullptr ? source + chunk * 16 : anywhere,
                  source != nullptr);
    slot += slot_step;
    chunk += chunk_step;
    if (chunk >= chunks) {
      chunk -= chunks;
      ++slot;
    }
  }
}

// `part` of kLoadWarpsPerPlane warps that load K (with row numbers and log weights), or V.
template <int kTileRows>
__device__ void load_planes(const Params& params, const SharedLayout& layout, std::byte* shared_base, bool keys,
                            int32_t part) {
  constexpr int kSlots = kTileRows / kLoadWarpsPerPlane;
  static_assert(kSlots % 32 == 0);
  const uint32_t shared = shared_address(shared_base);
  const int32_t first_slot = part * kSlots;
  auto** sources =
      reinterpret_cast<const std::byte**>(shared_base + layout.sources) + (keys ? 0 : kTileRows) + first_slot;
  RingCursor at;
  walk_tasks(params, [&](const Task& task) {
    if (task.absent()) return;
    const bool copies = keys ? task.reads_keys() : true;
    const bool weights = keys && task.format.lw != kNoPlane && !task.scored;
    const int32_t width = keys ? task.format.k_width : task.format.v_width;
    const uint64_t plane = keys ? task.format.k : task.format.v;
    const int32_t passes = passes_of(params, task);
    for (int32_t p = 0; p < passes; ++p) {
      const Pass pass = make_pass(params, task, p);
      const int32_t span_lo = max(task.unit_begin * task.unit_spans, task.span_begin);
      const int32_t span_hi = min(task.unit_end * task.unit_spans, task.span_end);
      for (int32_t span = span_lo; span < span_hi; ++span) {
        walk_span<kTileRows>(task, pass, span, [&](const Tile& tile) {
          int32_t rows[kSlots / 32];
          const std::byte* bases[kSlots / 32];  // of the rows' pages
#pragma unroll
          for (int i = 0; i < kSlots / 32; ++i) {
            rows[i] = row_of_slot(task, pass, tile, first_slot + 32 * i + lane_id());
            const int32_t page = rows[i] >= 0 ? rows[i] / task.page_rows : 0;
            const uint64_t id = rows[i] >= 0 ? static_cast<uint32_t>(task.pages[page]) & ~kHostPageBit : 0;
            bases[i] = task.pool + id * task.format.page_bytes;
            rows[i] = rows[i] >= 0 ? rows[i] : -1;
          }
          mbarrier_wait(barrier_at(layout, shared, keys ? kKeysEmpty : kValuesEmpty, at.stage, params.stages),
                        at.parity ^ 1);
          __syncwarp();  // every lane is done with the last tile's sources
#pragma unroll
          for (int i = 0; i < kSlots / 32; ++i) {
            const int32_t slot = 32 * i + lane_id(), row = rows[i];
            const int32_t in_page = row >= 0 ? row % task.page_rows : 0;
            sources[slot] = row < 0 ? nullptr : bases[i] + plane + static_cast<int64_t>(in_page) * width * 2;
            if (keys) {
              const uint32_t index = static_cast<uint32_t>(at.stage * kTileRows + first_slot + slot);
              reinterpret_cast<int32_t*>(shared_base + layout.rows)[index] = row;
              if (weights) {
                copy_async_4(shared + layout.log_weights + index * 4,
                             row >= 0 ? bases[i] + task.format.lw + in_page * 4 : task.pool, row >= 0);
              }
            }
          }
          __syncwarp();
          if (copies) {
            const uint32_t stage = shared + (keys ? layout.keys : layout.values) +
                                   static_cast<uint32_t>(at.stage) * layout.plane_bytes +
                                   static_cast<uint32_t>(first_slot) * layout.row_bytes;
            copy_rows<kSlots>(stage, layout.row_bytes, sources, width, task.pool);
          }
          const uint32_t full = barrier_at(layout, shared, keys ? kKeysFull : kValuesFull, at.stage, params.stages);
          mbarrier_arrive_after_copies(full);
          if (lane_id() == 0) mbarrier_arrive(full);  // the row numbers, written with plain stores
          at.advance(params.stages);
        });
      }
    }
  });
  let_next_kernel_start();
}
// Arrivals that complete a full barrier: every lane's copies, and one for plain stores, of each warp.
inline constexpr int32_t kFullArrivals = 33 * kLoadWarpsPerPlane;

}  // namespace pare::cuda::decode
