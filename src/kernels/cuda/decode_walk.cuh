// The walk over a job's tiles, by one whole warp.
#pragma once

#include "kernels/cuda/decode_plan.cuh"

namespace pare::cuda::decode {

__device__ inline int32_t page_index(const Job& job, int32_t row) {
  return job.page_shift >= 0 ? row >> job.page_shift : row / job.page_rows;
}
__device__ inline const std::byte* page(const Job& job, int32_t id) {
  return job.pool + static_cast<uint64_t>(static_cast<uint32_t>(id) & ~kHostPageBit) * job.page_bytes;
}

// Where the walk over a job's tiles stands: at tile `first` of the numbers [lo, hi) of a span.
struct Place {
  int32_t span, first, lo, hi;
};

template <typename S>
__device__ inline void open_span(const Job& job, Place& at) {
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
template <typename S>
__device__ inline bool seek(const Job& job, Place& at, int32_t end_span) {
  while (true) {
    for (; at.first < at.hi; at.first += S::kTileRows) {
      if (job.is(kJobPicked) || job.any_sees(max(at.first, at.lo), min(at.first + S::kTileRows, at.hi))) return true;
    }
    if (++at.span >= end_span) return false;
    open_span<S>(job, at);
  }
}

// The page of a slot, asked for a tile before it is needed. 0 where it is of no use.
__device__ inline int32_t page_of_slot(const Job& job, const Place& at, int32_t slot) {
  const int32_t row = at.first + slot;
  return job.is(kJobPicked) || row < at.lo || row >= at.hi ? 0 : job.pages[page_index(job, row)];
}

// Calls on_tile(job, tile, its span, the page of this lane's `slot` of it) for the job's tiles in order. Every unit has
// a tile, if an empty one. The job is const Job where its fields are wanted in registers, else const Job&.
template <typename S, typename J, typename OnTile>
__device__ inline void walk_tiles(J job, int32_t slot, OnTile on_tile) {
  for (int32_t unit = job.unit_begin; unit < job.unit_end; ++unit) {
    Place next{max(unit * job.unit_spans, job.span_begin), 0, 0, 0};
    const int32_t end_span = min((unit + 1) * job.unit_spans, job.span_end);
    open_span<S>(job, next);
    bool more = seek<S>(job, next, end_span);
    Place at = more ? next : Place{};
    int32_t id = page_of_slot(job, at, slot);
    do {
      if (more) {
        next.first += S::kTileRows;
        more = seek<S>(job, next, end_span);
      }
      const int32_t next_id = more ? page_of_slot(job, next, slot) : 0;
      Tile tile{at.first, at.lo, at.hi, 0};
      if (!more) tile.flags = kTileEndsUnit | (unit + 1 == job.unit_end ? kTileEndsJob : 0);
      if (!more || next.span != at.span) tile.flags |= kTileEndsSpan;
      on_tile(job, tile, at.span, id);
      at = next;
      id = next_id;
    } while (more);
  }
}

}  // namespace pare::cuda::decode
