#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own AVX-512 header trips both (PR 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "kernels/cpu/attention_cpu.h"
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/attention_pack.h"

namespace pare::avx512 {
namespace {

struct Isa {
  using V = __m512;
  static constexpr int kLastRows = 8;
  static constexpr int kAccumulators = 28;  // of 32 registers: 7 rows x 4 vectors, 4 operands

  static V set1(float x) { return _mm512_set1_ps(x); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V load(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static void store(float* p, V x) { _mm512_storeu_ps(p, x); }
  static void prefetch(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  static void store_half(uint16_t* p, V x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static float half(uint16_t h) { return _cvtsh_ss(h); }
  static uint16_t half_up(float x) { return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_POS_INF)); }
  static uint16_t half_down(float x) { return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEG_INF)); }
  // 16 packed codes.
  template <int Bits>
  static V codes(const std::byte* p) {
    __m512i wide;
    if constexpr (Bits == 8) {
      wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    } else if constexpr (Bits == 4) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), low = _mm_set1_epi8(15);
      wide = _mm512_cvtepu8_epi32(
          _mm_unpacklo_epi8(_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16(bytes, 4), low)));
    } else {
      int32_t word;
      std::memcpy(&word, p, 4);
      const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      wide = _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(word), shifts), _mm512_set1_epi32(3));
    }
    return _mm512_cvtepi32_ps(wide);
  }
  // 16 codes, rounded to nearest even and packed; x in [0, 2^Bits - 1].
  template <int Bits>
  static void store_codes(std::byte* p, V x) {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
    attn::pack_codes<Bits>(p, static_cast<uint64_t>(_mm_cvtsi128_si64(bytes)),
                           static_cast<uint64_t>(_mm_extract_epi64(bytes, 1)));
  }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V min(V a, V b) { return _mm512_min_ps(a, b); }
  static float first(V x) { return _mm512_cvtss_f32(x); }
  // x where the mask's bit is set, -inf elsewhere.
  static V keep(V x, uint16_t mask) { return _mm512_mask_blend_ps(mask, _mm512_set1_ps(attn::kNegInf), x); }
  // p, or 0 where x < bound.
  static V zero_below(V p, V x, V bound) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), p); }
  // p * 2^n, n in the low bits of `shifted`.
  static V add_exponent(V p, V shifted) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
  }
  static float sum(V x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float highest(V x) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
};

}  // namespace

const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kTable = attn::Attention<Isa>::table();
  return kTable;
}

}  // namespace pare::avx512
