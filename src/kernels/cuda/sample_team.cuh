// A team: the blocks that draw one token together, a cluster on Hopper and a single block before. For sample*.cu* only.
#pragma once

#include <cstdint>

namespace pare::cuda::sampling {

inline constexpr int kThreads = 1024, kWarps = kThreads / 32, kMaxTeam = 8;
inline constexpr unsigned kFullWarp = 0xffffffffu;

struct Team {
  unsigned rank = 0, size = 1;

  // Everything that a thread of the team wrote before, here or in another block, is seen by all after. On Hopper that
  // waits for memory and empties the first cache, a microsecond or so in all: what happens in every draw goes by Mail.
  __device__ __forceinline__ void sync() const {
    __syncthreads();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (size == 1) return;
    // One warp's release covers what the others did before the block's barrier.
    if (threadIdx.x < 32) {
      asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    } else {
      asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
    }
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
  }
  // The object of block `of` that lies where `mine` lies here.
  template <typename T>
  __device__ __forceinline__ T* at(T* mine, unsigned of) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (size > 1) return static_cast<T*>(__cluster_map_shared_rank(mine, of));
#endif
    return mine;
  }
};

__device__ __forceinline__ Team cluster_team() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned rank, size;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return {rank, size};
#else
  return {};
#endif
}

// --- mail ---

// Counts the bytes that other blocks store into this one's memory (an mbarrier). Used once in a draw: the first phase.
struct Arrivals {
  unsigned long long barrier;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ unsigned remote_address(const void* p, unsigned block) {
  unsigned remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(p)), "r"(block));
  return remote;
}
#endif

// One thread, before start_meeting: prepare, then expect, which may also come later. `bytes` in all, from this block
// and the others.
__device__ __forceinline__ void prepare(Arrivals& arrivals) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&arrivals)) : "memory");
#endif
}
__device__ __forceinline__ void expect(const Team& team, Arrivals& arrivals, unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (team.size == 1) return;
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&arrivals)), "r"(bytes)
               : "memory");
#endif
}
// All threads of the team, in two halves: prepared Arrivals are known to the others after the second one.
__device__ __forceinline__ void start_meeting(const Team& team) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (team.size == 1) return;
  asm volatile("fence.mbarrier_init.release.cluster;\nbarrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}
__device__ __forceinline__ void end_meeting(const Team& team) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (team.size > 1) asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
  __syncthreads();
}

// Stores into *slot of block `to`, which may read it after receive(arrivals).
__device__ __forceinline__ void post(const Team& team, unsigned to, unsigned long long* slot, Arrivals& arrivals,
                                     unsigned long long value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (team.size > 1) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u64 [%0], %1, [%2];" ::"r"(
                     remote_address(slot, to)),
                 "l"(value), "r"(remote_address(&arrivals, to))
                 : "memory");
    return;
  }
#endif
  *slot = value;
}
__device__ __forceinline__ void receive(const Team& team, Arrivals& arrivals) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (team.size > 1) {
    unsigned done = 0;
    while (done == 0) {
      asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0;\nselp.u32 %0, 1, 0, p;\n}"
                   : "=r"(done)
                   : "r"(shared_address(&arrivals))
                   : "memory");
    }
    return;
  }
#endif
  __syncthreads();
}

// --- reductions ---

struct Add {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Smaller {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

struct ReduceSpace {
  double warps[kWarps];
  // Of blocks. Two in turn: whoever writes one again has passed a barrier that all readers of its last contents passed
  // before.
  double slots[2][kMaxTeam];
  unsigned turn;  // 0 at first
};

// Folds the values of the block's threads in a fixed tree: lanes, then warps. T has 8 bytes at most; all threads get
// the result.
template <typename Fold, typename T>
__device__ __forceinline__ T block_reduce(ReduceSpace& space, T value) {
  static_assert(sizeof(T) <= sizeof(double));
  constexpr Fold fold;
  for (int step = 16; step > 0; step /= 2) value = fold(value, __shfl_xor_sync(kFullWarp, value, step));
  T* warps = reinterpret_cast<T*>(space.warps);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = warps[threadIdx.x % kWarps];
  for (int step = kWarps / 2; step > 0; step /= 2) value = fold(value, __shfl_xor_sync(kFullWarp, value, step));
  __syncthreads();  // the next one writes the same places
  return value;
}

// The same over the team, blocks in order of rank.
template <typename Fold, typename T>
__device__ T team_reduce(const Team& team, ReduceSpace& space, T value) {
  constexpr Fold fold;
  value = block_reduce<Fold>(space, value);
  if (team.size == 1) return value;
  const unsigned turn = space.turn;
  if (threadIdx.x < team.size) *reinterpret_cast<T*>(team.at(&space.slots[turn][team.rank], threadIdx.x)) = value;
  team.sync();
  if (threadIdx.x == 0) space.turn = 1 - turn;
  value = *reinterpret_cast<const T*>(&space.slots[turn][0]);
#pragma unroll 1
  for (unsigned block = 1; block < team.size; ++block) {
    value = fold(value, *reinterpret_cast<const T*>(&space.slots[turn][block]));
  }
  return value;
}

// And by mail: `words` is used once.
struct Mail {
  Arrivals arrivals;
  unsigned long long words[kMaxTeam];
};
__device__ __forceinline__ void expect_mail(const Team& team, Mail& mail) {
  expect(team, mail.arrivals, team.size * sizeof(mail.words[0]));
}
template <typename Fold>
__device__ unsigned long long mail_reduce(const Team& team, ReduceSpace& space, Mail& mail, unsigned long long value) {
  constexpr Fold fold;
  value = block_reduce<Fold>(space, value);
  if (threadIdx.x < team.size) post(team, threadIdx.x, &mail.words[team.rank], mail.arrivals, value);
  receive(team, mail.arrivals);
  value = mail.words[0];
#pragma unroll 1
  for (unsigned block = 1; block < team.size; ++block) value = fold(value, mail.words[block]);
  return value;
}

}  // namespace pare::cuda::sampling
