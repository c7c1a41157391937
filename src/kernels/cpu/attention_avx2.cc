#include <immintrin.h>

#include "kernels/cpu/attention_cpu.h"
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/attention_pack.h"

namespace pare::avx2 {
namespace {

struct Isa {
  struct V {
    __m256 lo, hi;
  };
  static constexpr int kLastRows = 6;
  static constexpr int kAccumulators = 6;  // of 16 registers: 6 rows x 2, 2 operands, 2 to spare

  static V set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static V load(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static void store(float* p, V x) {
    _mm256_storeu_ps(p, x.lo);
    _mm256_storeu_ps(p + 8, x.hi);
  }
  static void prefetch(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  static void store_half(uint16_t* p, V x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
  }
  static float half(uint16_t h) { return _cvtsh_ss(h); }
  static uint16_t half_up(float x) { return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_POS_INF)); }
  static uint16_t half_down(float x) { return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEG_INF)); }
  // 16 packed codes.
  template <int Bits>
  static V codes(const std::byte* p) {
    if constexpr (Bits == 8) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
              _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
    } else {
      const __m256i mask = _mm256_set1_epi32((1 << Bits) - 1);
      const __m256i low = _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
      int32_t word[2];
      __m256i a, b;
      if constexpr (Bits == 4) {
        std::memcpy(word, p, 8);
        a = _mm256_srlv_epi32(_mm256_set1_epi32(word[0]), low);
        b = _mm256_srlv_epi32(_mm256_set1_epi32(word[1]), low);
      } else {
        std::memcpy(word, p, 4);
        a = _mm256_srlv_epi32(_mm256_set1_epi32(word[0]), low);
        b = _mm256_srli_epi32(a, 16);
      }
      return {_mm256_cvtepi32_ps(_mm256_and_si256(a, mask)), _mm256_cvtepi32_ps(_mm256_and_si256(b, mask))};
    }
  }
  // 16 codes, rounded to nearest even and packed; x in [0, 2^Bits - 1].
  template <int Bits>
  static void store_codes(std::byte* p, V x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    attn::pack_codes<Bits>(p, static_cast<uint64_t>(_mm_cvtsi128_si64(bytes)),
                           static_cast<uint64_t>(_mm_extract_epi64(bytes, 1)));
  }
  static V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
  static V add(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static V sub(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static V mul(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static V div(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static V max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static V min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  static float first(V x) { return _mm256_cvtss_f32(x.lo); }
  // x where the mask's bit is set, -inf elsewhere.
  static V keep(V x, uint16_t mask) {
    const __m256i bits = _mm256_set1_epi32(mask), low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i high = _mm256_slli_epi32(low, 8);
    const __m256 off = _mm256_set1_ps(attn::kNegInf);
    return {_mm256_blendv_ps(off, x.lo, _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(bits, low), low))),
            _mm256_blendv_ps(off, x.hi, _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(bits, high), high)))};
  }
  // p, or 0 where x < bound.
  static V zero_below(V p, V x, V bound) {
    return {_mm256_and_ps(p.lo, _mm256_cmp_ps(x.lo, bound.lo, _CMP_NLT_UQ)),
            _mm256_and_ps(p.hi, _mm256_cmp_ps(x.hi, bound.hi, _CMP_NLT_UQ))};
  }
  // p * 2^n, n in the low bits of `shifted`.
  static V add_exponent(V p, V shifted) { return {add_exponent(p.lo, shifted.lo), add_exponent(p.hi, shifted.hi)}; }
  static float sum(V x) {
    const __m256 eight = _mm256_add_ps(x.lo, x.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float highest(V x) {
    const __m256 eight = _mm256_max_ps(x.lo, x.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

 private:
  static __m256 add_exponent(__m256 p, __m256 shifted) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
  }
};

}  // namespace

const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kTable = attn::Attention<Isa>::table();
  return kTable;
}

}  // namespace pare::avx2
