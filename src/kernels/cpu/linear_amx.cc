// AMX: 16 activation rows times 16 weight rows a tile instruction, K = 32 (or two halves of 16) so that every
// block is flushed into fp32 with its own scales, by the same expression as the other levels. A packed group
// of 64 bytes is already a row of AMX's B operand; weights are unpacked with their offset taken off, so that the
// integer sums need no correction. Few rows, and weights that multiply in fp32, go to the AVX-512 kernels.
//
// A flush bounds this kernel: 16 x 16 x 32 products take the tile unit 16 cycles, turning their sums into fp32 three or
// four vector instructions for each of the 16 rows on two ports.
#include "kernels/cpu/linear_avx512-inl.h"
#include "kernels/cpu/linear_call-inl.h"
#include "kernels/level_tables.h"

namespace pare {
namespace {

static_assert(kActGroup == 16);       // rows of a tile
constexpr int64_t kMinRows = 32;      // below it unpacking costs more than the tile unit saves
constexpr int64_t kMaxRows = 128;     // rows whose sums wait in the first-level cache between chunks of K
constexpr int64_t kChunkBlocks = 48;  // blocks of one weight tile unpacked at a time: 24 KiB and their scales

// Operand for LDTILECFG (palette 1).
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

template <const PackedFormat& F>
constexpr bool kHalves = F.math == BlockMath::kSym16 || F.math == BlockMath::kMin16;

// Tiles 0, 1: sums [16][16] int32. 2, 3: activations [16][depth]. 4, 5: weights [depth / 4][16][4].
void configure_tiles(int depth) {
  TileConfig config = {};
  config.palette = 1;
  for (const int c : {0, 1}) config.rows[c] = 16, config.row_bytes[c] = 64;
  for (const int a : {2, 3}) config.rows[a] = 16, config.row_bytes[a] = static_cast<uint16_t>(depth);
  for (const int b : {4, 5}) config.rows[b] = static_cast<uint8_t>(depth / 4), config.row_bytes[b] = 64;
  // GCC 12's _tile_loadconfig declares that it reads 8 of the 64 bytes, and the stores of the others vanish.
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

// Nor do its tile loads say that they read memory: what was stored before this is there for them.
inline void finish_stores() { __asm__ volatile("" ::: "memory"); }

// Part of a weight tile, unpacked: blocks as the B operand, and the scales that its math needs.
template <const PackedFormat& F>
struct alignas(64) Chunk {
  static constexpr int kScales = F.math == BlockMath::kSym32   ? 1
                                 : F.math == BlockMath::kMin32 ? 2
                                 : F.math == BlockMath::kSym16 ? 3
                                                               : 6;
  int8_t weights[kChunkBlocks][8][64];
  __m512 scales[kChunkBlocks][kScales];

  void set_scales(int64_t i, const Scales& s) {
    scales[i][0] = s.d;
    if constexpr (F.math == BlockMath::kMin32) scales[i][1] = s.m;
    if constexpr (kScales >= 3) scales[i][1] = s.a, scales[i][2] = s.b;
    if constexpr (kScales == 6) scales[i][3] = s.m, scales[i][4] = s.ma, scales[i][5] = s.mb;
  }
  Scales get_scales(int64_t i) const {
    Scales s;
    s.d = scales[i][0];
    if constexpr (F.math == BlockMath::kMin32) s.m = scales[i][1];
    if constexpr (kScales >= 3) s.a = scales[i][1], s.b = scales[i][2];
    if constexpr (kScales == 6) s.m = scales[i][3], s.ma = scales[i][4], s.mb = scales[i][5];
    return s;
  }
};

template <const PackedFormat& F>
void unpack_chunk(const uint8_t* tile, int64_t block0, int64_t count, Chunk<F>* chunk) {
  constexpr bool kSymmetric = F.math == BlockMath::kSym32 || F.math == BlockMath::kSym16;
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(kSymmetric ? 1 << F.offset_log2 : 0));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t b = block0 + i;
    __m512i w[8];
    load_weights<F>(tile + packed_quant_offset(F, b), w);
    PARE_UNROLL for (int g = 0; g < 8; ++g) { _mm512_store_si512(chunk->weights[i][g], _mm512_sub_epi8(w[g], offset)); }
    chunk->set_scales(i, load_scales<F>(tile + packed_header_offset(F, b), static_cast<int>(b % F.blocks)));
  }
}

using Sums = int32_t[kActGroup][16];

// acc += one block for 16 rows, from stored integer sums.
template <const PackedFormat& F>
inline void flush(const Sums& first, const Sums& second, const Scales& s, const ActBlock* x, __m512 acc[kActGroup]) {
  PARE_UNROLL for (int t = 0; t < kActGroup; ++t) {
    acc[t] = add_block<F.math>(_mm512_load_si512(first[t]), _mm512_load_si512(second[t]), s, x + t, acc[t]);
  }
}

// acc += `count` blocks of a chunk for 16 rows. x: the chunk's first block of the first row, a group's.
template <const PackedFormat& F>
inline void multiply_chunk(const Chunk<F>& chunk, int64_t count, const ActBlock* x, __m512 acc[kActGroup]) {
  alignas(64) Sums first, second;
  finish_stores();
  if constexpr (kHalves<F>) {
    for (int64_t i = 0; i < count; ++i, x += kActGroup) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_loadd(2, x->q, sizeof(ActBlock));
      _tile_loadd(4, chunk.weights[i][0], 64);
      _tile_dpbssd(0, 2, 4);
      _tile_loadd(3, x->q + 16, sizeof(ActBlock));
      _tile_loadd(5, chunk.weights[i][4], 64);
      _tile_dpbssd(1, 3, 5);
      _tile_stored(0, first, 64);
      _tile_stored(1, second, 64);
      flush<F>(first, second, chunk.get_scales(i), x, acc);
    }
    return;
  }
  // Two blocks in flight: the tile unit works on one while the other is flushed.
  int64_t i = 0;
  for (; i + 2 <= count; i += 2, x += 2 * kActGroup) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(2, x->q, sizeof(ActBlock));
    _tile_loadd(4, chunk.weights[i][0], 64);
    _tile_dpbssd(0, 2, 4);
    _tile_loadd(3, (x + kActGroup)->q, sizeof(ActBlock));
    _tile_loadd(5, chunk.weights[i + 1][0], 64);
    _tile_dpbssd(1, 3, 5);
    _tile_stored(0, first, 64);
    _tile_stored(1, second, 64);
    flush<F>(first, first, chunk.get_scales(i), x, acc);
    flush<F>(second, second, chunk.get_scales(i + 1), x + kActGroup, acc);
  }
  if (i < count) {
    _tile_zero(0);
    _tile_loadd(2, x->q, sizeof(ActBlock));
    _tile_loadd(4, chunk.weights[i][0], 64);
    _tile_dpbssd(0, 2, 4);
    _tile_stored(0, first, 64);
    flush<F>(first, first, chunk.get_scales(i), x, acc);
  }
}

// Rows [t0, t0 + rows), whole groups up to kMaxRows, of one output tile.
template <const PackedFormat& F>
void run_tile(const Call& c, const uint8_t* data, int64_t tile, int64_t t0, int64_t rows) {
  alignas(64) float sums[kMaxRows][16];  // of the chunks so far
  Chunk<F> chunk;
  const int64_t blocks = c.w.k / kActBlock, column = tile * kRowTile;
  for (int64_t b = 0; b < blocks; b += kChunkBlocks) {
    const int64_t left = blocks - b, count = left < kChunkBlocks ? left : kChunkBlocks;
    unpack_chunk<F>(data, b, count, &chunk);
    for (int64_t t = 0; t < rows; t += kActGroup) {
      __m512 acc[kActGroup];
      PARE_UNROLL for (int i = 0; i < kActGroup; ++i) {
        acc[i] = b == 0 ? _mm512_setzero_ps() : _mm512_load_ps(sums[t + i]);
      }
      multiply_chunk<F>(chunk, count, c.x.block(t0 + t, b), acc);
      if (count < left) {
        PARE_UNROLL for (int i = 0; i < kActGroup; ++i) _mm512_store_ps(sums[t + i], acc[i]);
        continue;
      }
      PARE_UNROLL for (int i = 0; i < kActGroup; ++i) {
        store_tile_row(acc[i], c.epilogue, column, c.w.n, c.out(t0 + t + i, column));
      }
    }
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

// Whole groups of rows; t0 is the first of one.
bool run_groups(const Call& c, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1) {
  return with_block_format(c.w.dtype, [&]<const PackedFormat & F>() { run_blocks<F>(c, t0, t1, tile0, tile1); });
}

void linear(const PackedWeight& w, const ActRows& x, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1,
            const LinearEpilogue& epilogue, float* y, int64_t ld_y) {
  const Call c = {w, x, epilogue, y, ld_y, t0, tile0 * kRowTile};
  const int64_t group0 = (t0 + kActGroup - 1) / kActGroup * kActGroup, group1 = t1 / kActGroup * kActGroup;
  if (group1 - group0 < kMinRows || !run_groups(c, group0, group1, tile0, tile1)) {
    return kLinearAvx512.linear(w, x, t0, t1, tile0, tile1, epilogue, y, ld_y);
  }
  if (t0 < group0) kLinearAvx512.linear(w, x, t0, group0, tile0, tile1, epilogue, y, ld_y);
  if (group1 < t1) {
    kLinearAvx512.linear(w, x, group1, t1, tile0, tile1, epilogue, c.out(group1, c.column0), ld_y);
  }
}

void quantize(const float* x, int64_t ld, const ActRows& out, int64_t t0, int64_t t1, int64_t b0, int64_t b1) {
  kLinearAvx512.quantize(x, ld, out, t0, t1, b0, b1);
}

}  // namespace

const LinearKernels kLinearAmx = {quantize, linear};

}  // namespace pare
