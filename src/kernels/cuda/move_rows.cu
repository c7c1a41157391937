// Rows of the full zone into the pruned and quantized zone.
#include <algorithm>
#include <string>

#include "base/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/row_ops.h"
#include "kernels/estimated_rows.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr float kHalfMax = 65504.0f;

// What a launch reads; the moves travel with it.
struct MoveBatch {
  RowMove moves[kMovesPerLaunch];
  std::byte* pools[kMaxPools];
  const RowFormat *full, *mid, *sum;
  const Channel* channels;
};
static_assert(sizeof(MoveBatch) <= 4000);

// One (move, layer, KV head), resolved.
struct Place {
  const std::byte* from;  // the page
  std::byte* to;
  int32_t row0, rows;
};

__device__ __forceinline__ float load(Codec codec, const std::byte* plane, int64_t index) {
  const uint16_t bits = reinterpret_cast<const uint16_t*>(plane)[index];
  return codec == Codec::F16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(uint32_t{bits} << 16);
}

// fp16 scale and zero of a group whose least and greatest finite values are lo and hi; lo > hi: it has none.
struct Scale {
  __half scale, zero;
};
__device__ __forceinline__ Scale scale_of(float lo, float hi, int bits) {
  if (lo > hi) lo = hi = 0.0f;
  const __half zero = __float2half_rd(__fadd_rn(fminf(fmaxf(lo, -kHalfMax), kHalfMax), 0.0f));
  const float range = __fadd_rn(__fsub_rn(hi, __half2float(zero)), 0.0f);
  const float step = __fdiv_rn(range, static_cast<float>((1 << bits) - 1));
  return {__float2half_ru(fminf(fmaxf(step, 0.0f), kHalfMax)), zero};
}
__device__ __forceinline__ uint32_t code_of(float x, const Scale& s, int bits) {
  const float scale = __half2float(s.scale);
  if (scale == 0.0f) return 0;
  const float y = __fdiv_rn(__fsub_rn(x, __half2float(s.zero)), scale);
  return static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(y, 0.0f), static_cast<float>((1 << bits) - 1))));
}
__device__ __forceinline__ uint32_t scale_bits(const Scale& s) {
  return uint32_t{__half_as_ushort(s.scale)} | uint32_t{__half_as_ushort(s.zero)} << 16;
}
__device__ __forceinline__ void widen_range(float x, float* lo, float* hi) {
  if (!isfinite(x)) return;
  *lo = fminf(*lo, x);
  *hi = fmaxf(*hi, x);
}

// Stores the lanes' codes of consecutive elements; `index` is this lane's and a multiple of 8 in lane 0. Called by
// whole warps; lanes that are not active come in eights.
__device__ __forceinline__ void store_codes(std::byte* plane, int64_t index, uint32_t code, int bits, bool active) {
  const int lane = static_cast<int>(threadIdx.x) % 32, per_byte = 8 / bits;
  uint32_t byte = code << (lane % per_byte * bits);
  for (int step = 1; step < per_byte; step *= 2) byte |= __shfl_xor_sync(~0u, byte, step);
  if (active && lane % per_byte == 0) plane[index / per_byte] = static_cast<std::byte>(byte);
}

__device__ __forceinline__ int32_t source_channel(const RowFormat& to, const Channel* channels, int32_t c) {
  if (to.chan < 0) return c;
#ifdef PARE_FAULT_ATTENTION_MASK_ROTATED
  c = (c + 1) % to.k_width;
#endif
  return channels[to.chan + c].id;
}

__device__ void copy_plane(const Place& p, Codec from_codec, Codec to_codec, const std::byte* from, std::byte* to,
                           int32_t from_width, int32_t to_width, const auto& channel) {
  auto* out = reinterpret_cast<uint16_t*>(to);
  for (int32_t i = threadIdx.x; i < p.rows * to_width; i += kThreads) {
    const int32_t row = p.row0 + i / to_width, c = i % to_width;
    const int64_t of = int64_t{row} * from_width + channel(c), at = int64_t{row} * to_width + c;
    if (from_codec == to_codec) {
      out[at] = reinterpret_cast<const uint16_t*>(from)[of];
    } else {
      const float x = load(from_codec, from, of);
      out[at] =
          to_codec == Codec::F16 ? __half_as_ushort(__float2half_rn(x)) : __bfloat16_as_ushort(__float2bfloat16_rn(x));
    }
  }
}

// A lane quantizes a channel over the rows of a group that move.
__device__ void quantize_keys(const Place& p, const RowFormat& from, const RowFormat& to, const Channel* channels) {
  const int bits = codec_bits(to.k_codec), warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
  const int32_t first_group = p.row0 / to.k_group, end = p.row0 + p.rows;
  const int32_t items = ((end - 1) / to.k_group + 1 - first_group) * to.k_width;
  for (int32_t base = warp * 32; base < items; base += kThreads) {
    const int32_t item = base + lane;
    const bool active = item < items;
    const int32_t group = first_group + (active ? item / to.k_width : 0), c = active ? item % to.k_width : 0;
    const int32_t id = source_channel(to, channels, c), group_row = group * to.k_group;
    float lo = INFINITY, hi = -INFINITY;
    const int32_t begin = max(p.row0, group_row), last = min(end, group_row + to.k_group);
    for (int32_t row = begin; active && row < last; ++row) {
      widen_range(load(from.k_codec, p.from + from.k, int64_t{row} * from.k_width + id), &lo, &hi);
    }
    const Scale scale = scale_of(lo, hi, bits);
    if (active) {
      reinterpret_cast<uint32_t*>(p.to + to.ks)[int64_t{group} * to.k_width + c] = scale_bits(scale);
    }
    for (int32_t r = 0; r < to.k_group; ++r) {  // lanes of other groups move other rows
      const int32_t row = group_row + r;
      const bool moves = active && row >= begin && row < last;
      const int64_t index = int64_t{row} * to.k_width + c;
      uint32_t code = 0;
      if (moves) {
        code = code_of(load(from.k_codec, p.from + from.k, int64_t{row} * from.k_width + id), scale, bits);
      }
      store_codes(p.to + to.k, index, code, bits, moves);
    }
  }
}

// A warp quantizes a group of a row.
__device__ void quantize_values(const Place& p, const RowFormat& from, const RowFormat& to) {
  const int bits = codec_bits(to.v_codec), warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
  const int32_t groups = to.v_width / to.v_group;
  for (int32_t item = warp; item < p.rows * groups; item += kWarps) {
    const int64_t pair = int64_t{p.row0} * groups + item, first = pair * to.v_group;
    float lo = INFINITY, hi = -INFINITY;
    for (int32_t c = lane; c < to.v_group; c += 32) {
      widen_range(load(from.v_codec, p.from + from.v, first + c), &lo, &hi);
    }
    for (int step = 16; step > 0; step /= 2) {
      lo = fminf(lo, __shfl_xor_sync(~0u, lo, step));
      hi = fmaxf(hi, __shfl_xor_sync(~0u, hi, step));
    }
    const Scale scale = scale_of(lo, hi, bits);
    if (lane == 0) reinterpret_cast<uint32_t*>(p.to + to.vs)[pair] = scale_bits(scale);
    for (int32_t base = 0; base < to.v_group; base += 32) {
      const int32_t c = base + lane;
      const bool active = c < to.v_group;
      const uint32_t code = active ? code_of(load(from.v_codec, p.from + from.v, first + c), scale, bits) : 0;
      store_codes(p.to + to.v, first + c, code, bits, active);
    }
  }
}

// A thread takes a channel of an estimated row.
__device__ void estimate_rows(const Place& p, const RowFormat& from, const RowFormat& to) {
  const int32_t first = p.row0 / kSumRows, groups = (p.row0 + p.rows - 1) / kSumRows + 1 - first;
  auto* out = reinterpret_cast<uint16_t*>(p.to + to.v);
  for (int32_t i = threadIdx.x; i < groups * to.v_width; i += kThreads) {
    const int32_t group = first + i / to.v_width, c = i % to.v_width;
    const SumGroup rows = sum_group(group, p.row0, p.rows);
    const float weight = __fdiv_rn(1.0f, static_cast<float>(rows.end - rows.begin));
    float mean = 0.0f;
    for (int32_t row = rows.begin; row < rows.end; ++row) {
      const float x = load(from.v_codec, p.from + from.v, int64_t{row} * from.v_width + c);
      if (isfinite(x)) mean = __fmaf_rn(x, weight, mean);
    }
    out[int64_t{group} * to.v_width + c] = to.v_codec == Codec::F16 ? __half_as_ushort(__float2half_rn(mean))
                                                                    : __bfloat16_as_ushort(__float2bfloat16_rn(mean));
    if (c == 0) reinterpret_cast<float*>(p.to + to.lw)[group] = log_rows(rows.end - rows.begin);
  }
}

// Block (move, layer and KV head).
__global__ void __launch_bounds__(kThreads) move_rows_kernel(const __grid_constant__ MoveBatch args) {
  wait_for_inputs();
  start_dependents();
  const RowMove move = args.moves[blockIdx.x];
  const RowFormat from = args.full[blockIdx.y], to = args.mid[blockIdx.y];
  if (from.pool != move.cls) return;
  const auto place_in = [&](const RowFormat& zone) {
    return Place{args.pools[from.pool] + static_cast<uint64_t>(move.src) * from.page_bytes,
                 args.pools[zone.pool] + static_cast<uint64_t>(move.dst) * zone.page_bytes, move.row0, move.rows};
  };
  if (to.v_width == 0) {
    if (args.sum == nullptr) return;
    const RowFormat sum = args.sum[blockIdx.y];
    if (sum.v_width > 0) estimate_rows(place_in(sum), from, sum);
    return;
  }
  const Place place = place_in(to);
  if (is_quantized(to.k_codec)) {
    if (to.k_width > 0) quantize_keys(place, from, to, args.channels);
  } else {
    copy_plane(place, from.k_codec, to.k_codec, place.from + from.k, place.to + to.k, from.k_width, to.k_width,
               [&](int32_t c) { return source_channel(to, args.channels, c); });
  }
  if (is_quantized(to.v_codec)) {
    quantize_values(place, from, to);
  } else {
    copy_plane(place, from.v_codec, to.v_codec, place.from + from.v, place.to + to.v, from.v_width, to.v_width,
               [](int32_t c) { return c; });
  }
}

Status check(const MoveRowsArgs& args) {
  const auto sixteen = [](Codec codec) { return codec == Codec::F16 || codec == Codec::Bf16; };
  for (int32_t f = 0; f < args.n_formats; ++f) {
    const RowFormat &from = args.host_full[f], &to = args.host_mid[f];
    if (to.v_width == 0) {
      if (args.host_sum == nullptr || args.host_sum[f].v_width == 0) continue;
      const RowFormat& sum = args.host_sum[f];
      if (!sixteen(from.v_codec) || !sixteen(sum.v_codec) || from.order != Order::Rows || sum.order != Order::Rows ||
          sum.v_width != from.v_width || sum.lw == kNoPlane) {
        return unsupported("moved rows on CUDA: format " + std::to_string(f) + " is not of 16-bit estimated rows");
      }
      continue;
    }
    const bool codecs =
        sixteen(from.k_codec) && sixteen(from.v_codec) && to.k_codec != Codec::F32 && to.v_codec != Codec::F32;
    if (!codecs || from.order != Order::Rows || to.order != Order::Rows || to.k_width % 16 != 0 ||
        to.v_width % 16 != 0) {
      return unsupported("moved rows on CUDA: format " + std::to_string(f) + " is not of 16-bit or quantized rows");
    }
    if ((is_quantized(to.k_codec) && (to.k_group == 0 || to.k_group % 16 != 0)) ||
        (is_quantized(to.v_codec) && (to.v_group == 0 || to.v_group % 16 != 0 || to.v_width % to.v_group != 0))) {
      return unsupported("moved rows on CUDA: groups of format " + std::to_string(f));
    }
  }
  return ok_status();
}

}  // namespace

Status move_rows(const MoveRowsArgs& args, Stream stream, bool pdl) {
  if (args.n_moves == 0 || args.n_formats == 0) return ok_status();
  PARE_RETURN_IF_ERROR(check(args));
  MoveBatch batch{};
  std::copy(std::begin(args.pools), std::end(args.pools), batch.pools);
  batch.full = args.full;
  batch.mid = args.mid;
  batch.sum = args.sum;
  batch.channels = args.channels;
  for (int32_t first = 0; first < args.n_moves; first += kMovesPerLaunch) {
    const int32_t n = std::min(kMovesPerLaunch, args.n_moves - first);
    std::copy_n(args.moves + first, n, batch.moves);
    const dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>(args.n_formats));
    PARE_RETURN_IF_ERROR(launch(move_rows_kernel, grid, dim3(kThreads), 0, stream, pdl, batch));
  }
  return ok_status();
}

}  // namespace pare::cuda
