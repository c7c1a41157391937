#include "kernels/cuda/decode_plan.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill_shared.cuh"
#include "sanitizer_controls.h"

namespace pare::cuda {
namespace {

using prefill::arrive;
using prefill::lane;
using prefill::Ring;
using prefill::wait;

// Unused where the kernels are empty.
[[maybe_unused]] constexpr int kSlots = 4;

struct Slot {
  int32_t value[32];
  int32_t round;
};

// All are initialized before any is used.
[[maybe_unused]] __device__ void init_barriers(uint64_t* barriers, int n, uint32_t arrivals) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < n; ++i) hopper::barrier_init(hopper::shared_address(&barriers[i]), arrivals);
    hopper::fence_barrier_init();
  }
  __syncthreads();
}

template <bool kRelayed>
__global__ void __launch_bounds__(kRelayed ? 96 : 64) mbarrier_kernel(int32_t* out, int32_t rounds) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ Slot slots[kSlots];
  __shared__ uint64_t barriers[4 * kSlots];
  uint64_t *full = barriers, *empty = barriers + kSlots;
  uint64_t *relayed_full = kRelayed ? empty + kSlots : full, *read = kRelayed ? relayed_full + kSlots : empty;
  init_barriers(barriers, 4 * kSlots, 1);
  const auto warp = threadIdx.x / 32;
  Ring<kSlots> ring;
  if (warp == 0) {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      wait(empty[ring.slot], ring.parity ^ 1);
      slots[ring.slot].value[lane()] = control_value(r, lane());
      if (lane() == 0) slots[ring.slot].round = r;
      __syncwarp();
      if (lane() == 0) arrive(full[ring.slot]);
    }
  } else if (warp == 1) {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      wait(relayed_full[ring.slot], ring.parity);
      out[r * 32 + lane()] = slots[ring.slot].value[31 - lane()] + slots[ring.slot].round;
      __syncwarp();
      if (lane() == 0) arrive(read[ring.slot]);
    }
  } else {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      wait(read[ring.slot], ring.parity ^ 1);
      if (lane() == 0 && r >= kSlots) arrive(empty[ring.slot]);
      wait(full[ring.slot], ring.parity);
      if (lane() == 0) arrive(relayed_full[ring.slot]);
    }
  }
#endif
}

__global__ void __launch_bounds__(128) named_barrier_kernel(int32_t* out, int32_t rounds) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr uint32_t kBarrier = 1, kThreads = 64;
  __shared__ int32_t question[32], answer[32];
  const auto warp = threadIdx.x / 32;
  if (warp == 0) {
    for (int32_t r = 0; r < rounds; ++r) {
      question[lane()] = control_value(r, lane());
      hopper::named_barrier_sync(kBarrier, kThreads);
      hopper::named_barrier_sync(kBarrier, kThreads);
      out[r * 32 + lane()] = answer[(lane() + 1) % 32];
    }
  } else if (warp == 1) {
    for (int32_t r = 0; r < rounds; ++r) {
      hopper::named_barrier_sync(kBarrier, kThreads);
      answer[lane()] = question[31 - lane()] + 1;
      hopper::named_barrier_sync(kBarrier, kThreads);
    }
  } else {
    int32_t sum = 0;
    for (int32_t r = 0; r < rounds; ++r) sum += control_value(r, lane());
    out[(rounds + warp - 2) * 32 + lane()] = sum;
  }
#endif
}

__global__ void __launch_bounds__(128) item_kernel(int32_t* out, int32_t rounds) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr uint32_t kBarrier = 1, kReaders = 2, kThreads = 32 * (1 + kReaders);
  __shared__ int32_t items[2];
  __shared__ uint64_t empty[2];
  init_barriers(empty, 2, kReaders);
  const auto warp = threadIdx.x / 32;
  Ring<2> ring;
  if (warp == 0) {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      wait(empty[ring.slot], ring.parity ^ 1);
      if (lane() == 0) items[ring.slot] = control_value(r, 0);
      __syncwarp();
      hopper::named_barrier_sync(kBarrier, kThreads);
    }
  } else if (warp <= kReaders) {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      hopper::named_barrier_sync(kBarrier, kThreads);
      out[(r * kReaders + warp - 1) * 32 + lane()] = items[ring.slot] + lane();
      __syncwarp();
      if (lane() == 0) arrive(empty[ring.slot]);
    }
  }
#endif
}

__global__ void __launch_bounds__(64) async_copy_kernel(uint4* out, const uint4* in, int32_t rounds) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ uint4 slots[kSlots][32];
  __shared__ uint64_t full[kSlots], empty[kSlots];
  init_barriers(full, kSlots, decode::kFullArrivals);
  init_barriers(empty, kSlots, 1);
  Ring<kSlots> ring;
  if (threadIdx.x < 32) {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      mbarrier_wait(shared_address(&empty[ring.slot]), ring.parity ^ 1);
      copy_async_16(shared_address(&slots[ring.slot][lane()]), in + r * 32 + lane(), true);
      decode::arrive_full(shared_address(&full[ring.slot]));
    }
  } else {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      mbarrier_wait(shared_address(&full[ring.slot]), ring.parity);
      out[r * 32 + lane()] = slots[ring.slot][31 - lane()];
      decode::arrive_empty(shared_address(&empty[ring.slot]));
    }
  }
#endif
}

__global__ void __launch_bounds__(64) bulk_copy_kernel(uint4* out, const uint4* in, int32_t rounds) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ __align__(128) uint4 slots[kSlots][32];
  __shared__ uint64_t full[kSlots], empty[kSlots];
  init_barriers(full, kSlots, 1);
  init_barriers(empty, kSlots, 1);
  Ring<kSlots> ring;
  if (threadIdx.x < 32) {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      wait(empty[ring.slot], ring.parity ^ 1);
      if (lane() == 0) {
        const uint32_t barrier = hopper::shared_address(&full[ring.slot]);
        hopper::barrier_arrive_expect(barrier, sizeof(slots[0]));
        hopper::copy_bulk(hopper::shared_address(slots[ring.slot]), in + r * 32, sizeof(slots[0]), barrier);
      }
      __syncwarp();
    }
  } else {
    for (int32_t r = 0; r < rounds; ++r, ring.advance()) {
      wait(full[ring.slot], ring.parity);
      out[r * 32 + lane()] = slots[ring.slot][31 - lane()];
      hopper::fence_async_proxy();  // the slot was read by plain loads, and is written by the copy engine
      __syncwarp();
      if (lane() == 0) arrive(empty[ring.slot]);
    }
  }
#endif
}

}  // namespace

bool has_control_code() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, item_kernel) == cudaSuccess && attributes.ptxVersion == 90 &&
         attributes.binaryVersion == 90;
}

Status control_mbarriers(int32_t* out, int32_t rounds, bool relayed, Stream stream) {
  return launch(relayed ? mbarrier_kernel<true> : mbarrier_kernel<false>, 1, relayed ? 96 : 64, 0, stream, false, out,
                rounds);
}
Status control_named_barrier(int32_t* out, int32_t rounds, Stream stream) {
  return launch(named_barrier_kernel, 1, 128, 0, stream, false, out, rounds);
}
Status control_items(int32_t* out, int32_t rounds, Stream stream) {
  return launch(item_kernel, 1, 128, 0, stream, false, out, rounds);
}
Status control_async_copies(void* out, const void* in, int32_t rounds, Stream stream) {
  return launch(async_copy_kernel, 1, 64, 0, stream, false, static_cast<uint4*>(out), static_cast<const uint4*>(in),
                rounds);
}
Status control_bulk_copies(void* out, const void* in, int32_t rounds, Stream stream) {
  return launch(bulk_copy_kernel, 1, 64, 0, stream, false, static_cast<uint4*>(out), static_cast<const uint4*>(in),
                rounds);
}

}  // namespace pare::cuda
