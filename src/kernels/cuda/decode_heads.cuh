// What the attending warps do of heads() (row_ops.h) before they attend, where the launch brings that along
// (DecodeOptions::heads). The arithmetic, and so the bits, are those of heads().
//
// A block with one job, as those of short contexts and small batches are, makes that job's queries and the step's rows
// in it (kJobDirect), and in shared memory at once. Any other makes all heads of the launch, in memory: several blocks
// then write the same to one place.
#pragma once

#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/heads.cuh"

namespace pare::cuda::decode {

template <typename T, typename S>
class MakeHeads {
 public:
  __device__ MakeHeads(const Params& params, const Shared<S>& shared)
      : args_(params.heads), shared_(shared), lanes_(lanes_of_head(args_.head_dim)), lane_(lane_id() % lanes_) {}

  // Called by all attending warps. A rehearsal reads norm weights alone and writes nothing (Attend::run).
  __device__ void run(const Job& job, const Column* columns, bool rehearsing) const {
    const bool direct = rehearsing || job.is(kJobDirect);
    const int in_warp = 32 / lanes_, groups = kAttendWarps * in_warp;
    const int tasks = rehearsing ? groups
                      : direct   ? S::kColumns + 2 * max(0, job.end_row() - job.fresh_row())
                                 : static_cast<int>(args_.rows) * heads_of_row(args_);
    const int group = static_cast<int>(threadIdx.x) / 32 * in_warp + lane_id() / lanes_;
    // Whole warps.
#pragma unroll 1
    for (int first = group - lane_id() / lanes_; first < tasks; first += groups) {
      const int task = first + lane_id() / lanes_;
      const bool there = !rehearsing && task < tasks;
      const Place place =
          direct ? place_of_job(job, columns, min(task, tasks - 1)) : place_of_launch(min(task, tasks - 1));
      const bool query = place.head < args_.n_heads, value = place.head >= args_.n_heads + args_.n_kv_heads;
      RawHead<1, float> raw{};
      Angles<1> angles{};
      T* memory = nullptr;
      if (!rehearsing) {
        load_head(args_, place.t, place.head, lane_, lanes_, &raw);
        load_angles(args_, place.t, lane_, lanes_, true, &angles);
        if (!query) {
          const int32_t dst = args_.dst[place.t];
          const RowFormat& format = args_.formats[place.g];  // of zone full, whose rows are of the queries' type
          if (dst >= 0) memory = row_of<T>(args_, value ? format.v : format.k, format, dst);
        } else if (!direct) {
          memory = static_cast<T*>(args_.q_out) + (place.t * args_.n_heads + place.head) * args_.head_dim;
        }
      }
      Head<1> head = transform_head(args_, place.head, raw, angles, lane_, lanes_);
      if (!there) continue;
      if (place.shared != 0) {
        if (place.empty) head = {};
        store_shared(place, head);
      }
      if (memory != nullptr) store_head(memory, args_, lane_, lanes_, head);
    }
  }

 private:
  // Which head (load_head) of which row, and where it goes in shared memory: row `row` of what begins at `shared`.
  struct Place {
    int64_t t;
    int head, g;      // g: KV head of keys and values
    uint32_t shared;  // 0: nowhere
    int32_t row;
    bool empty;  // zeros instead
  };

  __device__ Place place_of_launch(int task) const {
    const int heads = heads_of_row(args_), head = task % heads;
    return {task / heads, head, (head - args_.n_heads) % args_.n_kv_heads, 0, 0, false};
  }
  // First the columns, then K and V of each row.
  __device__ Place place_of_job(const Job& job, const Column* columns, int task) const {
    if (task < S::kColumns) {
      const Column& column = columns[task];  // a padding column names row 0 and head 0, which are there
      return {column.t, column.head, 0, shared_.address(shared_.queries(0)), task, column.part == nullptr};
    }
#ifdef PARE_FAULT_DECODE_DIRECT_ROW
    const int32_t row = job.fresh_row() + (task - S::kColumns) / 2 + 1;
#else
    const int32_t row = job.fresh_row() + (task - S::kColumns) / 2;
#endif
    const bool value = (task - S::kColumns) % 2 != 0;
    const int32_t stage = row / S::kTileRows - job.first_row() / S::kTileRows;
    return {job.q_row + (row - job.new_row),
            args_.n_heads + (value ? args_.n_kv_heads : 0) + job.g,
            job.g,
            shared_.address(value ? shared_.values(stage) : shared_.keys(stage)),
            row % S::kTileRows,
            false};
  }

  __device__ void store_shared(const Place& to, const Head<1>& head) const {
    const PairPlace pair = place_of(lane_, args_.head_dim, args_.rot);
    if (!pair.present) return;
    const uint32_t row = to.shared + static_cast<uint32_t>(to.row) * S::kRowBytes;
    store_shared(row + chunk_offset(to.row, pair.low / 8), head.low[0]);
    store_shared(row + chunk_offset(to.row, pair.high / 8), head.high[0]);
  }
  __device__ static void store_shared(uint32_t to, const Eight& e) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(pack_two(e.v[0], e.v[1], T{})),
                 "r"(pack_two(e.v[2], e.v[3], T{})), "r"(pack_two(e.v[4], e.v[5], T{})),
                 "r"(pack_two(e.v[6], e.v[7], T{}))
                 : "memory");
  }

  const HeadsArgs& args_;
  const Shared<S>& shared_;
  const int lanes_, lane_;
};

}  // namespace pare::cuda::decode
