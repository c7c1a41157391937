// A team: the blocks that draw one token together, a cluster on Hopper and a single block before. For sample*.cu* only.
#pragma once

#include <cstdint>

namespace pare::cuda::sampling {

inline constexpr int kThreads = 1024, kWarps = kThreads / 32, kMaxTeam = 8;
inline constexpr unsigned kFullWarp = 0xffffffffu;

struct Team {
  unsigned rank = 0, size = 1;

  // Everything that a thread of the team wrote before, here or in another block, is seen by all after.
  __device__ __forceinline__ void sync() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (size > 1) {
#ifdef WARP0
      __syncthreads();
      if (threadIdx.x < 32) {
        asm volatile("barrier.cluster.arrive.release;" ::: "memory");
      } else {
        asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
      }
      asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
      asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
      return;
    }
#endif
    __syncthreads();
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

// The same over the team, blocks in order of rank. A barrier of the team.
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

}  // namespace pare::cuda::sampling
