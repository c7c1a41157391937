// The oracle of AttentionKernels::move_rows: one element at a time.
#include <algorithm>
#include <cmath>

#include "kernels/estimated_rows.h"
#include "kernels/ref/attention_ref.h"
#include "kernels/ref/stored_rows.h"

namespace pare::ref {
namespace {

constexpr float kHalfMax = 65504.0f;

uint16_t half_up(float x) {  // x in [0, kHalfMax]
  const uint16_t h = float_to_half(x);
  return half_to_float(h) < x ? static_cast<uint16_t>(h + 1) : h;
}
uint16_t half_down(float x) {  // |x| <= kHalfMax, not -0
  const uint16_t h = float_to_half(x);
  if (half_to_float(h) <= x) return h;
  return static_cast<uint16_t>((h & 0x8000u) != 0 ? h + 1 : h - 1);
}

// Scale and zero of a group of values that come through `value(i)`, i in [0, n).
ScalePair scale_pair(int64_t n, Codec codec, const auto& value) {
  float lo = 0.0f, hi = 0.0f;
  bool any = false;
  for (int64_t i = 0; i < n; ++i) {
    const float x = value(i);
    if (!std::isfinite(x)) continue;
    lo = any ? std::min(lo, x) : x;
    hi = any ? std::max(hi, x) : x;
    any = true;
  }
  const uint16_t zero = half_down(std::clamp(lo, -kHalfMax, kHalfMax) + 0.0f);
  const float range = (hi - half_to_float(zero)) + 0.0f;
  const auto levels = static_cast<float>((1 << codec_bits(codec)) - 1);
  return {half_up(std::clamp(range / levels, 0.0f, kHalfMax)), zero};
}

uint32_t code_of(float x, Codec codec, ScalePair pair) {
  const float scale = half_to_float(pair.scale);
  if (scale == 0.0f) return 0;
  const float y = (x - half_to_float(pair.zero)) / scale;
  const auto levels = static_cast<float>((1 << codec_bits(codec)) - 1);
  if (!(y > 0.0f)) return 0;
  return static_cast<uint32_t>(std::nearbyint(std::min(y, levels)));
}

// Quantizes elements (at(i), i in [0, n)) into one group.
void store_group(int64_t n, Codec codec, std::byte* plane, std::byte* pair_place, const auto& value, const auto& at) {
  const ScalePair pair = scale_pair(n, codec, value);
  std::memcpy(pair_place, &pair, sizeof(pair));
  for (int64_t i = 0; i < n; ++i) store_code(codec, plane, at(i), code_of(value(i), codec, pair));
}

// Bits as they are, NaNs too.
void copy_plain(Codec codec, std::byte* dst, int64_t at, const std::byte* src, int64_t of) {
  const int64_t bytes = codec_bits(codec) / 8;
  std::memcpy(dst + at * bytes, src + of * bytes, static_cast<size_t>(bytes));
}

void move_keys(const RowMove& move, const RowFormat& from, const RowFormat& to, const Channel* channels,
               const std::byte* src, std::byte* dst) {
  const int64_t end = int64_t{move.row0} + move.rows;
  for (int32_t c = 0; c < to.k_width; ++c) {
    const int32_t id = to.chan < 0 ? c : channels[to.chan + c].id;
    if (!is_quantized(to.k_codec)) {
      for (int64_t row = move.row0; row < end; ++row) {
        const int64_t at = k_index(to, row, c), of = k_index(from, row, id);
        if (to.k_codec == from.k_codec) {
          copy_plain(to.k_codec, dst + to.k, at, src + from.k, of);
        } else {
          store_plain(to.k_codec, dst + to.k, at, load_k(from, src, row, id));
        }
      }
      continue;
    }
    for (int64_t row = move.row0; row < end;) {
      const int64_t first = row, last = std::min(end, (row / to.k_group + 1) * to.k_group);
      store_group(
          last - first, to.k_codec, dst + to.k, dst + to.ks + ks_index(to, first, c) * 4,
          [&](int64_t i) { return load_k(from, src, first + i, id); },
          [&](int64_t i) { return k_index(to, first + i, c); });
      row = last;
    }
  }
}

void move_values(const RowMove& move, const RowFormat& from, const RowFormat& to, const std::byte* src,
                 std::byte* dst) {
  for (int64_t row = move.row0; row < int64_t{move.row0} + move.rows; ++row) {
    if (!is_quantized(to.v_codec)) {
      for (int64_t c = 0; c < to.v_width; ++c) {
        const int64_t at = v_index(to, kPageRows, row, c), of = v_index(from, kPageRows, row, c);
        if (to.v_codec == from.v_codec) {
          copy_plain(to.v_codec, dst + to.v, at, src + from.v, of);
        } else {
          store_plain(to.v_codec, dst + to.v, at, load_v(from, kPageRows, src, row, c));
        }
      }
      continue;
    }
    for (int64_t first = 0; first < to.v_width; first += to.v_group) {
      store_group(
          to.v_group, to.v_codec, dst + to.v, dst + to.vs + vs_index(to, row, first) * 4,
          [&](int64_t i) { return load_v(from, kPageRows, src, row, first + i); },
          [&](int64_t i) { return v_index(to, kPageRows, row, first + i); });
    }
  }
}

void estimate_rows(const RowMove& move, const RowFormat& from, const RowFormat& to, const std::byte* src,
                   std::byte* dst) {
  const int32_t end = (move.row0 + move.rows - 1) / kSumRows + 1;
  for (int32_t group = move.row0 / kSumRows; group < end; ++group) {
    const SumGroup rows = sum_group(group, move.row0, move.rows);
    const int32_t n = rows.end - rows.begin;
    const float weight = 1.0f / static_cast<float>(n);
    for (int64_t c = 0; c < to.v_width; ++c) {
      float mean = 0.0f;
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        const float x = load_v(from, kPageRows, src, row, c);
        if (std::isfinite(x)) mean = std::fma(x, weight, mean);
      }
      store_plain(to.v_codec, dst + to.v, v_index(to, kSumPageRows, group, c), mean);
    }
    store_plain(Codec::F32, dst + to.lw, group, log_rows(n));
  }
}

}  // namespace

float load_scaled(Codec codec, const std::byte* plane, int64_t index, const std::byte* scales, int64_t pair) {
  ScalePair p;
  std::memcpy(&p, scales + pair * 4, sizeof(p));
  return std::fma(half_to_float(p.scale), static_cast<float>(load_code(codec, plane, index)), half_to_float(p.zero));
}

void move_rows(const MoveRowsArgs& args, int32_t move_index, int32_t g) {
  const RowMove& move = args.moves[move_index];
  const RowFormat &from = args.full[g], &to = args.mid[g];
  const std::byte* src = args.pools[from.pool] + static_cast<uint64_t>(move.src) * from.page_bytes;
  if (to.v_width == 0) {
    if (args.sum == nullptr || args.sum[g].v_width == 0) return;
    const RowFormat& sum = args.sum[g];
    estimate_rows(move, from, sum, src, args.pools[sum.pool] + static_cast<uint64_t>(move.dst) * sum.page_bytes);
    return;
  }
  std::byte* dst = args.pools[to.pool] + static_cast<uint64_t>(move.dst) * to.page_bytes;
  move_keys(move, from, to, args.channels, src, dst);
  move_values(move, from, to, src, dst);
}

}  // namespace pare::ref
