// What the roles of the decode kernel share: parameters, jobs, the walk over a job's tiles, and shared memory.
//
// A block has three kinds of warps, or four. One plans: it resolves the block's work items ahead of time into jobs in
// shared memory, so that no other warp follows indices through global memory. Two load: they keep rings of K and V
// tiles filled, tiles ahead and across the borders of jobs. Eight attend to what is there. Where rows may be quantized,
// up to four load, and write their values into the tiles in 16 bits; then one more stages: it walks the tiles for them,
// and keeps codes on their way to shared memory, tiles ahead of those that are unpacked.
#pragma once

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_launch.h"

namespace pare::cuda::decode {

inline constexpr int32_t kAttendWarps = 8;
inline constexpr int32_t kAttendThreads = 32 * kAttendWarps;
// The attending warps among themselves; and towards each other warp when queries and new rows are in memory: the
// planning warp, and the loading warps from kNewRowsBarrier on. None of those may wait for another: one may be tiles
// ahead.
inline constexpr uint32_t kAttendBarrier = 1, kQueriesBarrier = 2, kNewRowsBarrier = 3;
__device__ inline int32_t lane_id() { return static_cast<int32_t>(threadIdx.x) % 32; }

enum : uint32_t {
  kJobPicked = 1,
  kJobScored = 2,
  kJobCausal = 4,
  kJobWeighted = 8,  // rows have log weights, which are wanted
  kJobLastPass = 16,
  kJobNone = 32,    // no job: the block's work is done
  kJobDirect = 64,  // the block's only one: its heads go to shared memory directly (decode_heads.cuh)
};

// One pass over an item for one KV head: the query rows that go through its K and V together. They are columns [first,
// first + count) of the item's (query row, head of the group) pairs; in a picked zone, where each query row reads rows
// of its own, the heads of one query row.
struct Job {
  const std::byte* pool;
  const int32_t* pages;
  uint64_t k, v, lw;  // planes
  uint32_t page_bytes, flags;
  int32_t k_width, v_width, chan, zone, page_rows, page_shift, span, g;  // page_shift: log2 of page_rows, or -1
  int32_t row0, row_end, sink, window;                                   // zone rows of the run
  int32_t unit_spans, unit_begin, unit_end, unit0, span_begin, span_end;
  int32_t member0, n_members;
  // Of the only member: its sequence, its partials in all, its first slot, its query rows and the first of these.
  int32_t seq, n_parts, part0, n_q, q_row;
  int32_t first, count;
  int32_t min_limit, max_limit, min_pos, max_pos;  // over the columns, in zone rows
  int32_t new_row;                                 // from here on, rows are of this step: query row q_row and so on
  const Range* picks;
  int32_t n_picks;

  __device__ bool is(uint32_t flag) const { return (flags & flag) != 0; }
  __device__ bool absent() const { return v_width == 0; }
  __device__ bool reads_keys() const { return !is(kJobScored) && k_width > 0; }
  // The zone rows of its units that are attended, where nothing is picked; from fresh_row on they are of this step.
  __device__ int32_t first_row() const { return max(row0, unit_begin * unit_spans * span); }
  __device__ int32_t end_row() const { return min(min(row_end, max_limit), unit_end * unit_spans * span); }
  __device__ int32_t fresh_row() const { return max(new_row, first_row()); }
  // Whether some column attends zone row j, or a row of [j0, j1); whether all columns attend all of [j0, j1).
  __device__ bool any_sees(int32_t j) const { return j >= row0 && j < max_limit && (j < sink || min_pos - j < window); }
  __device__ bool any_sees(int32_t j0, int32_t j1) const {
    return j1 > row0 && j0 < max_limit && (j0 < sink || min_pos - (j1 - 1) < window);
  }
  __device__ bool all_see(int32_t j0, int32_t j1) const {
    return j0 >= row0 && j1 <= min_limit && (j1 <= sink || max_pos - j0 < window);
  }
};

// A query row and head of a job.
struct Column {
  float* part;     // of unit 0 of the run; null: the column is padding or an inactive head
  int64_t stride;  // floats from a unit's part to the next
  int32_t t, head;
  int32_t pos, limit;  // in zone rows
  int32_t direct;      // the row attends this unit only: it is finished at once and leaves no partial
};

// How a job's rows are quantized; in kernels for such rows (Shape::kCoded).
struct Codes {
  uint64_t ks, vs;  // planes
  int32_t k_group, v_group;
  // Bytes of kStagedRows rows: codes, and scales, of K those of one group; 0: not quantized. One behind the other they
  // are a part of a staged tile.
  uint32_t k_codes, k_scales, v_codes, v_scales;
  Codec k, v;
  __host__ __device__ uint32_t part_bytes() const { return k_codes + k_scales + v_codes + v_scales; }
};
inline constexpr int32_t kStagedRows = 32, kStagedParts = 4;  // a part is a loading warp's, of a tile of 128 rows
__host__ __device__ inline Codes codes_of(const RowFormat& f) {
  Codes codes{};
  codes.ks = f.ks;
  codes.vs = f.vs;
  codes.k_group = f.k_group;
  codes.v_group = f.v_group;
  codes.k = f.k_codec;
  codes.v = f.v_codec;
  if (is_quantized(f.k_codec)) {
    codes.k_codes = static_cast<uint32_t>(kStagedRows / 8 * f.k_width * codec_bits(f.k_codec));
    codes.k_scales = uint32_t{f.k_width} * 4;
  }
  if (is_quantized(f.v_codec)) {
    codes.v_codes = static_cast<uint32_t>(kStagedRows / 8 * f.v_width * codec_bits(f.v_codec));
    codes.v_scales = static_cast<uint32_t>(kStagedRows * (f.v_width / f.v_group) * 4);
  }
  return codes;
}

// Partials of a sequence in all: what arrivals count up to.
__device__ inline int32_t partials_of(const SegmentPlan& plan, const SeqStep& seq) {
  int32_t n = 0;
  for (int32_t f = 0; f < seq.n_folds; ++f) n += plan.folds[seq.fold0 + f].n_parts;
  return n;
}

// What is loaded and attended together. Slot s of a tile is number first + s, and holds a row where that is in [lo,
// hi). Numbers are zone rows; in a picked zone they count the rows of a span's picks laid end to end.
enum : int32_t {
  kTileWhole = 1,  // every column attends every slot
  kTileEndsSpan = 2,
  kTileEndsUnit = 4,
  kTileEndsJob = 8,
};
struct Tile {
  int32_t first, lo, hi, flags;
};

// A tile in the ring of staged ones: which parts are in its place (bits 4 p to 4 p + 3), and every part's page.
struct StagedTile {
  Tile tile;
  int32_t span;
  uint32_t parts;
  int32_t pages[kStagedParts];
};
inline constexpr int32_t kMaxPlaces = 4;

// The sizes of a kernel for head dimensions up to kMaxDim and passes of up to 8 kColumnTiles query rows, and where
// things lie in shared memory, by byte offset. Chunk c of 16 bytes of row r lies at chunk c ^ (r % 8), so that the rows
// of an 8 x 8 matrix lie in different banks. What comes last depends on numbers of stages and terms.
template <int kMaxDim, int kColumnTiles, Rows kRows = Rows::kPlain>
struct Shape {
  static constexpr bool kCoded = kRows == Rows::kCoded;    // some rows may be quantized
  static constexpr bool kWeighed = kRows != Rows::kPlain;  // work is dealt by its bytes
  static constexpr int kTiles = kColumnTiles;
  static constexpr int kColumns = 8 * kColumnTiles;
  static constexpr int kTileRows = kMaxDim <= 128 ? 128 : 64;
  static constexpr bool kStaged = kCoded && kTileRows == 128 && kColumnTiles <= 2;  // codes are, tiles ahead
  static constexpr int kLoadWarps = kStaged ? 4 : 2;  // each loads its part of a tile's rows
  static constexpr int kBlockThreads = 32 * (kAttendWarps + kLoadWarps + (kStaged ? 1 : 0) + 1);
  static_assert(!kStaged || (kLoadWarps == kStagedParts && kTileRows == kStagedParts * kStagedRows));
  // As registers allow, so that what the rare merges need does not push out what every tile needs: partials of a row
  // read together by the fold of a sequence, pairs of channels of a lane in the merge of an octet.
  static constexpr int kFoldAhead = kCoded || kMaxDim > 128 ? 4 : 8, kMergePairs = kCoded ? 1 : 2;
  static constexpr int kSteps = kMaxDim / 16;
  static constexpr int kChannelTiles = (kMaxDim / 16 + kAttendWarps - 1) / kAttendWarps;  // of a warp
  static constexpr int kKeyWarps = kTileRows / 16;                                        // warps that have keys
  static constexpr int kJobs = kColumnTiles <= 2 ? 4 : 2;
  static constexpr int kMaxStages = 8;
  static constexpr uint32_t kRowBytes = 2 * kMaxDim;
  static constexpr uint32_t kPlaneBytes = kTileRows * kRowBytes;
  static constexpr uint32_t kTermBytes = kColumns * kRowBytes;

  static constexpr uint32_t kWeights = 0;
  static constexpr uint32_t kMaxima = kWeights + kColumnTiles * kTileRows * 16;
  static constexpr uint32_t kSums = kMaxima + kColumns * kAttendWarps * 4;
  static constexpr uint32_t kUnits = kSums + kColumns * kAttendWarps * 4;
  static constexpr uint32_t kColumnTable = kUnits + 4 * kColumns * 4;
  static constexpr uint32_t kJobTable = kColumnTable + kJobs * kColumns * sizeof(Column);
  static constexpr uint32_t kTileTable = kJobTable + kJobs * (sizeof(Job) + 15) / 16 * 16;
  static constexpr uint32_t kSources = kTileTable + kMaxStages * sizeof(Tile);
  static constexpr uint32_t kBarriers = kSources + kTileRows * 16;
  static constexpr uint32_t kFlags = kBarriers + (4 * kMaxStages + 3 * kJobs) * 8;
  static constexpr uint32_t kTerms = kFlags + 16;
  static constexpr uint32_t kCodesTable = kTerms + (kJobs * 4 + 15) / 16 * 16;
  static constexpr uint32_t kStagedTable = kCodesTable + (kCoded ? kJobs * sizeof(Codes) : 0);
  static constexpr uint32_t kStagedBarriers = kStagedTable + (kStaged ? kMaxPlaces * sizeof(StagedTile) : 0);
  static constexpr uint32_t kCodesEnd = kStagedBarriers + (kStaged ? 2 * kMaxPlaces * 8 : 0);
  static_assert(kStagedTable % 8 == 0 && kStagedBarriers % 8 == 0);
  static constexpr uint32_t kQueries = (kCodesEnd + 1023) / 1024 * 1024;
  static constexpr uint32_t kStageBytes = 2 * kPlaneBytes + 1024;  // K, V, row numbers, log weights
  static_assert(2 * kTileRows * 4 <= 1024);

  __host__ __device__ static constexpr uint32_t rings(int32_t terms) {
    return kQueries + static_cast<uint32_t>(kJobs * terms) * kTermBytes;
  }
  __host__ __device__ static constexpr uint32_t bytes(int32_t stages, int32_t terms) {
    return rings(terms) + static_cast<uint32_t>(stages) * kStageBytes;
  }
};

// Where 16 bytes of a row lie in it.
__device__ inline uint32_t chunk_offset(int32_t row, int32_t chunk) {
  return static_cast<uint32_t>(chunk ^ (row & 7)) * 16;
}

// A position in a ring and the parity of its round.
struct RingCursor {
  int32_t at = 0;
  uint32_t parity = 0;
  __device__ void advance(int32_t size) {
    if (++at == size) {
      at = 0;
      parity ^= 1;
    }
  }
};

// The shared memory of a block, with its barriers. A full barrier completes when a slot's content is there, an empty
// one when everybody is done with it.
template <typename S>
class Shared {
 public:
  __device__ Shared(const Params& params, std::byte* base)
      : base_(base), address_(shared_address(base)), rings_(S::rings(params.query_terms)) {
    query_bytes_ = static_cast<uint32_t>(params.query_terms) * S::kTermBytes;
  }

  template <typename T>
  __device__ T* as(uint32_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }
  __device__ uint32_t address(uint32_t offset) const { return address_ + offset; }
  __device__ uint32_t keys_full(int32_t stage) const { return barrier(stage); }
  __device__ uint32_t keys_empty(int32_t stage) const { return barrier(S::kMaxStages + stage); }
  __device__ uint32_t values_full(int32_t stage) const { return barrier(2 * S::kMaxStages + stage); }
  __device__ uint32_t values_empty(int32_t stage) const { return barrier(3 * S::kMaxStages + stage); }
  __device__ uint32_t job_full(int32_t job) const { return barrier(4 * S::kMaxStages + job); }
  __device__ uint32_t job_empty(int32_t job) const { return barrier(4 * S::kMaxStages + S::kJobs + job); }

  __device__ uint32_t queries_full(int32_t job) const { return barrier(4 * S::kMaxStages + 2 * S::kJobs + job); }

  // Of the ring of staged tiles, which lie behind the other rings.
  __device__ uint32_t place_full(int32_t place) const {
    return address_ + S::kStagedBarriers + static_cast<uint32_t>(place) * 8;
  }
  __device__ uint32_t place_empty(int32_t place) const { return place_full(kMaxPlaces + place); }
  __device__ StagedTile& staged_tile(int32_t place) const { return as<StagedTile>(S::kStagedTable)[place]; }
  __device__ uint32_t place(int32_t at, const Params& params) const {
    return address(keys(params.stages)) + static_cast<uint32_t>(at) * params.place_bytes;
  }

  __device__ Job& job(int32_t at) const { return as<Job>(S::kJobTable)[at]; }
  // 16-bit values that a query of the job is the sum of: 1 or 2. Known with its queries.
  __device__ int32_t& terms(int32_t job) const { return as<int32_t>(S::kTerms)[job]; }
  __device__ Codes& codes(int32_t job) const { return as<Codes>(S::kCodesTable)[job]; }
  __device__ Column* columns(int32_t job) const { return as<Column>(S::kColumnTable) + job * S::kColumns; }
  __device__ Tile& tile(int32_t stage) const { return as<Tile>(S::kTileTable)[stage]; }
  __device__ uint32_t queries(int32_t job) const { return S::kQueries + static_cast<uint32_t>(job) * query_bytes_; }
  __device__ uint32_t keys(int32_t stage) const { return rings_ + static_cast<uint32_t>(stage) * S::kStageBytes; }
  __device__ uint32_t values(int32_t stage) const { return keys(stage) + S::kPlaneBytes; }
  __device__ uint32_t rows(int32_t stage) const { return values(stage) + S::kPlaneBytes; }
  __device__ uint32_t log_weights(int32_t stage) const { return rows(stage) + S::kTileRows * 4; }

 private:
  __device__ uint32_t barrier(int32_t index) const {
    return address_ + S::kBarriers + static_cast<uint32_t>(index) * 8;
  }
  std::byte* base_;
  uint32_t address_;
  uint32_t rings_, query_bytes_;
};

// Arrivals that complete a full barrier: for each filling warp its lanes' copies, and one for its plain stores.
inline constexpr uint32_t kFullArrivals = 33;

// Tells that this lane's copies, and before them all plain stores of its warp, are on their way to be complete.
__device__ inline void arrive_full(uint32_t barrier) {
  mbarrier_arrive_after_copies(barrier);
  __syncwarp();
  if (lane_id() == 0) mbarrier_arrive(barrier);
}
__device__ inline void arrive_empty(uint32_t barrier) {
  __syncwarp();
  if (lane_id() == 0) mbarrier_arrive(barrier);
}

// Calls on_job(job, its place) for the block's jobs in order.
template <typename S, typename OnJob>
__device__ inline void walk_jobs(const Shared<S>& shared, OnJob on_job) {
  RingCursor ring;
  while (true) {
    mbarrier_wait(shared.job_full(ring.at), ring.parity);
    const Job& job = shared.job(ring.at);
    if (job.is(kJobNone)) return;
    on_job(job, ring.at);
    arrive_empty(shared.job_empty(ring.at));
    ring.advance(S::kJobs);
  }
}

}  // namespace pare::cuda::decode
