// A team: the blocks that draw one token together, a cluster on Hopper and a single block before. They read and write
// each other's shared memory. For sample*.cu* only.
#pragma once

#include <cstdint>

namespace pare::cuda::sampling {

inline constexpr int kThreads = 1024, kWarps = kThreads / 32, kMaxTeam = 8;
inline constexpr unsigned kFullWarp = 0xffffffffu;

// The team of all blocks of the cluster, or of this block alone (what each does for itself, redundantly).
struct Team {
  unsigned rank = 0, size = 1;

  // Everything that a thread of the team wrote before, here or in another block, is seen by all after.
  __device__ __forceinline__ void sync() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (size > 1) {
      asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
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

// Room for the results of blocks in a reduction. Two of them in turn: whoever writes a slot again has passed a barrier
// that all readers of its last contents passed before.
struct ReduceSpace {
  double slots[2][kMaxTeam];
  double warps[kWarps];
  unsigned turn;  // 0 at first
};

// fold(...) over the team's threads in a fixed tree: lanes, warps, blocks in order of rank. T has 8 bytes at most; all
// threads get the result.
template <typename T, typename Fold>
__device__ T team_reduce(const Team& team, ReduceSpace& space, T value, Fold fold) {
  static_assert(sizeof(T) <= sizeof(double));
  for (int step = 16; step > 0; step /= 2) value = fold(value, __shfl_xor_sync(kFullWarp, value, step));
  T* warps = reinterpret_cast<T*>(space.warps);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = warps[threadIdx.x % kWarps];
  for (int step = kWarps / 2; step > 0; step /= 2) value = fold(value, __shfl_xor_sync(kFullWarp, value, step));
  if (team.size == 1) {
    __syncthreads();
    return value;
  }
  const unsigned turn = space.turn;
  if (threadIdx.x < team.size) *reinterpret_cast<T*>(team.at(&space.slots[turn][team.rank], threadIdx.x)) = value;
  team.sync();
  if (threadIdx.x == 0) space.turn = 1 - turn;
  value = *reinterpret_cast<const T*>(&space.slots[turn][0]);
  for (unsigned block = 1; block < team.size; ++block) {
    value = fold(value, *reinterpret_cast<const T*>(&space.slots[turn][block]));
  }
  return value;
}

}  // namespace pare::cuda::sampling
