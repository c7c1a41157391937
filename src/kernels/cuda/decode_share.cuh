// Dealing of work where KV heads keep different widths: every block takes a stretch of the launch's (item, KV head)
// pairs that costs as much as the others', up to one pair. Costs are bytes of rows, and a constant for what a pair
// costs beyond them; heads that keep nothing cost next to nothing. Which block takes a pair changes no bit of its
// result.
#pragma once

#include "kernels/cuda/decode_plan.cuh"

namespace pare::cuda::decode {

// Pairs [begin, end): item * K + head.
struct Share {
  uint32_t begin, end;
};

inline constexpr int64_t kPairCost = 64 << 10, kAbsentCost = 1 << 10;

// What items cost: something for each, and bits a row.
struct Cost {
  int64_t fixed = 0, row_bits = 0;
  __device__ void operator+=(const Cost& other) {
    fixed += other.fixed;
    row_bits += other.row_bits;
  }
  __device__ int64_t of(int64_t rows) const { return fixed + rows * row_bits / 8; }
};
__device__ inline Cost head_cost(const RowFormat& f) {
  if (f.v_width == 0) return {kAbsentCost, 0};
  int64_t bits = int64_t{f.k_width} * codec_bits(f.k_codec) + int64_t{f.v_width} * codec_bits(f.v_codec);
  if (is_quantized(f.k_codec)) bits += int64_t{f.k_width} * 32 / f.k_group;
  if (is_quantized(f.v_codec)) bits += int64_t{f.v_width} * 32 / f.v_group;
  return {kPairCost, bits};
}

// The runs of a launch laid end to end, by cost. Called by one whole warp. What a row costs follows from the zone
// alone, and is found once: the lanes read the formats of a zone's heads together.
class ShareOut {
 public:
  __device__ ShareOut(const Params& params, int32_t n_runs) : params_(params), n_runs_(n_runs) {
#pragma unroll
    for (int32_t zone = 0; zone < kZones; ++zone) {
      for (int32_t r0 = 0; r0 < n_runs_ && !used_[zone]; r0 += 32) {
        const int32_t r = r0 + lane_id();
        used_[zone] = __any_sync(~0u, r < n_runs_ && params_.plan.runs[r].zone == zone) != 0;
      }
      for (int32_t g = lane_id(); used_[zone] && g < static_cast<int32_t>(heads()); g += 32) {
        cost_[zone] += head_cost(format(zone, g));
      }
      for (int32_t step = 16; step > 0; step /= 2) {
        cost_[zone].fixed += __shfl_xor_sync(~0u, cost_[zone].fixed, step);
        cost_[zone].row_bits += __shfl_xor_sync(~0u, cost_[zone].row_bits, step);
      }
    }
  }

  __device__ int64_t total() const {
    int64_t sum = 0;
#pragma unroll 1
    for (int32_t r = lane_id(); r < n_runs_; r += 32) sum += run_cost(r);
    for (int32_t step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    return sum;
  }

  // The first pair whose middle lies at or beyond `target`; grows with target.
  __device__ uint32_t first_pair(int64_t target) const {
    int64_t before = 0;
#pragma unroll 1
    for (int32_t r0 = 0; r0 < n_runs_; r0 += 32) {
      const int32_t r = r0 + lane_id();
      const int64_t end = before + sum_to_lane(r < n_runs_ ? run_cost(r) : 0);
      const uint32_t beyond = __ballot_sync(~0u, r < n_runs_ && end > target);
      if (beyond != 0) {
        const int32_t lane = __ffs(static_cast<int32_t>(beyond)) - 1;
        const int64_t begin = lane == 0 ? before : __shfl_sync(~0u, end, lane - 1);
        return pair_of(r0 + lane, target - begin);
      }
      before = __shfl_sync(~0u, end, 31);
    }
    return static_cast<uint32_t>(params_.plan.item_prefix[n_runs_]) * heads();
  }

 private:
  static constexpr int32_t kZones = 3;  // full, mid, sum: those of the kernels that deal by bytes

  __device__ static int64_t sum_to_lane(int64_t x) {
    for (int32_t step = 1; step < 32; step *= 2) {
      const int64_t left = __shfl_up_sync(~0u, x, step);
      if (lane_id() >= step) x += left;
    }
    return x;
  }
  __device__ uint32_t heads() const { return static_cast<uint32_t>(params_.layer.kv.n_kv_heads); }
  __device__ int32_t items(int32_t r) const { return params_.plan.item_prefix[r + 1] - params_.plan.item_prefix[r]; }
  __device__ const RowFormat& format(int32_t zone, int32_t g) const {
    const KvView& kv = params_.layer.kv;
    return kv.formats[(static_cast<int64_t>(zone) * kv.n_kv_layers + params_.layer.kv_layer) * kv.n_kv_heads + g];
  }
  // All items of a run count as equal.
  __device__ static int64_t item_rows(const Run& run, int32_t n_items) { return n_items > 0 ? run.rows / n_items : 0; }
  __device__ Cost zone_cost(int32_t zone) const { return zone == 0 ? cost_[0] : zone == 1 ? cost_[1] : cost_[2]; }
  __device__ int64_t run_cost(int32_t r) const {
    const Run run = params_.plan.runs[r];
    return items(r) * zone_cost(run.zone).of(item_rows(run, items(r)));
  }

  // As first_pair, `target` counted from the start of run r, which costs more than that.
  __device__ uint32_t pair_of(int32_t r, int64_t target) const {
    const Run run = params_.plan.runs[r];
    const int64_t rows = item_rows(run, items(r)), cost = zone_cost(run.zone).of(rows), item = target / cost;
    const auto first = static_cast<uint32_t>(params_.plan.item_prefix[r] + item) * heads();
    int64_t before = item * cost;
#pragma unroll 1
    for (uint32_t g0 = 0; g0 < heads(); g0 += 32) {
      const uint32_t g = g0 + static_cast<uint32_t>(lane_id());
      const int64_t head = g < heads() ? head_cost(format(run.zone, static_cast<int32_t>(g))).of(rows) : 0;
      const int64_t end = before + sum_to_lane(head);
      const uint32_t reached = __ballot_sync(~0u, g < heads() && end - head + head / 2 >= target);
      if (reached != 0) return first + g0 + static_cast<uint32_t>(__ffs(static_cast<int32_t>(reached))) - 1;
      before = __shfl_sync(~0u, end, 31);
    }
    return first + heads();
  }

  const Params& params_;
  const int32_t n_runs_;
  bool used_[kZones] = {};
  Cost cost_[kZones];
};

__device__ inline Share block_share(const Params& params, int32_t n_runs) {
  const ShareOut out(params, n_runs);
  const int64_t total = out.total(), blocks = gridDim.x, block = blockIdx.x;
  const auto n_pairs = static_cast<uint32_t>(params.plan.item_prefix[n_runs] * params.layer.kv.n_kv_heads);
  return {block == 0 ? 0 : out.first_pair(total * block / blocks),
          block + 1 == blocks ? n_pairs : out.first_pair(total * (block + 1) / blocks)};
}

}  // namespace pare::cuda::decode
