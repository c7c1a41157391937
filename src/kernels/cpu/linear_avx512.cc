// AVX-512 VNNI: one register holds [16 rows][4 columns] of unsigned weights, multiplied by a broadcast of
// four signed activations. Up to 16 rows of activations keep their fp32 sums in registers while a tile
// streams past once.
#include "kernels/cpu/linear_avx512-inl.h"
#include "kernels/cpu/linear_call-inl.h"
#include "kernels/level_tables.h"

namespace pare {
namespace {

inline __m512i activations(const ActBlock* x, int group) {
  int32_t four;
  __builtin_memcpy(&four, x->q + 4 * group, sizeof four);
  return _mm512_set1_epi32(four);
}

template <const PackedFormat& F, int T>
inline void block_step(const uint8_t* quants, const Scales& s, const ActBlock* x, __m512 acc[T]) {
  __m512i w[8];
  load_weights<F>(quants, w);
  prefetch_weights<F>(quants);
  PARE_UNROLL for (int t = 0; t < T; ++t) {
    constexpr bool kHalves = F.math == BlockMath::kSym16 || F.math == BlockMath::kMin16;
    __m512i first = initial_sum<F>(kHalves ? &x[t].neg_sum16[0] : &x[t].neg_sum);
    __m512i second = kHalves ? initial_sum<F>(&x[t].neg_sum16[1]) : first;
    PARE_UNROLL for (int g = 0; g < 4; ++g) first = _mm512_dpbusd_epi32(first, w[g], activations(x + t, g));
    if constexpr (kHalves) {
      PARE_UNROLL for (int g = 4; g < 8; ++g) second = _mm512_dpbusd_epi32(second, w[g], activations(x + t, g));
    } else {
      PARE_UNROLL for (int g = 4; g < 8; ++g) first = _mm512_dpbusd_epi32(first, w[g], activations(x + t, g));
    }
    acc[t] = add_block<F.math>(first, second, s, x + t, acc[t]);
  }
}

// T activation rows against one tile. x: block 0 of the first row; stride: rows between blocks.
template <const PackedFormat& F, int T>
inline void tile_sums(const uint8_t* tile, const ActBlock* x, int64_t stride, int64_t blocks, __m512 acc[T]) {
  PARE_UNROLL for (int t = 0; t < T; ++t) acc[t] = _mm512_setzero_ps();
  int64_t b = 0;
  for (; b + F.blocks <= blocks; b += F.blocks) {
    const uint8_t* quants = tile + F.header_bytes;
    for (int j = 0; j < F.blocks; ++j, quants += F.quant_bytes, x += stride) {
      block_step<F, T>(quants, load_scales<F>(tile, j), x, acc);
    }
    tile = quants;
  }
  if (b < blocks) block_step<F, T>(tile + F.header_bytes, load_scales<F>(tile, 0), x, acc);
}

template <const PackedFormat& F, int T>
void run_tile(const Call& c, const uint8_t* data, int64_t tile, int64_t t) {
  __m512 acc[T];
  tile_sums<F, T>(data, c.x.block(t, 0), c.x.block_stride(t), c.w.k / kActBlock, acc);
  PARE_UNROLL for (int i = 0; i < T; ++i) {
    store_tile_row(acc[i], c.epilogue, tile * kRowTile, c.w.n, c.out(t + i, tile * kRowTile));
  }
}

template <const PackedFormat& F>
void run_blocks(const Call& c, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1) {
  // Rows of activations that stay in the second-level cache while all tiles pass.
  constexpr int64_t kResident = 64;
  const int64_t tile_bytes = packed_tile_bytes(F, c.w.k / kActBlock);
  const auto* data = reinterpret_cast<const uint8_t*>(c.w.data);
  for (int64_t first = t0; first < t1; first += kResident) {
    const int64_t last = first + kResident < t1 ? first + kResident : t1;
    for (int64_t tile = tile0; tile < tile1; ++tile) {
      const uint8_t* bytes = data + tile * tile_bytes;
      for (int64_t t = first; t < last;) {
        const int64_t end = c.x.group_end(t) < last ? c.x.group_end(t) : last;
        if (t + 16 <= end) run_tile<F, 16>(c, bytes, tile, t), t += 16;
        if (t + 8 <= end) run_tile<F, 8>(c, bytes, tile, t), t += 8;
        if (t + 4 <= end) run_tile<F, 4>(c, bytes, tile, t), t += 4;
        if (t + 2 <= end) run_tile<F, 2>(c, bytes, tile, t), t += 2;
        if (t < end) run_tile<F, 1>(c, bytes, tile, t), t += 1;
      }
    }
  }
}

template <DType kType>
inline __m512 load_column(const uint8_t* p) {
  if constexpr (kType == DType::F32) return _mm512_loadu_ps(p);
  if constexpr (kType == DType::F16) return load_half16(p);
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// kTiles x T sums, each one ascending chain over K.
template <DType kType, int kTiles, int T>
void run_float_tiles(const Call& c, int64_t tile, int64_t t) {
  constexpr int64_t kColumnBytes = 16 * (kType == DType::F32 ? 4 : 2);
  const int64_t tile_bytes = c.w.k * kColumnBytes;
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(c.w.data) + tile * tile_bytes;
  const float* x = c.x.f32 + t * c.x.ld;
  __m512 acc[kTiles * T];
  PARE_UNROLL for (int i = 0; i < kTiles * T; ++i) acc[i] = _mm512_setzero_ps();
  for (int64_t k = 0; k < c.w.k; ++k, bytes += kColumnBytes, ++x) {
    __m512 w[kTiles];
    PARE_UNROLL for (int j = 0; j < kTiles; ++j) w[j] = load_column<kType>(bytes + j * tile_bytes);
    PARE_UNROLL for (int i = 0; i < T; ++i) {
      const __m512 xi = _mm512_set1_ps(x[i * c.x.ld]);
      PARE_UNROLL for (int j = 0; j < kTiles; ++j) acc[i * kTiles + j] = _mm512_fmadd_ps(xi, w[j], acc[i * kTiles + j]);
    }
  }
  PARE_UNROLL for (int i = 0; i < T; ++i) {
    PARE_UNROLL for (int j = 0; j < kTiles; ++j) {
      store_tile_row(acc[i * kTiles + j], c.epilogue, (tile + j) * kRowTile, c.w.n,
                     c.out(t + i, (tile + j) * kRowTile));
    }
  }
}

template <DType kType, int kTiles>
void run_float_rows(const Call& c, int64_t tile, int64_t t0, int64_t t1) {
  int64_t t = t0;
  for (; t + 6 <= t1; t += 6) run_float_tiles<kType, kTiles, 6>(c, tile, t);
  for (; t + 2 <= t1; t += 2) run_float_tiles<kType, kTiles, 2>(c, tile, t);
  if (t < t1) run_float_tiles<kType, kTiles, 1>(c, tile, t);
}

template <DType kType>
void run_float(const Call& c, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1) {
  // Four tiles hide the latency of the one chain that each output is.
  int64_t tile = tile0;
  for (; tile + 4 <= tile1; tile += 4) run_float_rows<kType, 4>(c, tile, t0, t1);
  for (; tile < tile1; ++tile) run_float_rows<kType, 1>(c, tile, t0, t1);
}

void linear(const PackedWeight& w, const ActRows& x, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1,
            const LinearEpilogue& epilogue, float* y, int64_t ld_y) {
  const Call c = {w, x, epilogue, y, ld_y, t0, tile0 * kRowTile};
  if (with_block_format(w.dtype, [&]<const PackedFormat & F>() { run_blocks<F>(c, t0, t1, tile0, tile1); })) return;
  switch (w.dtype) {
    case DType::F32: return run_float<DType::F32>(c, t0, t1, tile0, tile1);
    case DType::F16: return run_float<DType::F16>(c, t0, t1, tile0, tile1);
    case DType::BF16: return run_float<DType::BF16>(c, t0, t1, tile0, tile1);
    default: return;
  }
}

void quantize(const float* first, int64_t ld, const ActRows& rows, int64_t t0, int64_t t1, int64_t b0, int64_t b1) {
  const __m512 largest_finite = _mm512_set1_ps(3.402823466e+38f);
  for (int64_t t = t0; t < t1; ++t) {
    const float* x = first + (t - t0) * ld;
    ActBlock* out = rows.block(t, b0);
    const int64_t stride = rows.block_stride(t);
    for (int64_t b = b0; b < b1; ++b, x += kActBlock, out += stride) {
      __m512 v[2];
      for (int i = 0; i < 2; ++i) {
        v[i] = _mm512_loadu_ps(x + 16 * i);
        v[i] = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v[i], v[i], _CMP_ORD_Q), v[i]);
        v[i] = _mm512_max_ps(_mm512_min_ps(v[i], largest_finite), _mm512_sub_ps(_mm512_setzero_ps(), largest_finite));
      }
      const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(v[0]), _mm512_abs_ps(v[1])));
      _mm512_store_si512(out, _mm512_setzero_si512());
      if (largest < kActBlockMin) continue;
      const __m512 inverse = _mm512_set1_ps(127.0f / largest);
      int32_t sum[2];
      for (int i = 0; i < 2; ++i) {
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse));
        sum[i] = _mm512_reduce_add_epi32(q);
        _mm_store_si128(reinterpret_cast<__m128i*>(out->q + 16 * i), _mm512_cvtepi32_epi8(q));
      }
      out->scale = largest / 127.0f;
      out->scaled_sum = out->scale * static_cast<float>(sum[0] + sum[1]);
      out->neg_sum = -(sum[0] + sum[1]);
      out->neg_sum16[0] = -sum[0];
      out->neg_sum16[1] = -sum[1];
    }
  }
}

}  // namespace

const LinearKernels kLinearAvx512 = {quantize, linear};

}  // namespace pare
