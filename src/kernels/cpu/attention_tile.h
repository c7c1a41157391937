// The arithmetic of the attention kernels (attention.h) on register tiles, written once over an instruction
// set `Isa`. Isa::V is 16 fp32 lanes; every operation on it rounds as its scalar counterpart does. Each
// including file instantiates the templates with a type of its own, so no code is shared between levels by
// the linker.
//
// A pass holds M query rows (tile rows or decode rows, times the heads of the group) against one KV head. Row
// groups of 6 rows (the last one up to Isa::kLastRows) keep their accumulators in registers: logits as rows x
// 16 keys x kWide granules, values as rows x 16 channels x kWide. A decode waits for memory: what reads a
// stored block first also asks for the same place of the next one, which hardware prefetchers do not guess
// across pages.
#pragma once

#include <cstring>

#include "kernels/attention_math.h"
#include "kernels/attention_walk.h"

#if defined(__clang__)
#define PARE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PARE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace pare::attn {

template <class Isa>
struct AttentionTile {
  using V = typename Isa::V;
  static constexpr int kRows = 6;         // rows of a register tile
  static constexpr int kInPlaceRows = 8;  // up to here fp16 rows are multiplied where they lie, without scratch
  static constexpr int kGranules = kBlockKeys / kGranuleKeys;
  // Vectors side by side in a register tile of `rows` rows.
  static constexpr int wide(int rows) {
    const int n = Isa::kAccumulators / rows;
    return n >= 4 ? 4 : n >= 2 ? 2 : 1;
  }

  struct State {
    float *m, *l, *o;  // [M], [M], [M][D]
  };

  struct Pass {
    const AttentionLayer* layer;
    const RowFormat* format;
    const Zone* zone;
    const int32_t* pages;
    Visibility vis;
    RowBounds bounds;
    QueryRow* rows;
    const float** scores;  // per row, of zone row 0; used when scored
    bool scored;
    int32_t m_rows, d, kw;
    int32_t ahead_end;  // zone rows before this will be read: worth asking for
    float* q;           // [M][kw]
    State span, octet, section, total;
    float *k_scratch, *v_scratch;  // [4][kw][16], [4][16][D]
    uint16_t* masks;               // [4][M]
    AttentionCounters* counters;
  };

  // The granules of one block, by slot (place in the aligned block).
  struct Block {
    int32_t n = 0;
    int32_t slot[kGranules];
    const std::byte *k[kGranules], *v[kGranules];
    const std::byte *k_ahead[kGranules],
        *v_ahead[kGranules];                                     // the same place of the next block, or here again
    const std::byte *k_scales[kGranules], *v_scales[kGranules];  // of quantized rows
    const float* lw[kGranules];
    int32_t j0[kGranules];     // key coordinate of the first key
    uint16_t seen[kGranules];  // keys that some row sees
    bool cut[kGranules];       // rows differ: Pass::masks applies
  };

  // Stored fp16 rows read in place are the ones to read ahead of.
  template <class T>
  static constexpr bool kAhead = sizeof(T) == 2;

  static inline V exp2(V x) {
    const V bounded = Isa::max(Isa::set1(kExp2Min), x);
    const V shifted = Isa::add(bounded, Isa::set1(kRoundToInt));
    const V f = Isa::sub(bounded, Isa::sub(shifted, Isa::set1(kRoundToInt)));
    V p = Isa::set1(kExp2Poly[5]);
    PARE_UNROLL
    for (int i = 4; i >= 0; --i) p = Isa::fma(p, f, Isa::set1(kExp2Poly[i]));
    p = Isa::fma(p, f, Isa::set1(1.0f));
    return Isa::zero_below(Isa::add_exponent(p, shifted), x, Isa::set1(kExp2Min));
  }
  static inline float exp2(float x) { return Isa::first(exp2(Isa::set1(x))); }

  static inline V soft_cap(V s, float cap) {
    const V bounded = Isa::max(Isa::set1(kExp2Min), Isa::min(Isa::set1(-kExp2Min), s));
    const V tanh = Isa::sub(Isa::set1(1.0f), Isa::div(Isa::set1(2.0f), Isa::add(exp2(bounded), Isa::set1(1.0f))));
    return Isa::mul(Isa::set1(cap * kLog2e), tanh);
  }

  static void merge(float* dm, float* dl, float* dst, float sm, float sl, const float* src, int32_t d) {
    if (sl == 0.0f) return;
    if (*dl == 0.0f) {
      *dm = sm;
      *dl = sl;
      std::memcpy(dst, src, sizeof(float) * static_cast<size_t>(d));
      return;
    }
    const float m = *dm > sm ? *dm : sm;
    const V a = exp2(Isa::set1(*dm - m)), b = exp2(Isa::set1(sm - m));
    *dm = m;
    *dl = Isa::first(Isa::fma(Isa::set1(sl), b, Isa::mul(Isa::set1(*dl), a)));
    for (int32_t c = 0; c < d; c += 16) {
      Isa::store(dst + c, Isa::fma(Isa::load(src + c), b, Isa::mul(Isa::load(dst + c), a)));
    }
  }
  static void merge_state(float* dst, const float* src, int32_t d) {
    merge(dst, dst + 1, dst + 2, src[0], src[1], src + 2, d);
  }

  static void finish(float l, const float* o, float* out, int32_t d) {
    if (l == 0.0f) {
      std::memset(out, 0, sizeof(float) * static_cast<size_t>(d));
      return;
    }
    const V inverse = Isa::set1(1.0f / l);
    for (int32_t c = 0; c < d; c += 16) Isa::store(out + c, Isa::mul(Isa::load(o + c), inverse));
  }
  static void finish_state(const float* state, float* out, int32_t d) { finish(state[1], state + 2, out, d); }

  // s[r][slot * 16 ..] for NR rows and NG granules of block b from its g-th on.
  template <class T, int NR, int NG>
  static inline void logits(const float* q, int32_t kw, const Block& b, const int32_t* use, float* s) {
    V acc[NR][NG];
    const T* k[NG];
    PARE_UNROLL
    for (int g = 0; g < NG; ++g) {
      k[g] = reinterpret_cast<const T*>(b.k[use[g]]);
      PARE_UNROLL
      for (int r = 0; r < NR; ++r) acc[r][g] = Isa::set1(0.0f);
    }
    for (int32_t c = 0; c < kw; ++c) {
      V key[NG];
      PARE_UNROLL
      for (int g = 0; g < NG; ++g) key[g] = Isa::load(k[g] + c * 16);
      if constexpr (kAhead<T>) {
        if (c % 2 == 0) {
          PARE_UNROLL
          for (int g = 0; g < NG; ++g) Isa::prefetch(b.k_ahead[use[g]] + c * 32);
        }
      }
      PARE_UNROLL
      for (int r = 0; r < NR; ++r) {
        const V x = Isa::set1(q[r * kw + c]);
        PARE_UNROLL
        for (int g = 0; g < NG; ++g) acc[r][g] = Isa::fma(x, key[g], acc[r][g]);
      }
    }
    PARE_UNROLL
    for (int r = 0; r < NR; ++r) {
      PARE_UNROLL
      for (int g = 0; g < NG; ++g) Isa::store(s + r * kBlockKeys + b.slot[use[g]] * 16, acc[r][g]);
    }
  }

  // O[r][c ..] of NR rows and NC vectors of channels: rescaled by a, then the chain over the block's keys.
  template <class T, int NR, int NC>
  static inline void values(const float* p, const Block& b, const int32_t* use, int32_t n_use, const float* a,
                            bool rescale, float* o, int32_t d, int32_t c) {
    V acc[NR][NC];
    PARE_UNROLL
    for (int r = 0; r < NR; ++r) {
      PARE_UNROLL
      for (int x = 0; x < NC; ++x) acc[r][x] = Isa::load(o + r * d + c + x * 16);
    }
    if (rescale) {
      PARE_UNROLL
      for (int r = 0; r < NR; ++r) {
        PARE_UNROLL
        for (int x = 0; x < NC; ++x) acc[r][x] = Isa::add(Isa::mul(acc[r][x], Isa::set1(a[r])), Isa::set1(0.0f));
      }
    }
    for (int32_t i = 0; i < n_use; ++i) {
      const T* v = reinterpret_cast<const T*>(b.v[use[i]]) + c;
      const float* weight = p + b.slot[use[i]] * 16;
      for (int32_t k = 0; k < kGranuleKeys; ++k) {
        V value[NC];
        PARE_UNROLL
        for (int x = 0; x < NC; ++x) value[x] = Isa::load(v + k * d + x * 16);
        if constexpr (kAhead<T>) {
          PARE_UNROLL
          for (int x = 0; x < NC; x += 2) Isa::prefetch(b.v_ahead[use[i]] + (k * d + c + x * 16) * 2);
        }
        PARE_UNROLL
        for (int r = 0; r < NR; ++r) {
          const V w = Isa::set1(weight[r * kBlockKeys + k]);
          PARE_UNROLL
          for (int x = 0; x < NC; ++x) acc[r][x] = Isa::fma(w, value[x], acc[r][x]);
        }
      }
    }
    PARE_UNROLL
    for (int r = 0; r < NR; ++r) {
      PARE_UNROLL
      for (int x = 0; x < NC; ++x) Isa::store(o + r * d + c + x * 16, acc[r][x]);
    }
  }

  // One row's logits to weights in place; returns the factor for its sums.
  static inline float weights(const Pass& p, const Block& b, const int32_t* use, int32_t n_use, int32_t row, float* s) {
    V logit[kGranules], highest = Isa::set1(kNegInf);
    for (int32_t i = 0; i < n_use; ++i) {
      const int32_t g = use[i];
      V x = Isa::load(s + b.slot[g] * 16);
      if (!p.scored) {
        if (p.layer->softcap != 0.0f) x = soft_cap(x, p.layer->softcap);
        if (b.lw[g] != nullptr) x = Isa::fma(Isa::load(b.lw[g]), Isa::set1(kLog2e), x);
      }
      if (b.cut[g]) x = Isa::keep(x, p.masks[b.slot[g] * p.m_rows + row]);
      logit[i] = x;
      highest = Isa::max(x, highest);
    }
    const float before = p.span.m[row], block_max = Isa::highest(highest);
    const float m = block_max > before ? block_max : before;
#ifdef PARE_FAULT_ATTENTION_SKIP_RESCALE
    const float a = 1.0f;
#else
    const float a = m == before ? 1.0f : exp2(before - m);
#endif
    const V base = Isa::set1(m == kNegInf ? 0.0f : m);
    V sum = Isa::set1(0.0f);
    for (int32_t i = 0; i < n_use; ++i) {
      const V w = exp2(Isa::sub(logit[i], base));
      Isa::store(s + b.slot[use[i]] * 16, w);
      sum = Isa::add(sum, w);
    }
    p.span.m[row] = m;
    p.span.l[row] = Isa::first(Isa::fma(Isa::set1(p.span.l[row]), Isa::set1(a), Isa::set1(Isa::sum(sum))));
    return a;
  }

  template <class T, int NR>
  static void attend_rows(const Pass& p, const Block& b, int32_t r0) {
    alignas(64) float s[NR * kBlockKeys];
    int32_t use[kGranules], n_use = 0;
    for (int32_t g = 0; g < b.n; ++g) {
      uint32_t any = 0xffff;
      if (b.cut[g]) {
        any = 0;
        for (int r = 0; r < NR; ++r) any |= p.masks[b.slot[g] * p.m_rows + r0 + r];
      }
      if (any != 0) use[n_use++] = g;
    }
    if (n_use == 0) return;

    constexpr int kWide = wide(NR);
    if (p.scored) {
      load_scores<NR>(p, b, use, n_use, r0, s);
    } else {
      const float* q = p.q + static_cast<int64_t>(r0) * p.kw;
      int32_t i = 0;
      for (; i + kWide <= n_use; i += kWide) logits<T, NR, kWide>(q, p.kw, b, use + i, s);
      if constexpr (kWide > 1) {
        for (; i < n_use; ++i) logits<T, NR, 1>(q, p.kw, b, use + i, s);
      }
    }
    float a[NR];
    bool rescale = false;
    for (int r = 0; r < NR; ++r) {
      a[r] = weights(p, b, use, n_use, r0 + r, s + r * kBlockKeys);
      rescale |= a[r] != 1.0f;
    }
    float* o = p.span.o + static_cast<int64_t>(r0) * p.d;
    int32_t c = 0;
    for (; c + kWide * 16 <= p.d; c += kWide * 16) values<T, NR, kWide>(s, b, use, n_use, a, rescale, o, p.d, c);
    if constexpr (kWide > 1) {
      for (; c < p.d; c += 16) values<T, NR, 1>(s, b, use, n_use, a, rescale, o, p.d, c);
    }
  }

  template <int NR>
  static void load_scores(const Pass& p, const Block& b, const int32_t* use, int32_t n_use, int32_t r0, float* s) {
    for (int r = 0; r < NR; ++r) {
      for (int32_t i = 0; i < n_use; ++i) {
        for (int32_t k = 0; k < kGranuleKeys; ++k) {
          const bool seen = (b.seen[use[i]] >> k) & 1u;
          s[r * kBlockKeys + b.slot[use[i]] * 16 + k] = seen ? p.scores[r0 + r][b.j0[use[i]] + k] : kNegInf;
        }
      }
    }
  }

  template <class T>
  static void attend(const Pass& p, const Block& b) {
    int32_t r = 0;
    for (int32_t left = p.m_rows; left > Isa::kLastRows; left = p.m_rows - r) {
      if (left < 9) {  // halves: 6 + 1 would leave the second group without work to hide its latency
        attend_rows<T, 4>(p, b, r);
        r += 4;
      } else {
        attend_rows<T, kRows>(p, b, r);
        r += kRows;
      }
    }
    if constexpr (Isa::kLastRows == 8) {
      if (p.m_rows - r == 8) return attend_rows<T, 8>(p, b, r);
      if (p.m_rows - r == 7) return attend_rows<T, 7>(p, b, r);
    }
    switch (p.m_rows - r) {
      case 6: return attend_rows<T, 6>(p, b, r);
      case 5: return attend_rows<T, 5>(p, b, r);
      case 4: return attend_rows<T, 4>(p, b, r);
      case 3: return attend_rows<T, 3>(p, b, r);
      case 2: return attend_rows<T, 2>(p, b, r);
      case 1: return attend_rows<T, 1>(p, b, r);
      default: return;
    }
  }
};

}  // namespace pare::attn
