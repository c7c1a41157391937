// The loading warps of the decode kernel.
#pragma once

#include "kernels/cuda/decode_plan.cuh"

namespace pare::cuda::decode {

// Loads every tile of one plane, 64 slots at a time, which is a page of most zones. The K warp also tells what a tile
// is, and the numbers and log weights of rows.
template <typename S>
class Load {
 public:
  __device__ Load(const Params& params, const Shared<S>& shared, bool keys)
      : params_(params),
        shared_(shared),
        keys_(keys),
        sources_(shared.template as<const std::byte*>(S::kSources) + (keys ? 0 : kPartRows)) {}

  __device__ void run() {
    walk_jobs(shared_, [&](const Job& job, int32_t) {
      if (!job.absent()) load_job(job);
    });
  }

 private:
  static constexpr int kPartRows = kPageRows, kParts = S::kTileRows / kPartRows;

  // Where the walk over a job's tiles stands: at tile `first` of the numbers [lo, hi) of a span.
  struct Place {
    int32_t span, first, lo, hi;
  };

  __device__ void open_span(const Job& job, Place& at) const {
    if (job.is(kJobPicked)) {
      const int32_t begin = at.span * job.span, end = min(begin + job.span, job.n_picks);
      int32_t rows = 0;
      for (int32_t p = begin + lane_id(); p < end; p += 32) rows += job.picks[p].hi - job.picks[p].lo;
      at.lo = at.first = 0;
      at.hi = __reduce_add_sync(~0u, rows);
    } else {
      at.lo = max(at.span * job.span, job.row0);
      at.hi = min((at.span + 1) * job.span, job.row_end);
      at.first = at.lo / S::kTileRows * S::kTileRows;
    }
  }

  // Moves to the first tile not before `at` of which some column attends a row; false: there is none up to end_span.
  __device__ bool seek(const Job& job, Place& at, int32_t end_span) const {
    while (true) {
      for (; at.first < at.hi; at.first += S::kTileRows) {
        if (job.is(kJobPicked) || job.any_sees(max(at.first, at.lo), min(at.first + S::kTileRows, at.hi))) return true;
      }
      if (++at.span >= end_span) return false;
      open_span(job, at);
    }
  }

  // Every unit has a tile, if an empty one.
  __device__ void load_job(const Job& job) {
    const int32_t width = keys_ ? job.k_width : job.v_width;
    const uint64_t plane = keys_ ? job.k : job.v;
    for (int32_t unit = job.unit_begin; unit < job.unit_end; ++unit) {
      Place next{max(unit * job.unit_spans, job.span_begin), 0, 0, 0};
      const int32_t end_span = min((unit + 1) * job.unit_spans, job.span_end);
      open_span(job, next);
      bool more = seek(job, next, end_span);
      Place at = more ? next : Place{};
      do {
        if (more) {
          next.first += S::kTileRows;
          more = seek(job, next, end_span);
        }
        Tile tile{at.first, at.lo, at.hi, 0};
        if (!more) tile.flags = kTileEndsUnit | (unit + 1 == job.unit_end ? kTileEndsJob : 0);
        if (!more || next.span != at.span) tile.flags |= kTileEndsSpan;
        load_tile(job, tile, at.span, width, plane);
        at = next;
      } while (more);
    }
  }

  __device__ void load_tile(const Job& job, Tile& tile, int32_t span, int32_t width, uint64_t plane) {
    const bool copies = !keys_ || job.reads_keys();
    const int32_t end = tile.first + S::kTileRows;
    const bool picked = job.is(kJobPicked);
    const bool inside = tile.first >= tile.lo && end <= tile.hi;
    if (inside && (picked ? job.all_see(job.row0, job.row_end) : job.all_see(tile.first, end)))
      tile.flags |= kTileWhole;
    // The addresses of 64 slots at a time when all are wanted and lie one behind the other in a page.
    const bool simple = copies && (tile.flags & kTileWhole) != 0 && !picked && 32 % (width / 8) == 0 &&
                        !(keys_ && job.is(kJobWeighted));
    const std::byte* together[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      together[part] = nullptr;
      if (!simple) continue;
      const int32_t row = tile.first + part * kPartRows, index = page_index(job, row),
                    in_page = row - index * job.page_rows;
      if (in_page + kPartRows <= job.page_rows) {
        together[part] = page(job, index) + plane + static_cast<int64_t>(in_page) * width * 2;
      }
    }
    mbarrier_wait(keys_ ? shared_.keys_empty(ring_.at) : shared_.values_empty(ring_.at), ring_.parity ^ 1);
    uint32_t to = shared_.address(keys_ ? shared_.keys(ring_.at) : shared_.values(ring_.at));
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (together[part] != nullptr) {
        copy_together(to, together[part], width);
      } else {
        load_scattered(job, tile, span, part * kPartRows, to, width, plane, copies);
      }
      to += kPartRows * S::kRowBytes;
    }
    if (keys_ && lane_id() == 0) shared_.tile(ring_.at) = tile;
    arrive_full(keys_ ? shared_.keys_full(ring_.at) : shared_.values_full(ring_.at));
    ring_.advance(params_.stages);
  }

  __device__ static int32_t page_index(const Job& job, int32_t row) {
    return job.page_shift >= 0 ? row >> job.page_shift : row / job.page_rows;
  }
  __device__ static const std::byte* page(const Job& job, int32_t index) {
    const uint64_t id = static_cast<uint32_t>(job.pages[index]) & ~kHostPageBit;
    return job.pool + id * job.page_bytes;
  }

  __device__ static void copy_together(uint32_t to, const std::byte* from, int32_t width) {
    const int32_t chunks = width / 8, slot = lane_id() / chunks, chunk = lane_id() % chunks;  // of 16 bytes
    to += static_cast<uint32_t>(slot) * S::kRowBytes + static_cast<uint32_t>(chunk) * 16;
    from += lane_id() * 16;
    const uint32_t step = static_cast<uint32_t>(32 / chunks) * S::kRowBytes;
    const int32_t copies = kPartRows / 32 * chunks;
#pragma unroll 8
    for (int32_t i = 0; i < copies; ++i) {
      copy_async_16(to, from, true);
      to += step;
      from += 512;
    }
  }

  // The zone row of each lane's slot, -1 where the slot is empty.
  __device__ int32_t row_of_slot(const Job& job, const Tile& tile, int32_t span, int32_t slot) const {
    int32_t number = tile.first + slot;
    if (number < tile.lo || number >= tile.hi) number = -1;
    if (!job.is(kJobPicked)) return number >= 0 && job.any_sees(number) ? number : -1;
    int32_t row = -1;
    const int32_t end_pick = min((span + 1) * job.span, job.n_picks);
    for (int32_t begin = span * job.span; begin < end_pick; begin += 32) {
      Range pick{0, 0};
      if (begin + lane_id() < end_pick) pick = job.picks[begin + lane_id()];
      int32_t end = pick.hi - pick.lo;  // where the pick's rows end among those of these 32 picks
      for (int32_t step = 1; step < 32; step *= 2) {
        const int32_t before = __shfl_up_sync(~0u, end, step);
        if (lane_id() >= step) end += before;
      }
      const int32_t rows = __shfl_sync(~0u, end, 31);
      int32_t at = 0;  // the first pick that ends beyond the number
      for (int32_t step = 16; step > 0; step /= 2) {
        if (__shfl_sync(~0u, end, at + step - 1) <= number) at += step;
      }
      const int32_t pick_hi = __shfl_sync(~0u, pick.hi, at), pick_end = __shfl_sync(~0u, end, at);
      if (number >= 0 && number < rows) row = pick_hi - (pick_end - number);
      number -= rows;
    }
    return row;
  }

  __device__ void load_scattered(const Job& job, const Tile& tile, int32_t span, int32_t first_slot, uint32_t to,
                                 int32_t width, uint64_t plane, bool copies) const {
    __syncwarp();  // every lane is done with the last part's sources
    for (int32_t slot = lane_id(); slot < kPartRows; slot += 32) {
      const int32_t row = row_of_slot(job, tile, span, first_slot + slot);
      const std::byte *source = nullptr, *weight = nullptr;
      if (row >= 0) {
        const int32_t index = page_index(job, row), in_page = row - index * job.page_rows;
        const std::byte* base = page(job, index);
        source = base + plane + static_cast<int64_t>(in_page) * width * 2;
        weight = base + job.lw + in_page * 4;
      }
      sources_[slot] = source;
      if (!keys_) continue;
      shared_.template as<int32_t>(shared_.rows(ring_.at))[first_slot + slot] = row;
      if (job.is(kJobWeighted)) {
        copy_async_4(shared_.address(shared_.log_weights(ring_.at)) + static_cast<uint32_t>(first_slot + slot) * 4,
                     row >= 0 ? weight : job.pool, row >= 0);
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
      copy_async_16(to + static_cast<uint32_t>(slot) * S::kRowBytes + static_cast<uint32_t>(chunk) * 16,
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
  const Shared<S>& shared_;
  const bool keys_;
  const std::byte** sources_;
  RingCursor ring_;
};

}  // namespace pare::cuda::decode
