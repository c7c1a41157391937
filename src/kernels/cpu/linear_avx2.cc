// AVX2: unsigned weight bytes times signed activations by vpmaddubsw, summed in 16 bits for as many groups as
// cannot overflow, in two halves of 8 rows. Formats with 8-bit values multiply |w| by the activation with w's
// sign.
#include <immintrin.h>

#include "kernels/cpu/linear_call-inl.h"
#include "kernels/level_tables.h"

#define PARE_UNROLL _Pragma("GCC unroll 16")

namespace pare {
namespace {

// Largest unsigned quant; 0 for formats that multiply signed bytes.
template <const PackedFormat& F>
inline constexpr int kLargest = F.bytes || F.table ? 0
                                                   : (F.nibbles ? 15 : 0) + (F.pairs ? (F.nibbles ? 48 : 3) : 0) +
                                                         (F.bit ? (F.nibbles ? 16 : 4) : 0);

template <int kShift>
inline __m256i shift16(__m256i v) {
  if constexpr (kShift > 0) return _mm256_slli_epi16(v, kShift);
  if constexpr (kShift < 0) return _mm256_srli_epi16(v, -kShift);
  return v;
}

inline __m256i load256(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }

template <const PackedFormat& F, int kGroup>
inline __m256i add_planes(__m256i w, const uint8_t* q) {
  constexpr int kPlanes = F.nibbles ? 256 : 0, kBase = F.nibbles ? 4 : 0;
  if constexpr (F.pairs) {
    const __m256i plane = shift16<kBase - 2 * (kGroup % 4)>(load256(q + kPlanes + 64 * (kGroup / 4)));
    w = _mm256_or_si256(w, _mm256_and_si256(plane, _mm256_set1_epi8(3 << kBase)));
  }
  if constexpr (F.bit) {
    constexpr int kBit = F.nibbles ? 4 : 2;
    const __m256i plane = shift16<kBit - kGroup>(load256(q + kPlanes + (F.pairs ? 128 : 0)));
    w = _mm256_or_si256(w, _mm256_and_si256(plane, _mm256_set1_epi8(1 << kBit)));
  }
  return w;
}

// Quants of 8 rows (q points at the half) as 8 registers [8 rows][4 columns]; signed if kLargest is 0.
template <const PackedFormat& F>
inline void load_weights(const uint8_t* q, __m256i w[8]) {
  if constexpr (F.bytes) {
    PARE_UNROLL for (int g = 0; g < 8; ++g) w[g] = load256(q + 64 * g);
    return;
  }
  PARE_UNROLL for (int g = 0; g < 8; ++g) w[g] = _mm256_setzero_si256();
  if constexpr (F.nibbles) {
    const __m256i low = _mm256_set1_epi8(15);
    PARE_UNROLL for (int c = 0; c < 4; ++c) {
      const __m256i v = load256(q + 64 * c);
      w[2 * c] = _mm256_and_si256(v, low);
#ifdef PARE_FAULT_LINEAR_HIGH_NIBBLE
      w[2 * c + 1] = w[2 * c];
#else
      w[2 * c + 1] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
#endif
    }
  }
  if constexpr (F.table) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Table)));
    PARE_UNROLL for (int g = 0; g < 8; ++g) w[g] = _mm256_shuffle_epi8(table, w[g]);
  }
  w[0] = add_planes<F, 0>(w[0], q);
  w[1] = add_planes<F, 1>(w[1], q);
  w[2] = add_planes<F, 2>(w[2], q);
  w[3] = add_planes<F, 3>(w[3], q);
  w[4] = add_planes<F, 4>(w[4], q);
  w[5] = add_planes<F, 5>(w[5], q);
  w[6] = add_planes<F, 6>(w[6], q);
  w[7] = add_planes<F, 7>(w[7], q);
}

inline __m256 load_half8(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i load_signed8(const uint8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i load_unsigned8(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

// Scales of 8 rows for one block; see packed_format.h.
struct Scales {
  __m256 d, m, a, b, ma, mb;
};

// header: of the half (row 8 * half of every array).
template <const PackedFormat& F>
inline Scales load_scales(const uint8_t* header, int half, int j) {
  Scales s;
  const uint8_t* d = header + 16 * half;
  if constexpr (F.blocks < 8) {
    s.d = load_half8(d + 32 * j);
    if constexpr (F.blocks == 1) s.m = load_half8(d + kHeaderM);
    return s;
  }
  s.d = load_half8(d + kHeaderD);
  const uint8_t* sub = header + kHeaderSub + 8 * half;
  if constexpr (F.math == BlockMath::kSym32) s.d = _mm256_mul_ps(s.d, _mm256_cvtepi32_ps(load_signed8(sub + 16 * j)));
  if constexpr (F.math == BlockMath::kMin32) {
    s.d = _mm256_mul_ps(s.d, _mm256_cvtepi32_ps(load_unsigned8(sub + 16 * j)));
    const __m256 m = _mm256_cvtepi32_ps(load_unsigned8(sub + kHeaderSubMin - kHeaderSub + 16 * j));
    s.m = _mm256_mul_ps(load_half8(d + kHeaderM), _mm256_sub_ps(_mm256_setzero_ps(), m));
  }
  if constexpr (F.math == BlockMath::kSym16) {
    s.a = _mm256_cvtepi32_ps(load_signed8(sub + 32 * j));
    s.b = _mm256_cvtepi32_ps(load_signed8(sub + 32 * j + 16));
  }
  if constexpr (F.math == BlockMath::kMin16) {
    const __m256i a = load_unsigned8(sub + 32 * j), b = load_unsigned8(sub + 32 * j + 16);
    const __m256i low = _mm256_set1_epi32(15);
    s.m = load_half8(d + kHeaderM);
    s.a = _mm256_cvtepi32_ps(_mm256_and_si256(a, low));
    s.b = _mm256_cvtepi32_ps(_mm256_and_si256(b, low));
    s.ma = _mm256_cvtepi32_ps(_mm256_srli_epi32(a, 4));
    s.mb = _mm256_cvtepi32_ps(_mm256_srli_epi32(b, 4));
  }
  return s;
}

inline __m256i activations(const ActBlock* x, int group) {
  int32_t four;
  __builtin_memcpy(&four, x->q + 4 * group, sizeof four);
  return _mm256_set1_epi32(four);
}

inline __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// Integer sum over groups [kFirst, kFirst + kCount) in 32 bits.
template <const PackedFormat& F, int kFirst, int kCount>
inline __m256i sum_groups(const __m256i w[8], const ActBlock* x) {
  if constexpr (kLargest<F> == 0) {
    __m256i sum = _mm256_setzero_si256();
    PARE_UNROLL for (int g = kFirst; g < kFirst + kCount; ++g) {
      const __m256i signed_x = _mm256_sign_epi8(activations(x, g), w[g]);
      const __m256i products = widen(_mm256_maddubs_epi16(_mm256_abs_epi8(w[g]), signed_x));
      sum = g == kFirst ? products : _mm256_add_epi32(sum, products);
    }
    return sum;
  } else {
    constexpr int kPair = 2 * kLargest<F> * 127;
    constexpr int kFit = 32767 / kPair >= kCount ? kCount : 32767 / kPair >= 4 ? 4 : 2;
    static_assert(kFit * kPair <= 32767 && kCount % kFit == 0);
    __m256i sum = _mm256_setzero_si256();
    PARE_UNROLL for (int first = kFirst; first < kFirst + kCount; first += kFit) {
      __m256i pairs = _mm256_maddubs_epi16(w[first], activations(x, first));
      PARE_UNROLL for (int g = first + 1; g < first + kFit; ++g) {
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[g], activations(x, g)));
      }
      sum = first == kFirst ? widen(pairs) : _mm256_add_epi32(sum, widen(pairs));
    }
    return sum;
  }
}

template <const PackedFormat& F>
inline __m256i without_offset(__m256i sum, const int32_t* neg_sum) {
  constexpr bool kSymmetric = F.math == BlockMath::kSym32 || F.math == BlockMath::kSym16;
  if constexpr (kSymmetric && kLargest<F> != 0) {
    return _mm256_add_epi32(sum, _mm256_slli_epi32(_mm256_set1_epi32(*neg_sum), F.offset_log2));
  }
  return sum;
}

// acc + one block for 8 rows.
template <const PackedFormat& F>
inline __m256 add_block(const __m256i w[8], const Scales& s, const ActBlock* x, __m256 acc) {
  const __m256 scale = _mm256_set1_ps(x->scale);
  if constexpr (F.math == BlockMath::kSym32 || F.math == BlockMath::kMin32) {
    const __m256i sum = without_offset<F>(sum_groups<F, 0, 8>(w, x), &x->neg_sum);
#ifdef PARE_FAULT_LINEAR_DROP_SCALE
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), s.d, acc);
#else
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(s.d, scale), acc);
#endif
    if constexpr (F.math == BlockMath::kMin32) acc = _mm256_fmadd_ps(s.m, _mm256_set1_ps(x->scaled_sum), acc);
    return acc;
  }
  const __m256i first = without_offset<F>(sum_groups<F, 0, 4>(w, x), &x->neg_sum16[0]);
  const __m256i second = without_offset<F>(sum_groups<F, 4, 4>(w, x), &x->neg_sum16[1]);
  const __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second), s.b, _mm256_mul_ps(_mm256_cvtepi32_ps(first), s.a));
  acc = _mm256_fmadd_ps(sum, _mm256_mul_ps(s.d, scale), acc);
  if constexpr (F.math == BlockMath::kMin16) {
    const __m256 sum_a = _mm256_cvtepi32_ps(_mm256_set1_epi32(x->neg_sum16[0]));
    const __m256 sum_b = _mm256_cvtepi32_ps(_mm256_set1_epi32(x->neg_sum16[1]));
    const __m256 min = _mm256_fmadd_ps(sum_b, s.mb, _mm256_mul_ps(sum_a, s.ma));
    acc = _mm256_fmadd_ps(min, _mm256_mul_ps(s.m, scale), acc);
  }
  return acc;
}

inline void store_half_row(const Call& c, __m256 acc, int64_t row0, float* y) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int64_t left = c.w.n - row0;
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 8 ? static_cast<int>(left) : 8), lanes);
  if (c.epilogue.bias != nullptr) acc = _mm256_add_ps(acc, _mm256_maskload_ps(c.epilogue.bias + row0, mask));
  if (c.epilogue.accumulate) acc = _mm256_add_ps(_mm256_maskload_ps(y, mask), acc);
  _mm256_maskstore_ps(y, mask, acc);
}

// Calls step(header, j, quants) for each block of a tile, asking for the weights behind it.
template <const PackedFormat& F, typename Step>
inline void for_each_block(const uint8_t* tile, int64_t blocks, Step step) {
  int64_t b = 0;
  for (; b + F.blocks <= blocks; b += F.blocks) {
    const uint8_t* quants = tile + F.header_bytes;
    for (int j = 0; j < F.blocks; ++j, quants += F.quant_bytes) {
      prefetch_weights<F>(quants);
      step(tile, j, quants);
    }
    tile = quants;
  }
  if (b < blocks) step(tile, 0, tile + F.header_bytes);
}

// One row of activations: both halves of a tile share the broadcasts and keep their sums in registers.
template <const PackedFormat& F>
void run_tile_single(const Call& c, const uint8_t* tile, int64_t tile_index, int64_t t) {
  const ActBlock* x = c.x.block(t, 0);
  const int64_t stride = c.x.block_stride(t);
  __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for_each_block<F>(tile, c.w.k / kActBlock, [&](const uint8_t* header, int j, const uint8_t* quants) {
    PARE_UNROLL for (int half = 0; half < 2; ++half) {
      __m256i w[8];
      load_weights<F>(quants + 32 * half, w);
      acc[half] = add_block<F>(w, load_scales<F>(header, half, j), x, acc[half]);
    }
    x += stride;
  });
  for (int half = 0; half < 2; ++half) {
    const int64_t row0 = tile_index * kRowTile + 8 * half;
    if (row0 < c.w.n) store_half_row(c, acc[half], row0, c.out(t, row0));
  }
}

constexpr int64_t kMaxRows = 64;  // activation rows per pass: their sums and one block of each stay in the first cache

// Rows [t, t + rows): 8 weight registers stay while the rows pass; the sums live in the first-level cache.
template <const PackedFormat& F>
void run_tile_rows(const Call& c, const uint8_t* tile, int64_t tile_index, int64_t t, int64_t rows) {
  alignas(64) float sums[2][kMaxRows][8];
  for (int half = 0; half < 2; ++half) {
    for (int64_t i = 0; i < rows; ++i) _mm256_store_ps(sums[half][i], _mm256_setzero_ps());
  }
  // The groups that the rows lie in, at their current block.
  struct Piece {
    const ActBlock* x;
    int64_t stride, begin, end;
  };
  Piece pieces[kMaxRows / kActGroup + 1];
  int n_pieces = 0;
  for (int64_t i = 0; i < rows;) {
    const int64_t end = c.x.group_end(t + i) - t < rows ? c.x.group_end(t + i) - t : rows;
    pieces[n_pieces++] = {c.x.block(t + i, 0), c.x.block_stride(t + i), i, end};
    i = end;
  }
  for_each_block<F>(tile, c.w.k / kActBlock, [&](const uint8_t* header, int j, const uint8_t* quants) {
    for (int half = 0; half < 2; ++half) {
      __m256i w[8];
      load_weights<F>(quants + 32 * half, w);
      const Scales s = load_scales<F>(header, half, j);
      for (int p = 0; p < n_pieces; ++p) {
        const ActBlock* x = pieces[p].x;
        for (int64_t i = pieces[p].begin; i < pieces[p].end; ++i, ++x) {
          _mm256_store_ps(sums[half][i], add_block<F>(w, s, x, _mm256_load_ps(sums[half][i])));
        }
      }
    }
    for (int p = 0; p < n_pieces; ++p) pieces[p].x += pieces[p].stride;
  });
  for (int half = 0; half < 2; ++half) {
    const int64_t row0 = tile_index * kRowTile + 8 * half;
    if (row0 >= c.w.n) break;
    for (int64_t i = 0; i < rows; ++i) store_half_row(c, _mm256_load_ps(sums[half][i]), row0, c.out(t + i, row0));
  }
}

template <const PackedFormat& F>
void run_blocks(const Call& c, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1) {
  const int64_t tile_bytes = packed_tile_bytes(F, c.w.k / kActBlock);
  const auto* data = reinterpret_cast<const uint8_t*>(c.w.data);
  for (int64_t t = t0; t < t1; t += kMaxRows) {
    const int64_t rows = t1 - t < kMaxRows ? t1 - t : kMaxRows;
    for (int64_t tile = tile0; tile < tile1; ++tile) {
      if (rows == 1) {
        run_tile_single<F>(c, data + tile * tile_bytes, tile, t);
      } else {
        run_tile_rows<F>(c, data + tile * tile_bytes, tile, t, rows);
      }
    }
  }
}

template <DType kType>
inline __m256 load_column(const uint8_t* p) {
  if constexpr (kType == DType::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  if constexpr (kType == DType::F16) return load_half8(p);
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// kHalves x T sums, each one ascending chain over K.
template <DType kType, int kHalves, int T>
void run_float_halves(const Call& c, int64_t half0, int64_t t) {
  constexpr int64_t kItem = kType == DType::F32 ? 4 : 2;
  const int64_t tile_bytes = c.w.k * kRowTile * kItem;
  const auto* data = reinterpret_cast<const uint8_t*>(c.w.data);
  const uint8_t* column[kHalves];
  for (int h = 0; h < kHalves; ++h) column[h] = data + (half0 + h) / 2 * tile_bytes + (half0 + h) % 2 * 8 * kItem;
  const float* x = c.x.f32 + t * c.x.ld;
  __m256 acc[kHalves * T];
  PARE_UNROLL for (int i = 0; i < kHalves * T; ++i) acc[i] = _mm256_setzero_ps();
  for (int64_t k = 0; k < c.w.k; ++k, ++x) {
    __m256 w[kHalves];
    PARE_UNROLL for (int h = 0; h < kHalves; ++h) w[h] = load_column<kType>(column[h] + k * kRowTile * kItem);
    PARE_UNROLL for (int i = 0; i < T; ++i) {
      const __m256 xi = _mm256_set1_ps(x[i * c.x.ld]);
      PARE_UNROLL for (int h = 0; h < kHalves; ++h) {
        acc[i * kHalves + h] = _mm256_fmadd_ps(xi, w[h], acc[i * kHalves + h]);
      }
    }
  }
  PARE_UNROLL for (int i = 0; i < T; ++i) {
    PARE_UNROLL for (int h = 0; h < kHalves; ++h) {
      const int64_t row0 = (half0 + h) * 8;
      if (row0 < c.w.n) store_half_row(c, acc[i * kHalves + h], row0, c.out(t + i, row0));
    }
  }
}

template <DType kType>
void run_float(const Call& c, int64_t t0, int64_t t1, int64_t tile0, int64_t tile1) {
  // Eight half tiles (one row) or two (six rows) hide the latency of the one chain that each output is.
  for (int64_t tile = tile0; tile < tile1; ++tile) {
    int64_t t = t0;
    for (; t + 6 <= t1; t += 6) run_float_halves<kType, 2, 6>(c, 2 * tile, t);
    for (; t + 2 <= t1; t += 2) run_float_halves<kType, 2, 2>(c, 2 * tile, t);
  }
  if ((t1 - t0) % 2 == 0) return;
  int64_t tile = tile0;
  for (; tile + 4 <= tile1; tile += 4) run_float_halves<kType, 8, 1>(c, 2 * tile, t1 - 1);
  for (; tile < tile1; ++tile) run_float_halves<kType, 2, 1>(c, 2 * tile, t1 - 1);
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

inline float largest_of(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

inline int32_t sum_of(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

void quantize_block(const float* x, ActBlock* out) {
  const __m256 largest_finite = _mm256_set1_ps(3.402823466e+38f);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 v[4], magnitude = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_loadu_ps(x + 8 * i);
    v[i] = _mm256_and_ps(v[i], _mm256_cmp_ps(v[i], v[i], _CMP_ORD_Q));
    v[i] = _mm256_max_ps(_mm256_min_ps(v[i], largest_finite), _mm256_sub_ps(_mm256_setzero_ps(), largest_finite));
    magnitude = _mm256_max_ps(magnitude, _mm256_andnot_ps(sign, v[i]));
  }
  const float largest = largest_of(magnitude);
  _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_setzero_si256());
  _mm256_store_si256(reinterpret_cast<__m256i*>(out) + 1, _mm256_setzero_si256());
  if (largest < kActBlockMin) return;
  const __m256 inverse = _mm256_set1_ps(127.0f / largest);
  __m256i q[4];
  for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
  const int32_t first = sum_of(_mm256_add_epi32(q[0], q[1])), second = sum_of(_mm256_add_epi32(q[2], q[3]));
  // Both packs work within 128-bit lanes; the permutation puts the 4-byte runs back in order.
  const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  _mm256_store_si256(reinterpret_cast<__m256i*>(out->q),
                     _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  out->scale = largest / 127.0f;
  out->scaled_sum = out->scale * static_cast<float>(first + second);
  out->neg_sum = -(first + second);
  out->neg_sum16[0] = -first;
  out->neg_sum16[1] = -second;
}

void quantize(const float* x, int64_t ld, const ActRows& rows, int64_t t0, int64_t t1, int64_t b0, int64_t b1) {
  for (int64_t t = t0; t < t1; ++t) {
    for (int64_t b = b0; b < b1; ++b) {
      quantize_block(x + (t - t0) * ld + (b - b0) * kActBlock, rows.block(t, b));
    }
  }
}

}  // namespace

const LinearKernels kLinearAvx2 = {quantize, linear};

}  // namespace pare
