// Hopper's asynchronous machinery as functions: mbarriers, bulk tensor copies (TMA), wgmma, register reallocation and
// named barriers. sm_90a only. Shared memory addresses are 32-bit, as the instructions take them.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace pare::cuda::hopper {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- mbarrier -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes the initialization of barriers visible to the copy engine; before the block's first use of them.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives and adds `bytes` to what the copy engine must deliver before the phase can complete.
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
#define PARE_WAIT_FOR_PHASE(SCOPE)      \
  asm volatile(                         \
      "{\n"                             \
      ".reg .pred done;\n"              \
      "WAIT:\n"                         \
      "mbarrier.try_wait.parity." SCOPE \
      " done, [%0], %1;\n"              \
      "@done bra DONE;\n"               \
      "bra WAIT;\n"                     \
      "DONE:\n"                         \
      "}\n" ::"r"(barrier),             \
      "r"(parity)                       \
      : "memory")
// Returns when the phase of this parity is complete.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  PARE_WAIT_FOR_PHASE("shared::cta.b64");
}

// --- clusters -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of all blocks; what they wrote before, barriers included, is seen after.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Where the same variable of block `rank` lies.
__device__ __forceinline__ uint32_t map_to_block(uint32_t address, uint32_t rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}
// Stores to a block of the cluster; the 16 bytes complete on a barrier of the same block.
__device__ __forceinline__ void store_async(uint32_t remote, float4 v, uint32_t remote_barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(remote),
      "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(remote_barrier)
      : "memory");
}
__device__ __forceinline__ void barrier_arrive_remote(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier) : "memory");
}
// barrier_wait for what other blocks of the cluster did before they arrived.
__device__ __forceinline__ void barrier_wait_cluster(uint32_t barrier, uint32_t parity) {
  PARE_WAIT_FOR_PHASE("acquire.cluster.shared::cta.b64");
}

// Barrier `id` (1..15) among `threads` threads of the block.
__device__ __forceinline__ void named_barrier_sync(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(uint32_t id, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- copies ---------------------------------------------------------------------------------------------------------

// Box of a 2D tensor map, whose first element is (x, y), to shared memory; its bytes complete on `barrier`.
__device__ __forceinline__ void copy_box(uint32_t dst, const void* map, uint32_t barrier, int32_t x, int32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          dst),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}
// `bytes`, a multiple of 16, that lie together; both addresses are multiples of 16.
__device__ __forceinline__ void copy_bulk(uint32_t dst, const void* src, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
               "l"(src), "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void prefetch_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void copy_async_16(uint32_t dst, const void* src) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Orders this thread's accesses to shared memory before later ones of wgmma and the copy engine.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- registers ------------------------------------------------------------------------------------------------------

template <int kRegisters>
__device__ __forceinline__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- wgmma ----------------------------------------------------------------------------------------------------------
// A warpgroup's 64 x N accumulator: lane l of warp w holds rows 16w + l/4 (+8) and columns 8b + 2(l%4) (+1) of each
// block b of 8 columns: acc[4b + {0, 1}] is the upper row, acc[4b + {2, 3}] the lower.

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// wgmma_wait<0> in other words, which the compiler won't merge with it.
__device__ __forceinline__ void wgmma_wait_all() {
  asm volatile("wgmma.wait_group.sync.aligned 0; // all\n" ::: "memory");
}
// Keeps the compiler from moving uses of accumulators across a wait that it does not connect with them.
template <int n>
__device__ __forceinline__ void pin(float (&acc)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

// Shared memory operand whose rows of kSwizzle bytes (128 or 64) are XOR-swizzled, as bulk tensor copies write them.
// Strides in bytes. Operands whose contiguous dimension is the reduction (K-major): stride = 8 rows, leading unused.
// Others: leading = from one row-wide column of the operand to the next, stride = 8 rows.
template <int kSwizzle>
class Operand {
 public:
  __device__ __forceinline__ Operand(uint32_t address, uint32_t leading, uint32_t stride)
      : low_((address & 0x3ffff) >> 4 | leading >> 4 << 16), high_(kMode << 30 | stride >> 4) {}
  // The operand `bytes` further on. One addition: the kernel has one between any two products.
  __device__ __forceinline__ uint64_t at(uint32_t bytes) const {
    return static_cast<uint64_t>(high_) << 32 | (low_ + (bytes >> 4));
  }

 private:
  static constexpr uint32_t kMode = kSwizzle == 128 ? 1 : 2;
  uint32_t low_, high_;
};

// Lists of operands of the instruction.
#define PARE_R8(a, b, c, d, e, f, g, h) "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h
#define PARE_R16 PARE_R8(0, 1, 2, 3, 4, 5, 6, 7) ", " PARE_R8(8, 9, 10, 11, 12, 13, 14, 15)
#define PARE_R32                                                                                                       \
  PARE_R8(0, 1, 2, 3, 4, 5, 6, 7)                                                                                      \
  ", " PARE_R8(8, 9, 10, 11, 12, 13, 14, 15) ", " PARE_R8(16, 17, 18, 19, 20, 21, 22, 23) ", " PARE_R8(24, 25, 26, 27, \
                                                                                                       28, 29, 30, 31)
#define PARE_R48 PARE_R32 ", " PARE_R8(32, 33, 34, 35, 36, 37, 38, 39) ", " PARE_R8(40, 41, 42, 43, 44, 45, 46, 47)
#define PARE_R64 PARE_R48 ", " PARE_R8(48, 49, 50, 51, 52, 53, 54, 55) ", " PARE_R8(56, 57, 58, 59, 60, 61, 62, 63)
#define PARE_R128                                                                                                      \
  PARE_R64 ", " PARE_R8(64, 65, 66, 67, 68, 69, 70, 71) ", " PARE_R8(72, 73, 74, 75, 76, 77, 78, 79) ", " PARE_R8(     \
      80, 81, 82, 83, 84, 85, 86,                                                                                      \
      87) ", " PARE_R8(88, 89, 90, 91, 92, 93, 94,                                                                     \
                       95) ", " PARE_R8(96, 97, 98, 99, 100, 101, 102,                                                 \
                                        103) ", " PARE_R8(104, 105, 106, 107, 108, 109, 110,                           \
                                                          111) ", " PARE_R8(112, 113, 114, 115, 116, 117, 118,         \
                                                                            119) ", " PARE_R8(120, 121, 122, 123, 124, \
                                                                                              125, 126, 127)
#define PARE_F8(d, i)                                                                                         \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define PARE_F16(d, i) PARE_F8(d, i), PARE_F8(d, i + 8)
#define PARE_F32(d, i) PARE_F8(d, i), PARE_F8(d, i + 8), PARE_F8(d, i + 16), PARE_F8(d, i + 24)
#define PARE_F48(d, i) PARE_F32(d, i), PARE_F8(d, i + 32), PARE_F8(d, i + 40)
#define PARE_F64(d, i) PARE_F32(d, i), PARE_F32(d, i + 32)
#define PARE_F128(d, i) PARE_F64(d, i), PARE_F64(d, i + 64)

// Both operands in shared memory, K-major. accumulate = 0: the accumulator's old values are not read.
#define PARE_WGMMA_SS(N, TYPE, REGS, FLOATS, A, B, P)                                                       \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P                                                      \
               ", 0;\n"                                                                                     \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" REGS "}, %" #A ", %" #B \
               ", p, 1, 1, 0, 0;\n}\n"                                                                      \
               : FLOATS(acc, 0)                                                                             \
               : "l"(a), "l"(b), "r"(accumulate))
// A in registers, B in shared memory with the reduction across its rows.
#define PARE_WGMMA_RS(N, TYPE, REGS, FLOATS, A0, A1, A2, A3, B, P)                                             \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P                                                         \
               ", 0;\n"                                                                                        \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" REGS "}, {%" #A0 ", %" #A1 \
               ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 1;\n}\n"                                              \
               : FLOATS(acc, 0)                                                                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))

// A in registers, B in shared memory, K-major.
#define PARE_WGMMA_RK(N, REGS, FLOATS, A0, A1, A2, A3, B, P)                                                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P                                                           \
               ", 0;\n"                                                                                          \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGS "}, {%" #A0 ", %" #A1 ", %" #A2 \
               ", %" #A3 "}, %" #B ", p, 1, 1, 0;\n}\n"                                                          \
               : FLOATS(acc, 0)                                                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

// acc[64 x N] (+)= A[64 x 16] * B[N x 16]^T
template <typename T, int n>
__device__ __forceinline__ void wgmma(float (&acc)[n], uint64_t a, uint64_t b, int32_t accumulate) {
  static_assert(n == 32 || n == 64);
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  if constexpr (n == 32 && kBf16) PARE_WGMMA_SS(64, "bf16", PARE_R32, PARE_F32, 32, 33, 34);
  if constexpr (n == 32 && !kBf16) PARE_WGMMA_SS(64, "f16", PARE_R32, PARE_F32, 32, 33, 34);
  if constexpr (n == 64 && kBf16) PARE_WGMMA_SS(128, "bf16", PARE_R64, PARE_F64, 64, 65, 66);
  if constexpr (n == 64 && !kBf16) PARE_WGMMA_SS(128, "f16", PARE_R64, PARE_F64, 64, 65, 66);
}

// acc[64 x N] += A[64 x 16] * B[16 x N]; a: lane l's pairs (row l/4, k 2(l%4)), (row + 8, k), (row, k + 8), both + 8.
template <typename T, int n>
__device__ __forceinline__ void wgmma(float (&acc)[n], const uint32_t* a, uint64_t b) {
  static_assert(n == 32 || n == 48 || n == 64 || n == 128);
  constexpr bool kBf16 = std::is_same_v<T, __nv_bfloat16>;
  if constexpr (n == 32 && kBf16) PARE_WGMMA_RS(64, "bf16", PARE_R32, PARE_F32, 32, 33, 34, 35, 36, 37);
  if constexpr (n == 32 && !kBf16) PARE_WGMMA_RS(64, "f16", PARE_R32, PARE_F32, 32, 33, 34, 35, 36, 37);
  if constexpr (n == 48 && kBf16) PARE_WGMMA_RS(96, "bf16", PARE_R48, PARE_F48, 48, 49, 50, 51, 52, 53);
  if constexpr (n == 48 && !kBf16) PARE_WGMMA_RS(96, "f16", PARE_R48, PARE_F48, 48, 49, 50, 51, 52, 53);
  if constexpr (n == 64 && kBf16) PARE_WGMMA_RS(128, "bf16", PARE_R64, PARE_F64, 64, 65, 66, 67, 68, 69);
  if constexpr (n == 64 && !kBf16) PARE_WGMMA_RS(128, "f16", PARE_R64, PARE_F64, 64, 65, 66, 67, 68, 69);
  if constexpr (n == 128 && kBf16) PARE_WGMMA_RS(256, "bf16", PARE_R128, PARE_F128, 128, 129, 130, 131, 132, 133);
  if constexpr (n == 128 && !kBf16) PARE_WGMMA_RS(256, "f16", PARE_R128, PARE_F128, 128, 129, 130, 131, 132, 133);
}

// acc[64 x N] (+)= A[64 x 16] * B[N x 16]^T in bf16; a: as above.
template <int n>
__device__ __forceinline__ void wgmma_rows(float (&acc)[n], const uint32_t (&a)[4], uint64_t b, int32_t accumulate) {
  static_assert(n == 16 || n == 32);
  if constexpr (n == 16) PARE_WGMMA_RK(32, PARE_R16, PARE_F16, 16, 17, 18, 19, 20, 21);
  if constexpr (n == 32) PARE_WGMMA_RK(64, PARE_R32, PARE_F32, 32, 33, 34, 35, 36, 37);
}

#undef PARE_WAIT_FOR_PHASE
#undef PARE_R8
#undef PARE_R16
#undef PARE_R32
#undef PARE_R48
#undef PARE_R64
#undef PARE_R128
#undef PARE_F8
#undef PARE_F16
#undef PARE_F32
#undef PARE_F48
#undef PARE_F64
#undef PARE_F128
#undef PARE_WGMMA_RK
#undef PARE_WGMMA_SS
#undef PARE_WGMMA_RS

}  // namespace pare::cuda::hopper
