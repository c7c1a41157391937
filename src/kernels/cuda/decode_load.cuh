// The loading warps of the decode kernel.
#pragma once

#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/decode_stage.cuh"
#include "kernels/cuda/decode_walk.cuh"
#include "kernels/cuda/launch.cuh"

namespace pare::cuda::decode {

// Loads a part of every tile, K and V: one of two is a page of most zones. The first part's warp also tells what a tile
// is. The numbers of picked rows and log weights come with K. Quantized rows are widened to T on their way, whole parts
// of a tile from codes in shared memory (decode_stage.cuh), others straight from global memory.
//
// Rows of earlier steps are asked for before the launch before has ended, where DecodeOptions::rows_settled says that
// this step moves none: at short contexts nothing but the new rows is then left to wait for.
template <typename T, typename S>
class Load {
 public:
  __device__ Load(const Params& params, const Shared<S>& shared, int32_t part)
      : params_(params),
        shared_(shared),
        first_slot_(part * kSlots),
        sources_(shared.template as<Source>(S::kSources) + part * kSlots) {}

  __device__ void run() {
    if (!params_.rows_settled) wait_for_new_rows();
    walk_jobs(shared_, [&](const Job& job, int32_t at) {
      if constexpr (S::kCoded) codes_ = &shared_.codes(at);
      if (job.absent()) return;
      if (job.is(kJobPicked)) wait_for_new_rows();  // picks may be as young as queries
      if constexpr (S::kStaged) {
        load_staged_job(job);
      } else {
        walk_tiles<S, const Job>(job, first_slot_, [this](const Job& j, Tile& tile, int32_t span, int32_t id) {
          load_tile(j, tile, span, id, false);
        });
      }
    });
    wait_for_new_rows();  // no block leaves before its inputs are complete
  }

 private:
  static constexpr int kSlots = S::kTileRows / S::kLoadWarps;

  __device__ void wait_for_new_rows() {
    if (waited_) return;
    wait_for_inputs();
    if (params_.heads.rows > 0) named_barrier(kNewRowsBarrier + first_slot_ / kSlots, kAttendThreads + 32);
    waited_ = true;
  }

  static_assert(kSlots % 32 == 0);

  // By what the staging warp says, which walks the tiles.
  __device__ void load_staged_job(const Job& job) {
    const int32_t part = first_slot_ / kSlots;
    int32_t flags;
    do {
      mbarrier_wait(shared_.place_full(place_.at), place_.parity);
      const StagedTile& staged = shared_.staged_tile(place_.at);
      Tile tile = staged.tile;
      flags = tile.flags;
      load_tile(job, tile, staged.span, staged.pages[part], (staged.parts >> 4 * part & 1) != 0);
      arrive_empty(shared_.place_empty(place_.at));
      place_.advance(params_.places);
    } while ((flags & kTileEndsJob) == 0);
  }

  // in_place: the codes of the part are staged.
  __device__ void load_tile(const Job& job, Tile& tile, int32_t span, int32_t id, bool in_place) {
    const bool staged = S::kStaged && in_place;
    const int32_t end = tile.first + S::kTileRows;
    if ((!staged || first_slot_ == 0) && tile.first >= tile.lo && end <= tile.hi &&
        (job.is(kJobPicked) ? job.all_see(job.row0, job.row_end) : job.all_see(tile.first, end))) {
      tile.flags |= kTileWhole;
    }
    // The first `n` slots are rows that lie one behind the other in a page and are wanted, and the others are empty:
    // the common case by far. Slots from `old` on are stored by this step. A staged part is full, and old.
    const int32_t row = tile.first + first_slot_, in_page = row - page_index(job, row) * job.page_rows;
    int32_t n = kSlots, old = kSlots;
    bool together = true;
    if (!staged) {
      n = max(0, min(min(row + kSlots, tile.hi), job.max_limit) - row);
      together = !job.is(kJobPicked | kJobScored | kJobWeighted) && in_page + kSlots <= job.page_rows &&
                 row >= tile.lo && (row + n <= job.sink || job.min_pos - row < job.window);
      if constexpr (S::kCoded) together &= !is_quantized(codes_->k) && !is_quantized(codes_->v);
    }
    const std::byte* from = page(job, id);
    const uint32_t offset = static_cast<uint32_t>(first_slot_) * S::kRowBytes;
    if (!staged) {
      old = kNewRowsEarly ? n : max(0, min(job.new_row - row, n));
      if (!waited_ && old < n && !together) wait_for_new_rows();
    }

    mbarrier_wait(shared_.keys_empty(ring_.at), ring_.parity ^ 1);
    if (!together) {
      find_sources(job, tile, span);
    } else if (!staged && (tile.flags & kTileWhole) == 0) {
      for (int32_t slot = lane_id(); slot < kSlots; slot += 32) {
        shared_.template as<int32_t>(shared_.rows(ring_.at))[first_slot_ + slot] = slot < n ? row + slot : -1;
      }
    }
    if (first_slot_ == 0 && lane_id() == 0) shared_.tile(ring_.at) = tile;
    const uint32_t keys = shared_.address(shared_.keys(ring_.at)) + offset;
    const uint32_t values = shared_.address(shared_.values(ring_.at)) + offset;
    const std::byte* from_keys = from + job.k + static_cast<int64_t>(in_page) * job.k_width * 2;
    const std::byte* from_values = from + job.v + static_cast<int64_t>(in_page) * job.v_width * 2;
    if (!waited_ && old < n) {
      // The tile that the step's rows are in: all but them before the wait.
      mbarrier_wait(shared_.values_empty(ring_.at), ring_.parity ^ 1);
      const int32_t k_width = job.reads_keys() ? job.k_width : 0;
      copy_range(keys, from_keys, k_width, 0, old, old);
      copy_range(keys, from_keys, k_width, n, kSlots, n);
      copy_range(values, from_values, job.v_width, 0, old, old);
      copy_range(values, from_values, job.v_width, n, kSlots, n);
      wait_for_new_rows();
      const bool there = job.is(kJobDirect);
      if (!there) copy_range(keys, from_keys, k_width, old, n, n);
      arrive_full(shared_.keys_full(ring_.at));
      if (!there) copy_range(values, from_values, job.v_width, old, n, n);
      arrive_full(shared_.values_full(ring_.at));
      ring_.advance(params_.stages);
      return;
    }
    if (job.reads_keys()) {
      if (S::kCoded && is_quantized(codes_->k)) {
        if (staged) {
          const uint32_t place = staged_part();
          unpack_keys<T, kSlots, S::kRowBytes>(codes_->k, place, place + codes_->k_codes, keys, job.k_width);
        } else {
          widen_keys<T, S, kSlots>(sources_, keys, job.k, *codes_, job.k_width);
        }
      } else if (together) {
        copy_together(keys, from_keys, job.k_width, n);
      } else {
        copy_rows(keys, job.k, job.k_width, job.pool);
      }
    }
    arrive_full(shared_.keys_full(ring_.at));

    mbarrier_wait(shared_.values_empty(ring_.at), ring_.parity ^ 1);
    if (S::kCoded && is_quantized(codes_->v)) {
      if (staged) {
        const uint32_t place = staged_part() + codes_->k_codes + codes_->k_scales;
        unpack_values<T, kSlots, S::kRowBytes>(codes_->v, place, place + codes_->v_codes, values, job.v_width,
                                               codes_->v_group);
      } else {
        widen_values<T, S, kSlots>(sources_, values, job.v, *codes_, job.v_width);
      }
    } else if (together) {
      copy_together(values, from_values, job.v_width, n);
    } else {
      copy_rows(values, job.v, job.v_width, job.pool);
    }
    arrive_full(shared_.values_full(ring_.at));
    ring_.advance(params_.stages);
  }

  __device__ uint32_t staged_part() const {
#ifdef PARE_FAULT_DECODE_STAGED_PART
    const int32_t part = 0;
#else
    const int32_t part = first_slot_ / kSlots;
#endif
    return shared_.place(place_.at, params_) + static_cast<uint32_t>(part) * codes_->part_bytes();
  }

  // The first `n` rows from `from` on, zeros behind them. All of them are nearly always there, and two warps load for
  // eight: then nothing is asked about a row.
  __device__ static void copy_together(uint32_t to, const std::byte* from, int32_t width, int32_t n) {
    if (n == kSlots) {
      copy_slots<true>(to, from, width, n);
    } else {
      copy_slots<false>(to, from, width, n);
    }
  }
  // Slots [begin, end) of the rows from `from` on, of which the first `n` are there, zeros behind them.
  __device__ static void copy_range(uint32_t to, const std::byte* from, int32_t width, int32_t begin, int32_t end,
                                    int32_t n) {
    const int32_t chunks = width / 8;
#pragma unroll 4
    for (int32_t i = begin * chunks + lane_id(); i < end * chunks; i += 32) {
      const int32_t slot = i / chunks, chunk = i - slot * chunks;
      copy_async_16(to + static_cast<uint32_t>(slot) * S::kRowBytes + chunk_offset(slot, chunk),
                    from + static_cast<int64_t>(i) * 16, slot < n);
    }
  }
  template <bool kAll>
  __device__ static void copy_slots(uint32_t to, const std::byte* from, int32_t width, int32_t n) {
    constexpr int kFullChunks = S::kSteps * 2;  // of 16 bytes in a row
    from += lane_id() * 16;
    if (width == kFullChunks * 8) {
      constexpr int kRows = 32 / kFullChunks, kTurns = 8 / kRows;  // rows of a copy; copies until row % 8 comes again
      const int32_t slot = lane_id() / kFullChunks, chunk = lane_id() % kFullChunks;
      uint32_t turns[kTurns];
#pragma unroll
      for (int i = 0; i < kTurns; ++i) {
        turns[i] = to + static_cast<uint32_t>(slot + i * kRows) * S::kRowBytes + chunk_offset(slot + i * kRows, chunk);
      }
#pragma unroll
      for (int i = 0; i < kSlots / kRows; ++i) {
        copy_async_16(turns[i % kTurns] + i / kTurns * 8 * S::kRowBytes, from + i * 512, kAll || slot + i * kRows < n);
      }
      return;
    }
    const int32_t chunks = width / 8, slot_step = 32 / chunks, chunk_step = 32 % chunks;
    int32_t slot = lane_id() / chunks, chunk = lane_id() % chunks;
#pragma unroll 4
    for (int32_t i = 0; i < kSlots / 32 * chunks; ++i) {
      copy_async_16(to + static_cast<uint32_t>(slot) * S::kRowBytes + chunk_offset(slot, chunk), from,
                    kAll || slot < n);
      from += 512;
      slot += slot_step;
      chunk += chunk_step;
      if (chunk >= chunks) {
        chunk -= chunks;
        ++slot;
      }
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

  // Fills sources_, the numbers of rows, and their log weights.
  __device__ void find_sources(const Job& job, const Tile& tile, int32_t span) const {
    __syncwarp();  // every lane is done with the last tile's sources
    for (int32_t slot = lane_id(); slot < kSlots; slot += 32) {
      const int32_t row = row_of_slot(job, tile, span, first_slot_ + slot);
      Source source{nullptr, 0};
      if (row >= 0) {
        const int32_t index = page_index(job, row);
        source = {page(job, job.pages[index]), row - index * job.page_rows};
      }
      sources_[slot] = source;
      shared_.template as<int32_t>(shared_.rows(ring_.at))[first_slot_ + slot] = row;
      if (job.is(kJobWeighted)) {
        copy_async_4(shared_.address(shared_.log_weights(ring_.at)) + static_cast<uint32_t>(first_slot_ + slot) * 4,
                     row >= 0 ? source.page + job.lw + source.in_page * 4 : job.pool, row >= 0);
      }
    }
    __syncwarp();
  }

  // Copies the rows of sources_. An empty slot becomes zeros: its weight is zero, and zero times an old NaN would not
  // be.
  __device__ void copy_rows(uint32_t to, uint64_t plane, int32_t width, const std::byte* anywhere) const {
    const int32_t chunks = width / 8, slot_step = 32 / chunks, chunk_step = 32 % chunks;
    int32_t slot = lane_id() / chunks, chunk = lane_id() % chunks;
#pragma unroll 2
    for (int32_t i = 0; i < kSlots / 32 * chunks; ++i) {
      const Source source = sources_[slot];
      const bool present = source.page != nullptr;
      copy_async_16(
          to + static_cast<uint32_t>(slot) * S::kRowBytes + chunk_offset(slot, chunk),
          present ? source.page + plane + static_cast<int64_t>(source.in_page) * width * 2 + chunk * 16 : anywhere,
          present);
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
  const int32_t first_slot_;
  Source* sources_;
  RingCursor ring_;
  bool waited_ = false;
  const Codes* codes_ = nullptr;  // of the current job, where S::kCoded
  RingCursor place_;              // of staged tiles
};

}  // namespace pare::cuda::decode
