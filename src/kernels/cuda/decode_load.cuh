// The loading warps of the decode kernel.
#pragma once

#include "kernels/cuda/decode_plan.cuh"

namespace pare::cuda::decode {

// The zone row in each lane's slot, -1 where the slot is empty. Called by whole warps.
__device__ inline int32_t row_of_slot(const Job& job, const Tile& tile, int32_t slot) {
  if (!job.is(kJobPicked)) {
    const int32_t row = tile.first + slot;
    return row >= tile.lo && row < tile.hi && job.any_sees(row) ? row : -1;
  }
  int32_t row = -1, index = tile.first + slot;
  for (int32_t begin = tile.lo; begin < tile.hi; begin += 32) {
    Range pick{0, 0};
    if (begin + lane_id() < tile.hi) pick = job.picks[begin + lane_id()];
    int32_t end = pick.hi - pick.lo;  // where the pick's rows end among those of these 32 picks
    for (int32_t step = 1; step < 32; step *= 2) {
      const int32_t before = __shfl_up_sync(~0u, end, step);
      if (lane_id() >= step) end += before;
    }
    const int32_t rows = __shfl_sync(~0u, end, 31);
    int32_t at = 0;  // the first pick that ends beyond index
    for (int32_t step = 16; step > 0; step /= 2) {
      if (__shfl_sync(~0u, end, at + step - 1) <= index) at += step;
    }
    const int32_t pick_hi = __shfl_sync(~0u, pick.hi, at), pick_end = __shfl_sync(~0u, end, at);
    if (index >= 0 && index < rows) row = pick_hi - (pick_end - index);
    index -= rows;
  }
  return row;
}

// Loads every tile of one plane, 64 rows at a time, which is a page of most zones. K comes with picked rows' numbers
// and with log weights.
template <int kTileRows>
class Load {
 public:
  __device__ Load(const Params& params, const Shared& shared, bool keys)
      : params_(params),
        shared_(shared),
        keys_(keys),
        sources_(shared.as<const std::byte*>(shared.layout.sources) + (keys ? 0 : kPartRows)) {}

  __device__ void run() {
    walk_jobs(params_, shared_, [&](const Job& job, int32_t) {
      if (job.absent()) return;
      const int32_t begin = max(job.unit_begin * job.unit_spans, job.span_begin);
      const int32_t end = min(job.unit_end * job.unit_spans, job.span_end);
      for (int32_t span = begin; span < end; ++span) {
        walk_span<kTileRows>(job, span, [&](const Tile& tile) { load_tile(job, tile); });
      }
    });
  }

 private:
  static constexpr int kPartRows = 64, kParts = kTileRows / kPartRows;

  __device__ void load_tile(const Job& job, const Tile& tile) {
    const int32_t width = keys_ ? job.k_width : job.v_width;
    const bool copies = !keys_ || job.reads_keys();
    const std::byte* together[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      together[part] = copies ? contiguous_rows(job, tile, part * kPartRows, width) : nullptr;
    }
    mbarrier_wait(keys_ ? shared_.keys_empty(ring_.at) : shared_.values_empty(ring_.at), ring_.parity ^ 1);
    uint32_t to = shared_.address((keys_ ? shared_.layout.keys : shared_.layout.values) +
                                  static_cast<uint32_t>(ring_.at) * shared_.layout.plane_bytes);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (together[part] != nullptr) {
        copy_contiguous(to, together[part], width);
      } else {
        load_scattered(job, tile, part * kPartRows, to, width, copies);
      }
      to += kPartRows * shared_.layout.row_bytes;
    }
    arrive_full(keys_ ? shared_.keys_full(ring_.at) : shared_.values_full(ring_.at));
    ring_.advance(params_.stages);
  }

  __device__ const std::byte* page(const Job& job, int32_t index) const {
    const uint64_t id = static_cast<uint32_t>(job.pages[index]) & ~kHostPageBit;
    return job.pool + id * job.page_bytes;
  }
  __device__ uint64_t plane(const Job& job) const { return keys_ ? job.k : job.v; }

  // The address of the part's rows when all are wanted and lie one behind the other in a page, and nothing else is to
  // be done: the common case by far. Else null.
  __device__ const std::byte* contiguous_rows(const Job& job, const Tile& tile, int32_t first_slot,
                                              int32_t width) const {
    const int32_t row = tile.first + first_slot, end = row + kPartRows;
    if (job.is(kJobPicked | kJobScored) || (keys_ && job.lw != kNoPlane) || 32 % (width / 8) != 0) return nullptr;
    if (row < tile.lo || end > tile.hi || !job.all_see(row, end)) return nullptr;
    const int32_t index = row / job.page_rows, in_page = row - index * job.page_rows;
    if (in_page + kPartRows > job.page_rows) return nullptr;
    return page(job, index) + plane(job) + static_cast<int64_t>(in_page) * width * 2;
  }

  __device__ void copy_contiguous(uint32_t to, const std::byte* from, int32_t width) const {
    const int32_t chunks = width / 8, slot = lane_id() / chunks, chunk = lane_id() % chunks;  // of 16 bytes
    to += static_cast<uint32_t>(slot) * shared_.layout.row_bytes + static_cast<uint32_t>(chunk) * 16;
    from += lane_id() * 16;
    const uint32_t step = static_cast<uint32_t>(32 / chunks) * shared_.layout.row_bytes;
    const int32_t copies = kPartRows / 32 * chunks;
#pragma unroll 8
    for (int32_t i = 0; i < copies; ++i) {
      copy_async_16(to, from, true);
      to += step;
      from += 512;
    }
  }

  __device__ void load_scattered(const Job& job, const Tile& tile, int32_t first_slot, uint32_t to, int32_t width,
                                 bool copies) const {
    __syncwarp();  // every lane is done with the last part's sources
    for (int32_t slot = lane_id(); slot < kPartRows; slot += 32) {
      const int32_t row = row_of_slot(job, tile, first_slot + slot);
      const std::byte *source = nullptr, *weight = nullptr;
      if (row >= 0) {
        const int32_t index = row / job.page_rows, in_page = row - index * job.page_rows;
        const std::byte* base = page(job, index);
        source = base + plane(job) + static_cast<int64_t>(in_page) * width * 2;
        weight = base + job.lw + in_page * 4;
      }
      sources_[slot] = source;
      if (!keys_) continue;
      const auto at = static_cast<uint32_t>(ring_.at * kTileRows + first_slot + slot);
      shared_.template as<int32_t>(shared_.layout.rows)[at] = row;
      if (job.lw != kNoPlane && !job.is(kJobScored)) {
        copy_async_4(shared_.address(shared_.layout.log_weights) + at * 4, row >= 0 ? weight : job.pool, row >= 0);
      }
    }
    __syncwarp();
    if (copies) copy_rows(to, width, job.pool);
  }

  // Copies the rows at sources_. An empty slot becomes zeros: its weight is zero, and zero times an old NaN would not
  // be.
  __device__ void copy_rows(uint32_t to, int32_t width, const std::byte* anywhere) const {
    const int32_t chunks = width / 8;
    int32_t slot = lane_id() / chunks, chunk = lane_id() % chunks;
    const int32_t slot_step = 32 / chunks, chunk_step = 32 % chunks, copies = kPartRows / 32 * chunks;
#pragma unroll 4
    for (int32_t i = 0; i < copies; ++i) {
      const std::byte* source = sources_[slot];
      copy_async_16(to + static_cast<uint32_t>(slot) * shared_.layout.row_bytes + static_cast<uint32_t>(chunk) * 16,
                    source != nullptr ? source + chunk * 16 : anywhere, source != nullptr);
      slot += slot_step;
      chunk += chunk_step;
      if (chunk >= chunks) {
        chunk -= chunks;
        ++slot;
      }
    }
  }

  const Params& params_;
  const Shared& shared_;
  const bool keys_;
  const std::byte** sources_;
  RingCursor ring_;
};

}  // namespace pare::cuda::decode
