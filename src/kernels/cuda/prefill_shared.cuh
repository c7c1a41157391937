// What the warps of a block of the Hopper prefill kernel share: shapes, shared memory and its barriers.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/prefill_walk.cuh"

namespace pare::cuda::prefill {

inline constexpr int kTileRows = 128;  // query rows of an item
inline constexpr int kWarpgroup = 128, kBlockThreads = 3 * kWarpgroup;
inline constexpr int kHelperWarps = 2, kConsumerWarps = 8;
inline constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;  // of a thread; 56 + 2 * 224 <= 3 * 168

template <int D>
struct Shape {
  static constexpr int kSwizzle = D % 64 == 0 ? 128 : 64;  // bytes of a plane's row: D columns are cut into planes
  static constexpr int kPlanes = D * 2 / kSwizzle, kChunks = kSwizzle / 16, kRowChunks = D / 8;
  static constexpr int kKeys = D == 256 ? 64 : 128, kGranules = kKeys / kGranuleKeys;
  static constexpr int kStages = D == 64 ? 4 : D == 96 ? 3 : 2;
  static constexpr int kInfos = kStages + 6;  // how far the walk may run ahead
  static constexpr int kQueryBuffers = D == 256 ? 1 : 2;
  static constexpr int kQueryPlane = kTileRows * kSwizzle, kKeyPlane = kKeys * kSwizzle;  // bytes
  // Byte of 16-byte chunk `chunk` of row `row` within a tile of planes of `plane` bytes.
  __device__ static uint32_t chunk_offset(int row, int chunk, int plane) {
    const uint32_t at = row * kSwizzle;
    return chunk / kChunks * plane + at + ((chunk % kChunks ^ (at >> 7 & (kChunks - 1))) << 4);
  }
};

// A stage: kKeys keys that consumers take at once.
template <int kKeys>
struct alignas(16) StageInfo {
  int32_t key[kKeys];  // position of each key, kNone: no key. Written if kMask or kClear
  int32_t row[kKeys];  // K's row in the pool: of each granule, or of each key (kColumns)
  int32_t v_delta;     // from K's row to V's
  uint32_t flags;
  uint32_t present, pages;  // bit s: slot s holds a granule; slots s..s+3 hold a page
  int32_t n_columns;
};
enum : uint32_t {
  kLast = 1,     // of its item
  kMask = 2,     // some row does not attend some key
  kClear = 4,    // some key is attended by no row
  kColumns = 8,  // single keys
  kEnd = 16,     // no stage, the block is done
};

struct ItemInfo {
  Item item;
  int32_t sink, min_lo, max_limit;
  bool gap_free, end;  // end: no item, the block is done
};

struct ColumnTask {  // what the copier asks of the helpers
  int32_t info, slot;
  bool last;  // of its item
};

template <int D>
struct alignas(1024) Shared {
  using S = Shape<D>;
  std::byte q[S::kQueryBuffers][kTileRows * D * 2];
  std::byte k[S::kStages][S::kKeys * D * 2];
  std::byte v[S::kStages][S::kKeys * D * 2];
  StageInfo<S::kKeys> infos[S::kInfos];
  ItemInfo items[2];
  ColumnTask column_task;
  int2 row_keys[2][kTileRows];    // Row::limit, Row::lo
  int32_t row_out[2][kTileRows];  // t * H + head; -1: no row
  // Full: what was awaited is there; empty: its reader is done with it.
  uint64_t info_full[S::kInfos], info_empty[S::kInfos], item_empty[2];
  uint64_t q_full[S::kQueryBuffers], q_empty[S::kQueryBuffers];
  uint64_t k_full[S::kStages], k_empty[S::kStages], v_full[S::kStages], v_empty[S::kStages];

  __device__ void init_barriers() {
    const auto init = [](uint64_t* barriers, int n, uint32_t arrivals) {
      for (int i = 0; i < n; ++i) hopper::barrier_init(hopper::shared_address(&barriers[i]), arrivals);
    };
    init(info_full, S::kInfos, 1);
    init(info_empty, S::kInfos, 1);
    init(item_empty, 2, kConsumerWarps);
    init(q_full, S::kQueryBuffers, kHelperWarps);
    init(q_empty, S::kQueryBuffers, kConsumerWarps);
    init(k_full, S::kStages, 1);
    init(k_empty, S::kStages, kConsumerWarps);
    init(v_full, S::kStages, 1);
    init(v_empty, S::kStages, kConsumerWarps);
    hopper::fence_barrier_init();
  }
};

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32); }
__device__ __forceinline__ void wait(uint64_t& barrier, uint32_t parity) {
  hopper::barrier_wait(hopper::shared_address(&barrier), parity);
}
__device__ __forceinline__ void arrive(uint64_t& barrier) { hopper::barrier_arrive(hopper::shared_address(&barrier)); }

// Named barriers. The last two: + consumer.
enum : uint32_t { kBarItem = 1, kBarColumns = 2, kBarHelpers = 3, kBarTurn = 4, kBarConsumer = 6 };

// A position in a ring of n slots. Readers wait for `parity`, writers for the other.
template <int n>
struct Ring {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++slot == n) {
      slot = 0;
      parity ^= 1;
    }
  }
};

}  // namespace pare::cuda::prefill
