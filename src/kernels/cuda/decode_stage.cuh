// The staging warp of the decode kernel (Shape::kStaged): it walks the tiles of jobs, tiles ahead and across the
// borders of jobs, tells the loading warps what they are, and has codes and scales of quantized rows copied to a ring
// of places in shared memory, from where the loading warps unpack them (decode_codes.cuh).
//
// Two barriers a place: full, when its copies have landed and its StagedTile is written, which every loading warp waits
// for before it reads either; and empty, when every loading warp is done with both, which this warp waits for before it
// writes either again. Every tile takes a place, whether anything of it is staged or not.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/decode_walk.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"

namespace pare::cuda::decode {

// Whether codes of a job are staged.
__device__ inline bool is_staged(const Params& params, const Job& job, const Codes& codes) {
  return codes.part_bytes() > 0 && codes.part_bytes() * kStagedParts <= params.place_bytes &&
         !job.is(kJobPicked | kJobScored | kJobWeighted) && (codes.k_codes == 0 || codes.k_group % kStagedRows == 0);
}

// By one thread, before the block's first use of the barriers.
template <typename S>
__device__ inline void init_places(const Shared<S>& shared) {
  for (int32_t place = 0; place < kMaxPlaces; ++place) {
#if __CUDA_ARCH__ >= 900
    mbarrier_init(shared.place_full(place), 1);
#else
    mbarrier_init(shared.place_full(place), kFullArrivals);
#endif
    mbarrier_init(shared.place_empty(place), S::kLoadWarps);
  }
#if __CUDA_ARCH__ >= 900
  hopper::fence_barrier_init();
#endif
}

template <typename S>
class Stage {
 public:
  __device__ Stage(const Params& params, const Shared<S>& shared) : params_(params), shared_(shared) {}

  __device__ void run() {
    if (!params_.rows_settled) wait_for_inputs();
    walk_jobs(shared_, [&](const Job& job, int32_t at) {
      const Codes& codes = shared_.codes(at);
      if (job.absent()) return;
      if (job.is(kJobPicked)) wait_for_inputs();  // picks may be as young as queries
      const Stretch stretch = is_staged(params_, job, codes) ? stretch_of(job, codes) : Stretch{};
      walk_tiles<S, const Job&>(job, slot_, [&](const Job&, const Tile& tile, int32_t span, int32_t id) {
        stage(job, codes.part_bytes(), stretch, tile, span, id);
      });
    });
    wait_for_inputs();  // no block leaves before its inputs are complete
  }

 private:
  // Whether a part's rows are staged: all wanted, one behind the other in a page, of one group of scales of K, and
  // older than this step.
  __device__ static bool lies_well(const Job& job, const Tile& tile, int32_t row, int32_t in_page) {
    const int32_t end = row + kStagedRows;
    return row >= tile.lo && end <= min(min(tile.hi, job.max_limit), job.new_row) && in_page % kStagedRows == 0 &&
           in_page + kStagedRows <= job.page_rows && (end <= job.sink || job.min_pos - row < job.window);
  }

  // What a lane of the first 16 copies of a tile: of its part the codes of K, their scales, codes of V, or their
  // scales. They lie in a plane, `bytes` for every `rows` rows, and come to `to` of a place. Rows 0, of all lanes:
  // nothing is staged.
  struct Stretch {
    uint64_t plane;
    uint32_t bytes, rows, to;
  };
  __device__ Stretch stretch_of(const Job& job, const Codes& codes) const {
    const auto part = static_cast<uint32_t>(slot_ / kStagedRows) * codes.part_bytes();
    const uint32_t v = part + codes.k_codes + codes.k_scales;
    const auto group = codes.k_codes > 0 ? static_cast<uint32_t>(codes.k_group) : kStagedRows;
    switch (lane_id() % 4) {
      case 0: return {job.k, codes.k_codes, kStagedRows, part};
      case 1: return {codes.ks, codes.k_scales, group, part + codes.k_codes};
      case 2: return {job.v, codes.v_codes, kStagedRows, v};
      default: return {codes.vs, codes.v_scales, kStagedRows, v + codes.v_codes};
    }
  }

  __device__ void stage(const Job& job, uint32_t part_bytes, const Stretch& stretch, const Tile& tile, int32_t span,
                        int32_t id) {
    const int32_t row = tile.first + slot_, in_page = row - page_index(job, row) * job.page_rows;
    const bool wanted = stretch.rows > 0 && lane_id() < 4 * kStagedParts && lies_well(job, tile, row, in_page);
    const uint32_t parts = __ballot_sync(~0u, wanted);
    const uint32_t full = shared_.place_full(ring_.at), to = shared_.place(ring_.at, params_) + stretch.to;
    const uint32_t bytes = wanted ? stretch.bytes : 0;
    const std::byte* from = page(job, id) + stretch.plane;
    // In place of a division: a page has few groups of rows.
    for (auto end = stretch.rows; bytes > 0 && end <= static_cast<uint32_t>(in_page); end += stretch.rows) {
      from += bytes;
    }

    mbarrier_wait(shared_.place_empty(ring_.at), ring_.parity ^ 1);
    StagedTile& staged = shared_.staged_tile(ring_.at);
    if (lane_id() == 0) {
      staged.tile = tile;
      staged.span = span;
      staged.parts = parts;
    }
    if (lane_id() < 4 * kStagedParts && lane_id() % 4 == 0) staged.pages[lane_id() / 4] = id;
    __syncwarp();
#if __CUDA_ARCH__ >= 900
    // One arrival tells what all lanes have stored, and how many bytes the copies are yet to deliver.
    if (lane_id() == 0) {
      hopper::barrier_arrive_expect(full, static_cast<uint32_t>(__popc(parts)) / 4 * part_bytes);
    }
    __syncwarp();
    if (bytes > 0) hopper::copy_bulk(to, from, bytes, full);
#else
#pragma unroll 1
    for (int32_t i = 0; i < 4 * kStagedParts; ++i) {
      const auto* source =
          reinterpret_cast<const std::byte*>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(from), i));
      const uint32_t target = __shfl_sync(~0u, to, i), end = __shfl_sync(~0u, bytes, i);
      for (auto at = static_cast<uint32_t>(lane_id()) * 16; at < end; at += 512) {
        copy_async_16(target + at, source + at, true);
      }
    }
    arrive_full(full);
#endif
    ring_.advance(params_.places);
  }

  const Params& params_;
  const Shared<S>& shared_;
  const int32_t slot_ = lane_id() / 4 % kStagedParts * kStagedRows;  // of a tile: where this lane's part begins
  RingCursor ring_;
};

}  // namespace pare::cuda::decode
