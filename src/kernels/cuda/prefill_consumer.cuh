// A consumer warpgroup of the Hopper prefill kernel: 64 query rows of an item against its stages of keys.
//   S = Q K^T goes to registers, the softmax happens there, and O += P V takes P from registers. While a consumer is in
//   its softmax, the tensor cores have its own O += P V of the stage before, and the other consumer's products: the two
//   take turns in handing out work.
#pragma once

#include "kernels/cuda/prefill_shared.cuh"

namespace pare::cuda::prefill {

template <int D, typename T>
class Consumer {
  using S = Shape<D>;
  static constexpr int kLogits = S::kKeys / 2, kOutputs = D / 2;  // fp32 accumulators of a thread

 public:
  __device__ Consumer(const Arguments& args, Shared<D>& shared)
      : args_(args),
        sh_(shared),
        index_(static_cast<int>(threadIdx.x) / kWarpgroup - 1),
        row_(index_ * 64 + static_cast<int>(threadIdx.x) % kWarpgroup / 32 * 16 + lane() / 4),
        factor_(args.cap_log2 == 0.0f ? args.scale_log2 : 1.0f) {}

  __device__ void run() {
    if (index_ == 1) hopper::named_barrier_arrive(kBarTurn + 0, 2 * kWarpgroup);  // the first turn is consumer 0's
    for (int n = 0;; ++n) {
      wait(sh_.q_full[query_.slot], query_.parity);
      if (sh_.items[n & 1].end) return;
      run_item(n & 1);
      query_.advance();
    }
  }

 private:
  // One lane of each consumer warp gives a slot back.
  __device__ static void release(uint64_t& empty) {
    if (lane() == 0) arrive(empty);
  }

  __device__ void run_item(int parity) {
    float logits[kLogits], out[kOutputs];
    uint32_t weights[kLogits / 2];
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) out[i] = 0.0f;
    max_[0] = max_[1] = -INFINITY;
    sum_[0] = sum_[1] = 0.0f;

    wait(sh_.k_full[k_.slot], k_.parity);
    hopper::wgmma_fence();
    multiply_queries(logits);
    hopper::wgmma_wait<0>();
    hopper::pin(logits);
    release(sh_.k_empty[k_.slot]);
    uint32_t flags = sh_.infos[info_.slot].flags;
    float scale[2];
    softmax(logits, flags, parity, scale);
    round_weights(logits, weights);
    while ((flags & kLast) == 0) {
      k_.advance();
      wait(sh_.k_full[k_.slot], k_.parity);
      hopper::named_barrier_sync(kBarTurn + index_, 2 * kWarpgroup);
      hopper::wgmma_fence();
      multiply_queries(logits);
      wait(sh_.v_full[v_.slot], v_.parity);
      if ((flags & kClear) != 0) clear_unattended(parity);
      multiply_values(weights, out);
      hopper::named_barrier_arrive(kBarTurn + (index_ ^ 1), 2 * kWarpgroup);
      hopper::wgmma_wait<1>();
      hopper::pin(logits);
      release(sh_.k_empty[k_.slot]);
      info_.advance();
      flags = sh_.infos[info_.slot].flags;
      softmax(logits, flags, parity, scale);
      wait_and_rescale(out, scale);
      release(sh_.v_empty[v_.slot]);
      v_.advance();
      round_weights(logits, weights);
    }
    wait(sh_.v_full[v_.slot], v_.parity);
    if ((flags & kClear) != 0) clear_unattended(parity);
    hopper::wgmma_fence();
    multiply_values(weights, out);
    hopper::wgmma_wait<0>();
    hopper::pin(out);
    release(sh_.v_empty[v_.slot]);
    k_.advance();
    v_.advance();
    info_.advance();
    store(out, parity);
  }

  // logits = Q K^T of K's current slot; asynchronous.
  __device__ void multiply_queries(float (&logits)[kLogits]) {
    const hopper::Operand<S::kSwizzle> k(hopper::shared_address(sh_.k[k_.slot]), 16, 8 * S::kSwizzle);
    const hopper::Operand<S::kSwizzle> q(hopper::shared_address(sh_.q[query_.slot]) + index_ * 64 * S::kSwizzle, 16,
                                         8 * S::kSwizzle);
    constexpr int kSteps = S::kSwizzle / 32;  // of 16 channels, in a plane
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      const uint64_t b = k.at(i / kSteps * S::kKeyPlane + i % kSteps * 32);
      hopper::wgmma<T>(logits, q.at(i / kSteps * S::kQueryPlane + i % kSteps * 32), b, i > 0);
    }
    hopper::wgmma_commit();
  }

  // out += P V of V's current slot; asynchronous.
  __device__ void multiply_values(const uint32_t (&weights)[kLogits / 2], float (&out)[kOutputs]) {
    const hopper::Operand<S::kSwizzle> v(hopper::shared_address(sh_.v[v_.slot]), S::kKeyPlane, 8 * S::kSwizzle);
#pragma unroll
    for (int i = 0; i < S::kGranules; ++i) {
      hopper::wgmma<T>(out, weights + 4 * i, v.at(i * kGranuleKeys * S::kSwizzle));
    }
    hopper::wgmma_commit();
  }

  // logits -> weights 2^(s - max), with max and sum brought up to date; scale: what earlier sums must be multiplied by.
  __device__ void softmax(float (&logits)[kLogits], uint32_t flags, int parity, float (&scale)[2]) {
    if (args_.cap_log2 != 0.0f) cap(logits);
    if ((flags & kMask) != 0) mask(logits, parity);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float m = max_[r];
#pragma unroll
      for (int i = 0; i < kLogits; i += 4) m = fmaxf(m, fmaxf(logits[i + 2 * r], logits[i + 2 * r + 1]));
      m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 1));
      m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 2));
      const float base = m == -INFINITY ? 0.0f : m * factor_;  // nothing attended yet: weights are 2^-inf
      scale[r] = exp2_fast(fmaf(max_[r], factor_, -base));
      max_[r] = m;
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kLogits; i += 4) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& s = logits[i + 2 * r + c];
          s = exp2_fast(fmaf(s, factor_, -base));
          sum += s;
        }
      }
      sum_[r] = fmaf(sum_[r], scale[r], sum);
    }
  }

  // Waits for O += P V. Most stages late in a long sequence bring no new maximum and nothing to rescale. The branch
  // also keeps the compiler from letting the softmax wait: it must be over before the condition, which asks for the
  // sums (they are never negative), is known.
  __device__ void wait_and_rescale(float (&out)[kOutputs], const float (&scale)[2]) const {
    if (__any_sync(kAllLanes, scale[0] != 1.0f || scale[1] != 1.0f || sum_[0] < 0.0f || sum_[1] < 0.0f)) {
      hopper::wgmma_wait<0>();
      hopper::pin(out);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) out[i] *= scale[i / 2 % 2];
    } else {
      hopper::wgmma_wait_all();
      hopper::pin(out);
    }
  }

  __device__ static void round_weights(const float (&logits)[kLogits], uint32_t (&weights)[kLogits / 2]) {
#pragma unroll
    for (int i = 0; i < kLogits / 2; ++i) weights[i] = round_pair(logits[2 * i], logits[2 * i + 1]);
  }

  __device__ void cap(float (&logits)[kLogits]) const {
#pragma unroll
    for (int i = 0; i < kLogits; ++i) {
      const float power = exp2_fast(fminf(logits[i] * args_.scale_log2, 64.0f));
      logits[i] = args_.cap_log2 * (1.0f - __fdividef(2.0f, power + 1.0f));
    }
  }

  __device__ void mask(float (&logits)[kLogits], int parity) const {
    const StageInfo<S::kKeys>& info = sh_.infos[info_.slot];
    const int32_t sink = sh_.items[parity].sink;
    const int2 upper = sh_.row_keys[parity][row_], lower = sh_.row_keys[parity][row_ + 8];
#pragma unroll
    for (int i = 0; i < kLogits; i += 4) {
      const int2 keys = *reinterpret_cast<const int2*>(&info.key[2 * i + 2 * (lane() % 4)]);
      const auto hide = [&](float& s, int32_t key, int2 row) {
        if (key >= row.x || (key >= sink && key <= row.y)) s = -INFINITY;
      };
      hide(logits[i], keys.x, upper);
      hide(logits[i + 1], keys.y, upper);
      hide(logits[i + 2], keys.x, lower);
      hide(logits[i + 3], keys.y, lower);
    }
  }

  // V rows of the current slot that no row of the item attends become 0. Both consumers write the same zeros.
  __device__ void clear_unattended(int parity) {
    const StageInfo<S::kKeys>& info = sh_.infos[info_.slot];
    const ItemInfo& item = sh_.items[parity];
    const int at = static_cast<int>(threadIdx.x) % kWarpgroup;
    if (at < S::kKeys) {
      const int32_t key = info.key[at];
      bool attended = key < item.max_limit && (key < item.sink || key > item.min_lo);
      if (attended && !item.gap_free) {
        attended = false;
        for (int i = 0; i < kTileRows && !attended; ++i) {
          const int2 row = sh_.row_keys[parity][i];
          attended = key < row.x && (key < item.sink || key > row.y);
        }
      }
      if (!attended) {
#pragma unroll
        for (int c = 0; c < S::kRowChunks; ++c) {
          *reinterpret_cast<uint4*>(sh_.v[v_.slot] + S::chunk_offset(at, c, S::kKeyPlane)) = make_uint4(0, 0, 0, 0);
        }
      }
    }
    hopper::fence_async_proxy();
    hopper::named_barrier_sync(kBarConsumer + index_, kWarpgroup);
  }

  // Divides by the sums and writes the rows, through the item's query buffer, whose rows of this consumer it reuses.
  __device__ void store(const float (&out)[kOutputs], int parity) {
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = sum_[r];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      inverse[r] = sum == 0.0f ? 0.0f : 1.0f / sum;
      const int32_t to = sh_.row_out[parity][row_ + 8 * r];
      if (args_.lse != nullptr && lane() % 4 == 0 && to >= 0) {
        constexpr float kLn2 = 0.693147180559945309f;
        args_.lse[to] = sum == 0.0f ? -INFINITY : (max_[r] * factor_ + log2f(sum)) * kLn2;
      }
    }
    std::byte* rows = sh_.q[query_.slot];
    hopper::named_barrier_sync(kBarConsumer + index_, kWarpgroup);  // the whole warpgroup is done with the queries
#pragma unroll
    for (int i = 0; i < kOutputs; i += 4) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t at = S::chunk_offset(row_ + 8 * r, i / 4, S::kQueryPlane) + lane() % 4 * 4;
        *reinterpret_cast<uint32_t*>(rows + at) =
            round_pair(out[i + 2 * r] * inverse[r], out[i + 2 * r + 1] * inverse[r]);
      }
    }
    __syncwarp();
    auto* dst = static_cast<std::byte*>(args_.out);
    const int first = row_ - lane() / 4;
#pragma unroll
    for (int i = 0; i < 16 * S::kRowChunks / 32; ++i) {
      const int row = first + (i * 32 + lane()) / S::kRowChunks, chunk = (i * 32 + lane()) % S::kRowChunks;
      const int32_t to = sh_.row_out[parity][row];
      if (to < 0) continue;
      *reinterpret_cast<uint4*>(dst + static_cast<int64_t>(to) * (D * 2) + chunk * 16) =
          *reinterpret_cast<const uint4*>(rows + S::chunk_offset(row, chunk, S::kQueryPlane));
    }
    __syncwarp();
    release(sh_.q_empty[query_.slot]);
    release(sh_.item_empty[parity]);
  }

  __device__ static float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  __device__ static uint32_t round_pair(float a, float b) {
    uint32_t pair;
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    } else {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    }
    return pair;
  }

  const Arguments& args_;
  Shared<D>& sh_;
  const int index_, row_;  // which consumer; this thread's upper row of the item
  const float factor_;     // of logits, to powers of two
  float max_[2], sum_[2];  // of the upper and lower row; sums over this thread's columns only
  Ring<S::kStages> k_, v_;
  Ring<S::kInfos> info_;  // follows K
  Ring<S::kQueryBuffers> query_;
};

}  // namespace pare::cuda::prefill
