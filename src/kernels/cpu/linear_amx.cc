// AMX: 16 activation rows times 16 weight rows a tile instruction, K = 32 (or two halves of 16) so that every
// block is flushed into fp32 with its own scales, by the same expression as the other levels. A packed group
// of 64 bytes is already a row of AMX's B operand. Fewer than 16 rows, and weights that multiply in fp32, go
// to the AVX-512 kernels.
#include "kernels/cpu/linear_avx512-inl.h"
#include "kernels/level_tables.h"

namespace pare {
namespace {

constexpr int64_t kGroup = 16;        // activation rows of a tile
constexpr int64_t kMaxRows = 128;     // rows whose sums wait in the first-level cache between chunks of K
constexpr int64_t kChunkBlocks = 32;  // blocks of one weight tile unpacked at a time: 16 KiB and their scales

// Operand for LDTILECFG (palette 1).
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// GCC 12's intrinsics do not say that LDTILECFG reads 64 bytes and TILELOADD reads memory at all: stores that only they
// read would be dropped or moved behind them (a configuration without rows, and SIGILL at the first tile).
inline void keep_stores(const void* to) { asm volatile("" : : "r"(to) : "memory"); }

template <const PackedFormat& F>
constexpr bool kHalves = F.math == BlockMath::kSym16 || F.math == BlockMath::kMin16;

// Tiles 0, 1: sums [16][16] int32. 2, 3: activations [16][depth]. 4, 5: weights [depth / 4][16][4].
void configure_tiles(int depth) {
  TileConfig config = {};
  config.palette = 1;
  for (const int c : {0, 1}) config.rows[c] = 16, config.row_bytes[c] = 64;
  for (const int a : {2, 3}) config.rows[a] = 16, config.row_bytes[a] = static_cast<uint16_t>(depth);
  for (const int b : {4, 5}) config.rows[b] = static_cast<uint8_t>(depth / 4), config.row_bytes[b] = 64;
  keep_stores(&config);
  _tile_loadconfig(&config);
}

struct alignas(64) Chunk {
  uint8_t weights[kChunkBlocks][8][64];
  Scales scales[kChunkBlocks];
};

template <const PackedFormat& F>
void unpack_chunk(const uint8_t* tile, int64_t block0, int64_t count, Chunk* chunk) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t b = block0 + i;
    __m512i w[8];
    load_weights<F>(tile + packed_quant_offset(F, b), w);
    PARE_UNROLL for (int g = 0; g < 8; ++g) _mm512_store_si512(chunk->weights[i][g], w[g]);
    chunk->scales[i] = load_scales<F>(tile + packed_header_offset(F, b), static_cast<int>(b % F.blocks));
  }
}

using Sums = int32_t[kGroup][16];

// acc += one block for 16 rows, from stored integer sums.
template <const PackedFormat& F>
inline void flush(const Sums& first, const Sums& second, const Scales& s, const ActBlock* x, __m512 acc[kGroup]) {
  PARE_UNROLL for (int t = 0; t < kGroup; ++t) {
    __m512i a = _mm512_load_si512(first[t]), b = a;
    if constexpr (kHalves<F>) {
      b = _mm512_add_epi32(_mm512_load_si512(second[t]), initial_sum<F>(&x[t].neg_sum16[1]));
      a = _mm512_add_epi32(a, initial_sum<F>(&x[t].neg_sum16[0]));
    } else {
      a = _mm512_add_epi32(a, initial_sum<F>(&x[t].neg_sum));
    }
    acc[t] = add_block<F.math>(a, b, s, x + t, acc[t]);
  }
}

// Adds `count` blocks of a chunk for 16 rows. x: the chunk's first block of the first row.
template <const PackedFormat& F>
void multiply_chunk(const Chunk& chunk, int64_t count, const ActBlock* x, int64_t stride, float (*sums)[16]) {
  alignas(64) Sums first, second;
  __m512 acc[kGroup];
  PARE_UNROLL for (int t = 0; t < kGroup; ++t) acc[t] = _mm512_load_ps(sums[t]);
  if constexpr (kHalves<F>) {
    for (int64_t i = 0; i < count; ++i, x += stride) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_loadd(2, x->q, sizeof(ActBlock));
      _tile_loadd(4, chunk.weights[i][0], 64);
      _tile_dpbsud(0, 2, 4);
      _tile_loadd(3, x->q + 16, sizeof(ActBlock));
      _tile_loadd(5, chunk.weights[i][4], 64);
      _tile_dpbsud(1, 3, 5);
      _tile_stored(0, first, 64);
      _tile_stored(1, second, 64);
      flush<F>(first, second, chunk.scales[i], x, acc);
    }
  } else {
    // Two blocks in flight: the tile unit works on one while the other is flushed.
    int64_t i = 0;
    for (; i + 2 <= count; i += 2, x += 2 * stride) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_loadd(2, x->q, sizeof(ActBlock));
      _tile_loadd(4, chunk.weights[i][0], 64);
      _tile_dpbsud(0, 2, 4);
      _tile_loadd(3, (x + stride)->q, sizeof(ActBlock));
      _tile_loadd(5, chunk.weights[i + 1][0], 64);
      _tile_dpbsud(1, 3, 5);
      _tile_stored(0, first, 64);
      _tile_stored(1, second, 64);
      flush<F>(first, first, chunk.scales[i], x, acc);
      flush<F>(second, second, chunk.scales[i + 1], x + stride, acc);
    }
    if (i < count) {
      _tile_zero(0);
      _tile_loadd(2, x->q, sizeof(ActBlock));
      _tile_loadd(4, chunk.weights[i][0], 64);
      _tile_dpbsud(0, 2, 4);
      _tile_stored(0, first, 64);
      flush<F>(first, first, chunk.scales[i], x, acc);
    }
  }
  PARE_UNROLL for (int t = 0; t < kGroup; ++t) _mm512_store_ps(sums[t], acc[t]);
}

struct Call {
  const PackedWeight& w;
  const ActRows& x;
  const LinearEpilogue& epilogue;
  float* y;
  int64_t ld_y;
};

// Rows [t0, t0 + rows), a multiple of 16 up to kMaxRows, of one output tile.
template <const PackedFormat& F>
void run_tile(const Call& c, const uint8_t* data, int64_t tile, int64_t t0, int64_t rows) {
  alignas(64) float sums[kMaxRows][16];
  Chunk chunk;
  const int64_t blocks = c.w.k / kActBlock;
  for (int64_t t = 0; t < rows; ++t) _mm512_store_ps(sums[t], _mm512_setzero_ps());
  for (int64_t b = 0; b < blocks; b += kChunkBlocks) {
    const int64_t count = blocks - b < kChunkBlocks ? blocks - b : kChunkBlocks;
    unpack_chunk<F>(data, b, count, &chunk);
    keep_stores(&chunk);
    for (int64_t t = 0; t < rows; t += kGroup) {
      multiply_chunk<F>(chunk, count, c.x.blocks + b * c.x.t + t0 + t, c.x.t, sums + t);
    }
  }
  for (int64_t t = 0; t < rows; ++t) {
    store_tile_row(_mm512_load_ps(sums[t]), c.epilogue, tile * kRowTile, c.w.n, c.y + (t0 + t) * c.ld_y);
  }
}

template <const PackedFormat& F>
void run_blocks(const Call& c, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1) {
  const int64_t tile_bytes = packed_tile_bytes(F, c.w.k / kActBlock);
  const auto* data = reinterpret_cast<const uint8_t*>(c.w.data);
  configure_tiles(kHalves<F> ? 16 : 32);
  for (int64_t t = t0; t < t1; t += kMaxRows) {
    const int64_t rows = t1 - t < kMaxRows ? t1 - t : kMaxRows;
    for (int64_t tile = tile0; tile < tile1; ++tile) run_tile<F>(c, data + tile * tile_bytes, tile, t, rows);
  }
  _tile_release();
}

void linear(const PackedWeight& w, const ActRows& x, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1,
            const LinearEpilogue& epilogue, float* y, int64_t ld_y) {
  const Call c = {w, x, epilogue, y, ld_y};
  const int64_t full = t0 + (t1 - t0) / kGroup * kGroup;  // end of the rows that fill tiles
  int64_t rest = full;
  if (full > t0) {
    switch (w.dtype) {
      case DType::Q4_0: run_blocks<kPackedQ4_0>(c, t0, full, tile0, tile1); break;
      case DType::Q4_1: run_blocks<kPackedQ4_1>(c, t0, full, tile0, tile1); break;
      case DType::Q5_0: run_blocks<kPackedQ5_0>(c, t0, full, tile0, tile1); break;
      case DType::Q5_1: run_blocks<kPackedQ5_1>(c, t0, full, tile0, tile1); break;
      case DType::Q8_0: run_blocks<kPackedQ8_0>(c, t0, full, tile0, tile1); break;
      case DType::Q2_K: run_blocks<kPackedQ2_K>(c, t0, full, tile0, tile1); break;
      case DType::Q3_K: run_blocks<kPackedQ3_K>(c, t0, full, tile0, tile1); break;
      case DType::Q4_K: run_blocks<kPackedQ4_K>(c, t0, full, tile0, tile1); break;
      case DType::Q5_K: run_blocks<kPackedQ5_K>(c, t0, full, tile0, tile1); break;
      case DType::Q6_K: run_blocks<kPackedQ6_K>(c, t0, full, tile0, tile1); break;
      case DType::IQ4_NL: run_blocks<kPackedIQ4_NL>(c, t0, full, tile0, tile1); break;
      case DType::IQ4_XS: run_blocks<kPackedIQ4_XS>(c, t0, full, tile0, tile1); break;
      default: rest = t0;  // fp32 arithmetic
    }
  }
  if (rest < t1) kLinearAvx512.linear(w, x, rest, t1, tile0, tile1, epilogue, y, ld_y);
}

void quantize_rows(const ActRows& rows, int64_t t0, int64_t t1) { kLinearAvx512.quantize_rows(rows, t0, t1); }

}  // namespace

const LinearKernels kLinearAmx = {quantize_rows, linear};

}  // namespace pare
