// y = x * W^T on the CPU: packed weights, quantized activations, one arithmetic for every level and every T.
//
// Weights are packed once into tiles of 16 output rows (docs/formats/packed.md), the same bytes for every CPU
// level. Block formats multiply in int8: activations are quantized per row in blocks of 32 (int8 value, fp32
// scale, sums), integer products are exact, and the fp32 accumulation is one ascending fused multiply-add
// chain per output: so every level, tile shape and T gives the same bits as kernels/ref. F32/F16/BF16 weights
// multiply in fp32 with one ascending chain over K per output, likewise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu_level.h"
#include "tensor/dtype.h"

namespace pare {

inline constexpr int64_t kRowTile = 16;           // output rows in a packed tile
inline constexpr int64_t kActBlock = 32;          // activations that share a scale
inline constexpr float kActBlockMin = 0x1p-100f;  // 127 / max|x| stays finite above it

// A packed weight [N, K]; the bytes (64-byte aligned) belong to the weight store.
struct PackedWeight {
  DType dtype = DType::F32;  // the source format; the packed format follows from it
  int64_t n = 0, k = 0;      // output rows, input columns
  const std::byte* data = nullptr;
};

// Bytes of the packed form; 0 when the format cannot be packed or K does not fit its block.
size_t packed_weight_bytes(DType dtype, int64_t n, int64_t k);

// Packs row tiles [tile_begin, tile_end) of `rows`, the source bytes of the whole weight (row-major, N rows).
// Rows beyond N in the last tile become zeros. Tiles are independent: any thread, any order.
void pack_weight_tiles(DType dtype, const std::byte* rows, int64_t n, int64_t k, int64_t tile_begin, int64_t tile_end,
                       std::byte* packed);

// Unpacks row `row` to fp32, bit-equal to de-quantizing the source row (tests; embedding lookup of tied
// weights).
void unpack_weight_row(const PackedWeight& w, int64_t row, float* out);

// Whether this weight wants quantized activations (block formats) or fp32 rows.
bool wants_quantized_input(DType dtype);

// 32 quantized activations of one row with all that a kernel needs beside them: one cache line.
struct alignas(64) ActBlock {
  int8_t q[kActBlock];  // x = scale * q, q in [-127, 127]
  float scale;
  float scaled_sum;      // scale * sum of q, rounded once; for formats with a minimum
  int32_t neg_sum;       // -(sum of q); for symmetric formats, whose offset is folded into the integer sum
  int32_t neg_sum16[2];  // the same of each half
  int32_t unused[3];
};
static_assert(sizeof(ActBlock) == 64);

// Rows of quantized activations that lie together.
inline constexpr int64_t kActGroup = 16;

// Activations of T rows, K columns. `blocks` is null when only fp32 is wanted.
struct ActRows {
  int64_t t = 0, k = 0;
  const float* f32 = nullptr;  // [T][ld]; null when only the blocks are wanted
  int64_t ld = 0;
  // [T/16][K/32][rows of the group]: a kernel streams through one group, whose rows of one block lie side by side. The
  // last group has the rows that are left, so that a row alone is contiguous.
  ActBlock* blocks = nullptr;

  int64_t group_end(int64_t row) const {
    const int64_t end = row / kActGroup * kActGroup + kActGroup;
    return end < t ? end : t;
  }
  // From one block of `row` to its next.
  int64_t block_stride(int64_t row) const { return group_end(row) - row / kActGroup * kActGroup; }
  ActBlock* block(int64_t row, int64_t b) const {
    const int64_t first = row / kActGroup * kActGroup;
    return blocks + first * (k / kActBlock) + b * block_stride(row) + (row - first);
  }
};
// Bytes of the blocks of T rows, and the function that places them into one 64-byte aligned block.
size_t act_rows_bytes(int64_t t, int64_t k);
void place_act_rows(std::byte* block, int64_t t, int64_t k, ActRows* rows);

// What happens to a finished output tile, in this order.
struct LinearEpilogue {
  const float* bias = nullptr;  // [N], added
  bool accumulate = false;      // y += result (residual), instead of y =
};

struct LinearKernels {
  // Quantizes blocks [b0, b1) of rows [t0, t1) into out.blocks from x, which has row t0, column 32 * b0 first and `ld`
  // floats a row: scale = max|x| / 127, q = round-to-nearest-even(x * (127 / max|x|)). A block whose max|x| is below
  // kActBlockMin counts as zero (scale 0). Infinities count as the largest finite number, NaN as zero.
  void (*quantize)(const float* x, int64_t ld, const ActRows& out, int64_t t0, int64_t t1, int64_t b0, int64_t b1);
  // Rows [t0, t1) of x times output tiles [tile0, tile1) of w. y is where row t0 of the first tile goes, `ld_y` floats
  // a row. Any t1-t0 >= 1: the kernel blocks over T itself. Disjoint (t, tile) ranges may run on different threads.
  void (*linear)(const PackedWeight& w, const ActRows& x, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1,
                 const LinearEpilogue& epilogue, float* y, int64_t ld_y);
};
const LinearKernels& linear_kernels(CpuLevel level);

// Quantizes rows [t0, t1) of rows.f32 whole.
inline void quantize_rows(const LinearKernels& kernels, const ActRows& rows, int64_t t0, int64_t t1) {
  kernels.quantize(rows.f32 + t0 * rows.ld, rows.ld, rows, t0, t1, 0, rows.k / kActBlock);
}

// Plain C++ oracle of `linear` for any format: unpacked weights, same chain. Slow.
namespace ref {
void quantize(const float* x, int64_t ld, const ActRows& out, int64_t t0, int64_t t1, int64_t b0, int64_t b1);
void linear(const PackedWeight& w, const ActRows& x, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1,
            const LinearEpilogue& epilogue, float* y, int64_t ld_y);
}  // namespace ref

}  // namespace pare
