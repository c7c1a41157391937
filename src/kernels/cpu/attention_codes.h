// Quantized rows on the vector levels, Tiles order: codes widened to fp32 (decode), and rows of the full zone moved
// into another format. Bits are those of kernels/ref/move_rows_ref.cc and stored_rows.h.
#pragma once

#include <cstring>

#include "kernels/attention_walk.h"
#include "kernels/estimated_rows.h"
#include "kernels/ref/attention_ref.h"

namespace pare::attn {

template <class Isa>
struct AttentionCodes {
  using V = typename Isa::V;

  // n stored halves (a multiple of 16) of scale pairs to fp32.
  static inline void widen_scales(const std::byte* src, int32_t n, float* dst) {
    for (int32_t i = 0; i < n; i += 16) {
      uint16_t half[16];
      std::memcpy(half, src + i * 2, 32);
      Isa::store(dst + i, Isa::load(half));
    }
  }

  // One granule of K: codes [channel][16] and the scale pairs [channel] of its group into dst [channel][16] fp32. The
  // same bytes of `ahead` are asked for.
  template <int Bits>
  static void widen_keys(const std::byte* src, const std::byte* ahead, const std::byte* scales, int32_t width,
                         float* dst) {
    alignas(64) float pairs[32];
    for (int32_t c0 = 0; c0 < width; c0 += 16) {
      widen_scales(scales + c0 * 4, 32, pairs);
      for (int32_t b = c0 * 2 * Bits; b < (c0 + 16) * 2 * Bits; b += 64) Isa::prefetch(ahead + b);
      for (int32_t c = 0; c < 16; ++c) {
        const V codes = Isa::template codes<Bits>(src + (c0 + c) * 2 * Bits);
        Isa::store(dst + (c0 + c) * 16, Isa::fma(Isa::set1(pairs[2 * c]), codes, Isa::set1(pairs[2 * c + 1])));
      }
    }
  }

  // One row of V: codes [channel] with a pair of `scales` every `group` channels into dst fp32.
  template <int Bits>
  static void widen_values(const std::byte* src, const std::byte* ahead, const float* scales, int32_t width,
                           int32_t group, float* dst) {
    for (int32_t b = 0; b < width * Bits / 8; b += 64) Isa::prefetch(ahead + b);
    for (int32_t c0 = 0; c0 < width; c0 += group, scales += 2) {
      const V scale = Isa::set1(scales[0]), zero = Isa::set1(scales[1]);
      for (int32_t c = c0; c < c0 + group; c += 16) {
        Isa::store(dst + c, Isa::fma(scale, Isa::template codes<Bits>(src + c * Bits / 8), zero));
      }
    }
  }

  // ---- moving ----

  // Scale and zero of n values (n a multiple of 16) as attention.h says; false: some value is not finite.
  static bool scale_pair(const float* x, int32_t n, float levels, uint16_t* pair) {
    V low = Isa::load(x), high = low, sum = Isa::sub(low, low);
    for (int32_t i = 16; i < n; i += 16) {
      const V v = Isa::load(x + i);
      low = Isa::min(v, low);
      high = Isa::max(v, high);
      sum = Isa::add(sum, Isa::sub(v, v));  // NaN once a value is not finite
    }
    if (!(Isa::sum(sum) == 0.0f)) return false;
    constexpr float kHalfMax = 65504.0f;
    const auto clamp = [](float v, float lo, float hi) { return v < lo ? lo : v > hi ? hi : v; };
    const float lo = clamp(-Isa::highest(Isa::sub(Isa::set1(0.0f), low)), -kHalfMax, kHalfMax) + 0.0f;
    pair[1] = Isa::half_down(lo);
    const float range = (Isa::highest(high) - Isa::half(pair[1])) + 0.0f;
    pair[0] = Isa::half_up(clamp(range / levels, 0.0f, kHalfMax));
    return true;
  }

  // Quantizes n values into one group; codes of x + i go to place(i), in 16s. False: left to kernels/ref.
  template <int Bits>
  static bool store_group(const float* x, int32_t n, std::byte* pair_place, const auto& place) {
    constexpr float kLevels = (1 << Bits) - 1;
    uint16_t pair[2];
    if (!scale_pair(x, n, kLevels, pair)) return false;
    std::memcpy(pair_place, pair, 4);
    const float scale = Isa::half(pair[0]);
    const V zero = Isa::set1(Isa::half(pair[1])), top = Isa::set1(kLevels), none = Isa::set1(0.0f);
    for (int32_t i = 0; i < n; i += 16) {
      V code = none;
      if (scale != 0.0f) {
        code = Isa::max(none, Isa::min(top, Isa::div(Isa::sub(Isa::load(x + i), zero), Isa::set1(scale))));
      }
      Isa::template store_codes<Bits>(place(i), code);
    }
    return true;
  }

  static inline void load16(Codec codec, const std::byte* plane, int64_t index, float* dst) {
    if (codec == Codec::F32) {
      Isa::store(dst, Isa::load(reinterpret_cast<const float*>(plane) + index));
    } else {
      Isa::store(dst, Isa::load(reinterpret_cast<const uint16_t*>(plane) + index));
    }
  }

  // The kept channels of K, whole groups of rows: a channel's 16 keys lie side by side on both sides.
  template <int Bits>
  static bool quantize_keys(const RowMove& move, const RowFormat& from, const RowFormat& to, const Channel* channels,
                            const std::byte* src, std::byte* dst) {
    alignas(64) float x[kPageRows];
    for (int32_t row = move.row0; row < move.row0 + move.rows; row += to.k_group) {
      for (int32_t c = 0; c < to.k_width; ++c) {
        const int32_t id = source_channel(to, channels, c);
        for (int32_t i = 0; i < to.k_group; i += 16) {
          load16(from.k_codec, src + from.k, (int64_t{(row + i) / 16} * from.k_width + id) * 16, x + i);
        }
        std::byte* pair = dst + to.ks + (int64_t{row / to.k_group} * to.k_width + c) * 4;
        const bool done = store_group<Bits>(x, to.k_group, pair, [&](int32_t i) {
          return dst + to.k + (int64_t{(row + i) / 16} * to.k_width + c) * 2 * Bits;
        });
        if (!done) return false;
      }
    }
    return true;
  }
  template <int Bits>
  static bool quantize_values(const RowMove& move, const RowFormat& from, const RowFormat& to, const std::byte* src,
                              std::byte* dst) {
    alignas(64) float x[kMaxStateDim];
    for (int64_t row = move.row0; row < move.row0 + move.rows; ++row) {
      for (int32_t c = 0; c < to.v_width; c += to.v_group) {
        for (int32_t i = 0; i < to.v_group; i += 16)
          load16(from.v_codec, src + from.v, row * from.v_width + c + i, x + i);
        std::byte* pair = dst + to.vs + (row * to.v_width + c) / to.v_group * 4;
        const bool done = store_group<Bits>(
            x, to.v_group, pair, [&](int32_t i) { return dst + to.v + (row * to.v_width + c + i) * Bits / 8; });
        if (!done) return false;
      }
    }
    return true;
  }

  static inline int32_t source_channel(const RowFormat& to, const Channel* channels, int32_t c) {
    if (to.chan < 0) return c;
#ifdef PARE_FAULT_ATTENTION_MASK_ROTATED
    c = (c + 1) % to.k_width;
#endif
    return channels[to.chan + c].id;
  }

  static bool move_keys(const RowMove& move, const RowFormat& from, const RowFormat& to, const Channel* channels,
                        const std::byte* src, std::byte* dst) {
    switch (to.k_codec) {
      case Codec::I8: return quantize_keys<8>(move, from, to, channels, src, dst);
      case Codec::I4: return quantize_keys<4>(move, from, to, channels, src, dst);
      case Codec::I2: return quantize_keys<2>(move, from, to, channels, src, dst);
      default: break;
    }
    if (to.k_codec != from.k_codec) return false;
    const int64_t stripe = plane_bytes(to.k_codec, 16);
    for (int32_t row = move.row0; row < move.row0 + move.rows; row += 16) {
      for (int32_t c = 0; c < to.k_width; ++c) {
        const int32_t id = source_channel(to, channels, c);
        std::memcpy(dst + to.k + (int64_t{row / 16} * to.k_width + c) * stripe,
                    src + from.k + (int64_t{row / 16} * from.k_width + id) * stripe, static_cast<size_t>(stripe));
      }
    }
    return true;
  }
  static bool move_values(const RowMove& move, const RowFormat& from, const RowFormat& to, const std::byte* src,
                          std::byte* dst) {
    switch (to.v_codec) {
      case Codec::I8: return quantize_values<8>(move, from, to, src, dst);
      case Codec::I4: return quantize_values<4>(move, from, to, src, dst);
      case Codec::I2: return quantize_values<2>(move, from, to, src, dst);
      default: break;
    }
    if (to.v_codec != from.v_codec) return false;
    const int64_t row = plane_bytes(to.v_codec, to.v_width);
    std::memcpy(dst + to.v + move.row0 * row, src + from.v + move.row0 * row, static_cast<size_t>(move.rows * row));
    return true;
  }

  // Estimated rows. False: left to kernels/ref.
  static bool estimate_rows(const RowMove& move, const RowFormat& from, const RowFormat& to, const std::byte* src,
                            std::byte* dst) {
    const Codec codec = to.v_codec;
    if (codec != from.v_codec || (codec != Codec::F16 && codec != Codec::F32)) return false;
    const int32_t end = (move.row0 + move.rows - 1) / kSumRows + 1;
    for (int32_t group = move.row0 / kSumRows; group < end; ++group) {
      const SumGroup rows = sum_group(group, move.row0, move.rows);
      const int32_t n = rows.end - rows.begin;
      const V weight = Isa::set1(1.0f / static_cast<float>(n));
      V check = Isa::set1(0.0f);  // NaN once a value is not finite
      for (int32_t c = 0; c < to.v_width; c += 16) {
        V mean = Isa::set1(0.0f);
        for (int32_t row = rows.begin; row < rows.end; ++row) {
          alignas(64) float x[16];
          load16(codec, src + from.v, int64_t{row} * from.v_width + c, x);
          const V v = Isa::load(x);
          mean = Isa::fma(v, weight, mean);
          check = Isa::add(check, Isa::sub(v, v));
        }
        const int64_t at = int64_t{group} * to.v_width + c;
        if (codec == Codec::F32) {
          Isa::store(reinterpret_cast<float*>(dst + to.v) + at, mean);
        } else {
          Isa::store_half(reinterpret_cast<uint16_t*>(dst + to.v) + at, mean);
        }
      }
      if (!(Isa::sum(check) == 0.0f)) return false;
      const float log_weight = log_rows(n);
      std::memcpy(dst + to.lw + group * sizeof(float), &log_weight, sizeof(float));
    }
    return true;
  }

  // Whether this level moves the rows itself, values that are not finite aside.
  static bool moves(const RowMove& move, const RowFormat& from, const RowFormat& to) {
    const auto stored = [](Codec codec) { return codec == Codec::F16 || codec == Codec::F32; };
    const int32_t rows = is_quantized(to.k_codec) ? to.k_group : 16;
    return from.order == Order::Tiles && to.order == Order::Tiles && stored(from.k_codec) && stored(from.v_codec) &&
           rows <= kPageRows && move.row0 % rows == 0 && move.rows % rows == 0;
  }

  static void move_rows(const MoveRowsArgs& args, int32_t index, int32_t g) {
    const RowMove& move = args.moves[index];
    const RowFormat &from = args.full[g], &to = args.mid[g];
    const std::byte* src = args.pools[from.pool] + static_cast<uint64_t>(move.src) * from.page_bytes;
    if (to.v_width == 0) {
      if (args.sum == nullptr || args.sum[g].v_width == 0) return;
      const RowFormat& sum = args.sum[g];
      std::byte* page = args.pools[sum.pool] + static_cast<uint64_t>(move.dst) * sum.page_bytes;
      const bool tiles = from.order == Order::Tiles && sum.order == Order::Tiles;
      if (!tiles || !estimate_rows(move, from, sum, src, page)) ref::attention_kernels().move_rows(args, index, g);
      return;
    }
    std::byte* dst = args.pools[to.pool] + static_cast<uint64_t>(move.dst) * to.page_bytes;
    if (!moves(move, from, to) || !move_keys(move, from, to, args.channels, src, dst) ||
        !move_values(move, from, to, src, dst)) {
      ref::attention_kernels().move_rows(args, index, g);
    }
  }
};

}  // namespace pare::attn
