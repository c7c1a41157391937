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
#include <type_traits>

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
  static constexpr int kRows = 6;  // rows of a register tile
  static constexpr int kRowsMax = Isa::kLastRows;
  static constexpr int kInPlaceRows = 8;  // up to here fp16 rows are multiplied where they lie, without scratch
  static constexpr int kGranules = kBlockKeys / kGranuleKeys;
  // Vectors side by side in a register tile of `rows` rows.
  static constexpr int wide(int rows) {
    const int n = Isa::kAccumulators / rows;
    return n >= 4 ? 4 : n >= 2 ? 2 : 1;
  }

  // A row's o is undefined while its l is 0: clearing a state leaves the sums where they are.
  struct State {
    float *m, *l, *o;   // [M], [M], [M][D]; m and l have room for whole vectors
    bool empty = true;  // every row is the identity
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

  // merge for each of `rows` rows, their factors 16 at a time.
  static void merge_rows(const State& dst, const State& src, int32_t rows, int32_t d) {
    for (int32_t r0 = 0; r0 < rows; r0 += 16) {
      const V dm = Isa::load(dst.m + r0), sm = Isa::load(src.m + r0), m = Isa::max(dm, sm);
      const V a = exp2(Isa::sub(dm, m)), b = exp2(Isa::sub(sm, m));
      alignas(64) float am[16], as[16], bs[16], l[16];
      Isa::store(am, m);
      Isa::store(as, a);
      Isa::store(bs, b);
      Isa::store(l, Isa::fma(Isa::load(src.l + r0), b, Isa::mul(Isa::load(dst.l + r0), a)));
      for (int32_t i = 0; i < 16 && r0 + i < rows; ++i) {
        const int32_t r = r0 + i;
        if (src.l[r] == 0.0f) continue;
        float* to = dst.o + static_cast<int64_t>(r) * d;
        const float* from = src.o + static_cast<int64_t>(r) * d;
        if (dst.l[r] == 0.0f) {
          dst.m[r] = src.m[r];
          dst.l[r] = src.l[r];
          std::memcpy(to, from, sizeof(float) * static_cast<size_t>(d));
          continue;
        }
        dst.m[r] = am[i];
        dst.l[r] = l[i];
        const V fa = Isa::set1(as[i]), fb = Isa::set1(bs[i]);
        for (int32_t c = 0; c < d; c += 16) {
          Isa::store(to + c, Isa::fma(Isa::load(from + c), fb, Isa::mul(Isa::load(to + c), fa)));
        }
      }
    }
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

  // Consecutive rows of a pass on their way through one block. Their logits and weights lie in s[rows][64].
  struct Group {
    int32_t r0, rows, n_use;
    int32_t use[kGranules];                    // granules of the block that some row sees
    int32_t first[kGranules], end[kGranules];  // of their keys, those that some row sees
    float a[kRowsMax];                         // the factor of what was summed before
    bool fresh, rescale;                       // no row has sums yet; a factor is not 1
  };

  // O[r][c ..] of NR rows and NC vectors of channels: rescaled, then the chain over the block's keys. Keys outside
  // [first, end) have weight 0 in every row and change nothing.
  template <class T, int NR, int NC>
  static inline void values(const float* p, const Block& b, const Group& x, float* o, int32_t d, int32_t c) {
    V acc[NR][NC];
    PARE_UNROLL
    for (int r = 0; r < NR; ++r) {
      PARE_UNROLL
      for (int v = 0; v < NC; ++v) acc[r][v] = x.fresh ? Isa::set1(0.0f) : Isa::load(o + r * d + c + v * 16);
    }
    if (x.rescale) {
      PARE_UNROLL
      for (int r = 0; r < NR; ++r) {
        PARE_UNROLL
        for (int v = 0; v < NC; ++v) acc[r][v] = Isa::add(Isa::mul(acc[r][v], Isa::set1(x.a[r])), Isa::set1(0.0f));
      }
    }
    for (int32_t i = 0; i < x.n_use; ++i) {
      const T* v = reinterpret_cast<const T*>(b.v[x.use[i]]) + c;
      const float* weight = p + b.slot[x.use[i]] * 16;
      for (int32_t k = x.first[i]; k < x.end[i]; ++k) {
        V value[NC];
        PARE_UNROLL
        for (int v1 = 0; v1 < NC; ++v1) value[v1] = Isa::load(v + k * d + v1 * 16);
        if constexpr (kAhead<T>) {
          PARE_UNROLL
          for (int v1 = 0; v1 < NC; v1 += 2) Isa::prefetch(b.v_ahead[x.use[i]] + (k * d + c + v1 * 16) * 2);
        }
        PARE_UNROLL
        for (int r = 0; r < NR; ++r) {
          const V w = Isa::set1(weight[r * kBlockKeys + k]);
          PARE_UNROLL
          for (int v1 = 0; v1 < NC; ++v1) acc[r][v1] = Isa::fma(w, value[v1], acc[r][v1]);
        }
      }
    }
    PARE_UNROLL
    for (int r = 0; r < NR; ++r) {
      PARE_UNROLL
      for (int v = 0; v < NC; ++v) Isa::store(o + r * d + c + v * 16, acc[r][v]);
    }
  }

  // Logits to weights in place, and the group's m, l and factors. Row by row a chain of latencies; so each step is
  // taken for all rows before the next.
  template <int NR>
  static inline void weights(const Pass& p, const Block& b, Group& x, float* s) {
    float* m = p.span.m + x.r0;
    float* l = p.span.l + x.r0;
    alignas(64) float before[16] = {}, after[16] = {}, factor[16] = {}, total[NR];
    bool higher = false, shaped = !p.scored && p.layer->softcap != 0.0f;
    for (int32_t i = 0; i < x.n_use; ++i) shaped |= !p.scored && b.lw[x.use[i]] != nullptr;
    for (int r = 0; r < NR; ++r) {
      V highest = Isa::set1(kNegInf);
      for (int32_t i = 0; i < x.n_use; ++i) {
        const int32_t g = x.use[i];
        float* at = s + r * kBlockKeys + b.slot[g] * 16;
        V logit = Isa::load(at);
        if (shaped) {
          if (p.layer->softcap != 0.0f) logit = soft_cap(logit, p.layer->softcap);
          if (b.lw[g] != nullptr) logit = Isa::fma(Isa::load(b.lw[g]), Isa::set1(kLog2e), logit);
        }
        if (b.cut[g]) logit = Isa::keep(logit, p.masks[b.slot[g] * p.m_rows + x.r0 + r]);
        if (shaped || b.cut[g]) Isa::store(at, logit);
        highest = Isa::max(logit, highest);
      }
      const float block_max = Isa::highest(highest);
      before[r] = m[r];
      after[r] = block_max > m[r] ? block_max : m[r];
      higher |= block_max > m[r];
    }
    if (higher) Isa::store(factor, exp2(Isa::sub(Isa::load(before), Isa::load(after))));
    x.fresh = true;
    x.rescale = false;
    for (int r = 0; r < NR; ++r) {
#ifdef PARE_FAULT_ATTENTION_SKIP_RESCALE
      x.a[r] = 1.0f;
#else
      x.a[r] = after[r] == before[r] ? 1.0f : factor[r];
#endif
      x.rescale |= x.a[r] != 1.0f;
      x.fresh &= before[r] == kNegInf;
    }
    for (int r = 0; r < NR; ++r) {
      const V base = Isa::set1(after[r] == kNegInf ? 0.0f : after[r]);
      V sum = Isa::set1(0.0f);
      for (int32_t i = 0; i < x.n_use; ++i) {
        float* at = s + r * kBlockKeys + b.slot[x.use[i]] * 16;
        const V w = exp2(Isa::sub(Isa::load(at), base));
        Isa::store(at, w);
        sum = Isa::add(sum, w);
      }
      total[r] = Isa::sum(sum);
    }
    for (int r = 0; r < NR; ++r) {
      m[r] = after[r];
      l[r] = Isa::first(Isa::fma(Isa::set1(l[r]), Isa::set1(x.a[r]), Isa::set1(total[r])));
    }
    if (x.fresh) {
      x.rescale = false;  // values begins with zeros
      return;
    }
    for (int r = 0; r < NR; ++r) {
      if (before[r] != kNegInf) continue;
      std::memset(p.span.o + static_cast<int64_t>(x.r0 + r) * p.d, 0, sizeof(float) * static_cast<size_t>(p.d));
    }
  }

  template <class T, int NR>
  static void weigh_rows(const Pass& p, const Block& b, Group& x, float* s) {
    x.n_use = 0;
    for (int32_t g = 0; g < b.n; ++g) {
      uint32_t any = 0xffff;
      if (b.cut[g]) {
        any = 0;
        for (int r = 0; r < NR; ++r) any |= p.masks[b.slot[g] * p.m_rows + x.r0 + r];
      }
      if (any == 0) continue;
      x.use[x.n_use] = g;
      x.first[x.n_use] = __builtin_ctz(any);
#ifdef PARE_FAULT_ATTENTION_EDGE_KEY
      x.end[x.n_use++] = 31 - __builtin_clz(any) + (b.cut[g] ? 0 : 1);
#else
      x.end[x.n_use++] = 32 - __builtin_clz(any);
#endif
    }
    if (x.n_use == 0) return;

    constexpr int kWide = wide(NR);
    if (p.scored) {
      load_scores<NR>(p, b, x, s);
    } else {
      const float* q = p.q + static_cast<int64_t>(x.r0) * p.kw;
      int32_t i = 0;
      for (; i + kWide <= x.n_use; i += kWide) logits<T, NR, kWide>(q, p.kw, b, x.use + i, s);
      if constexpr (kWide > 1) {
        for (; i < x.n_use; ++i) logits<T, NR, 1>(q, p.kw, b, x.use + i, s);
      }
    }
    weights<NR>(p, b, x, s);
  }

  template <class T, int NR>
  static void add_rows(const Pass& p, const Block& b, const Group& x, const float* s) {
    if (x.n_use == 0) return;
    constexpr int kWide = wide(NR);
    float* o = p.span.o + static_cast<int64_t>(x.r0) * p.d;
    int32_t c = 0;
    for (; c + kWide * 16 <= p.d; c += kWide * 16) values<T, NR, kWide>(s, b, x, o, p.d, c);
    if constexpr (kWide > 1) {
      for (; c < p.d; c += 16) values<T, NR, 1>(s, b, x, o, p.d, c);
    }
  }

  template <int NR>
  static void load_scores(const Pass& p, const Block& b, const Group& x, float* s) {
    for (int r = 0; r < NR; ++r) {
      for (int32_t i = 0; i < x.n_use; ++i) {
        const int32_t g = x.use[i];
        for (int32_t k = 0; k < kGranuleKeys; ++k) {
          const bool seen = (b.seen[g] >> k) & 1u;
          s[r * kBlockKeys + b.slot[g] * 16 + k] = seen ? p.scores[x.r0 + r][b.j0[g] + k] : kNegInf;
        }
      }
    }
  }

  // Calls body with the number of rows as a constant.
  static inline void with_rows(int32_t rows, auto body) {
    if constexpr (kRowsMax == 8) {
      if (rows == 8) return body(std::integral_constant<int, 8>());
      if (rows == 7) return body(std::integral_constant<int, 7>());
    }
    switch (rows) {
      case 6: return body(std::integral_constant<int, 6>());
      case 5: return body(std::integral_constant<int, 5>());
      case 4: return body(std::integral_constant<int, 4>());
      case 3: return body(std::integral_constant<int, 3>());
      case 2: return body(std::integral_constant<int, 2>());
      default: return body(std::integral_constant<int, 1>());
    }
  }

  // Up to here one batch of row groups holds the pass.
  static constexpr int kBatch = 4, kBatchRows = kBatch * kRows;

  // A few row groups take the block's keys, then the same ones its values: K and V of a block fill a first-level cache
  // together, so that group by group each would find neither. (Rows read in place take half of that, and what was just
  // asked for ahead does not wait for other groups.) before_values runs once between the two of the first
  // batch.
  template <class T>
  static void attend(const Pass& p, const Block& b, auto before_values) {
    alignas(64) float s[kBatch][kRowsMax * kBlockKeys];
    Group groups[kBatch];
    bool first = true;
    for (int32_t r = 0; r < p.m_rows;) {
      int32_t n = 0;
      for (; n < (kAhead<T> ? 1 : kBatch) && r < p.m_rows; ++n) {
        const int32_t left = p.m_rows - r;
        Group& x = groups[n];
        x.r0 = r;
        // Halves of 7 and 8: 6 + 1 would leave the second group without work to hide its latency.
        x.rows = left <= kRowsMax ? left : left < 9 ? 4 : kRows;
        with_rows(x.rows, [&](auto rows) { weigh_rows<T, rows()>(p, b, x, s[n]); });
        r += x.rows;
      }
      if (first) before_values();
      first = false;
      for (int32_t i = 0; i < n; ++i) {
        with_rows(groups[i].rows, [&](auto rows) { add_rows<T, rows()>(p, b, groups[i], s[i]); });
      }
    }
  }
};

}  // namespace pare::attn
