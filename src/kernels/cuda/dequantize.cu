#include <string>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.cuh"

namespace pare::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTaskColumns = 128;         // two lines of each row of bf16
constexpr int kPitch = kTaskColumns + 8;  // rows of the same column in different banks

// Values of one group as a lane holds them (fragments.cuh): [K step][register][lower, upper half].
struct GroupValues {
  float v[2][4][2];
};

template <DType kType>
__device__ __forceinline__ GroupValues group_values(const UnitQuants<kType>& q, const UnitScales& scales, int group) {
  constexpr DeviceFormat f = *device_format(kType);
  GroupValues out;
  if constexpr (f.plain != 0) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        if constexpr (f.plain == 4) {
          out.v[step][reg][0] = __uint_as_float(q.words[8 * step + 2 * reg]);
          out.v[step][reg][1] = __uint_as_float(q.words[8 * step + 2 * reg + 1]);
        } else {
          const uint32_t word = q.words[4 * step + reg];
          const float2 two = kType == DType::BF16 ? unpack_bf16x2(word) : unpack_half2(word);
          out.v[step][reg][0] = two.x;
          out.v[step][reg][1] = two.y;
        }
      }
    }
  } else {
    const Fragment<kType> quants = make_fragment<kType>(q, group);
    const GroupScales s = group_scales<kType>(scales, group);
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        const float2 two = unpack_bf16x2(quants.a[step][0][reg]);
        const float d = s.d[step][reg % 2], m = s.m[step][reg % 2];
        // Not fused: the source's own arithmetic rounds the product first.
        out.v[step][reg][0] = has_minimum(f.scales) ? __fadd_rn(__fmul_rn(d, two.x), m) : d * two.x;
        out.v[step][reg][1] = has_minimum(f.scales) ? __fadd_rn(__fmul_rn(d, two.y), m) : d * two.y;
      }
    }
  }
  return out;
}

struct Shape {
  const std::byte* data;
  int64_t tile_bytes;
  int32_t n, k, tasks;  // tasks: of one tile
};

template <DType kType>
__global__ void __launch_bounds__(32 * kWarps) dequantize_kernel(Shape w, __nv_bfloat16* out, int64_t ld) {
  constexpr DeviceFormat f = *device_format(kType);
  __shared__ __align__(16) __nv_bfloat16 staged[kWarps][kTileRows][kPitch];
  wait_for_inputs();  // an earlier launch may still read `out`
  start_dependents();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t task = int64_t{blockIdx.x} * kWarps + warp;
  const int tile = static_cast<int>(task / w.tasks), first = static_cast<int>(task % w.tasks) * kTaskColumns;
  if (tile * kTileRows >= w.n) return;
  const std::byte* tile_data = w.data + tile * w.tile_bytes;
#pragma unroll
  for (int i = 0; i < kTaskColumns; i += unit_columns(f)) {
    if (first + i >= w.k) break;
    const int unit = (first + i) / unit_columns(f);
    const std::byte* record = tile_data + int64_t{unit / f.units} * record_bytes(f);
    const auto quants = load_unit<kType>(record + unit % f.units * unit_quant_bytes(f), lane);
    const UnitScales scales = load_unit_scales<kType>(record + header_offset(f), unit % f.units, lane);
#pragma unroll
    for (int group = 0; group < unit_groups(f); ++group) {
      const GroupValues values = group_values<kType>(quants, scales, group);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int reg = 0; reg < 4; ++reg) {
          const int row = lane / 4 + reg % 2 * 8;
          const int column = i + group * kGroupColumns + step * 16 + reg / 2 * 8 + lane % 4 * 2;
          *reinterpret_cast<uint32_t*>(&staged[warp][row][column]) =
              pack_bf16x2(values.v[step][reg][0], values.v[step][reg][1]);
        }
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kTileRows / 2; ++i) {
    const int within = 2 * i + lane / 16, c = lane % 16 * 8, row = tile * kTileRows + within;
    if (row >= w.n) continue;
    __nv_bfloat16* to = out + row * ld + first + c;
    if (first + c + 8 <= w.k) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&staged[warp][within][c]);
    } else {
      for (int j = 0; first + c + j < w.k; ++j) to[j] = staged[warp][within][c + j];
    }
  }
}

// A block gathers one row. Lanes that hold other rows of its tile have nothing to write: a step's rows are few.
template <DType kType>
__global__ void __launch_bounds__(32 * kWarps) embed_kernel(Shape w, const int32_t* ids, float scale, float* out) {
  constexpr DeviceFormat f = *device_format(kType);
  wait_for_inputs();
  start_dependents();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int id = ids[blockIdx.x], tile = id / kTileRows, row = id % kTileRows;
  float* to = out + int64_t{blockIdx.x} * w.k;
  for (int unit = warp; unit * unit_columns(f) < w.k; unit += kWarps) {
    const std::byte* record = w.data + tile * w.tile_bytes + int64_t{unit / f.units} * record_bytes(f);
    const auto quants = load_unit<kType>(record + unit % f.units * unit_quant_bytes(f), lane);
    const UnitScales scales = load_unit_scales<kType>(record + header_offset(f), unit % f.units, lane);
    if (lane / 4 != row % 8) continue;
#pragma unroll
    for (int group = 0; group < unit_groups(f); ++group) {
      const GroupValues values = group_values<kType>(quants, scales, group);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int reg = 0; reg < 4; ++reg) {
          if (reg % 2 != row / 8) continue;
          const int column = unit * unit_columns(f) + group * kGroupColumns + step * 16 + reg / 2 * 8 + lane % 4 * 2;
          if (column < w.k) to[column] = scale * values.v[step][reg][0];
          if (column + 1 < w.k) to[column + 1] = scale * values.v[step][reg][1];
        }
      }
    }
  }
}

// Calls run.operator()<kType>() for the weight's type.
template <typename Run>
Status dispatch(DType dtype, Run&& run) {
  switch (dtype) {
    case DType::F32: return run.template operator()<DType::F32>();
    case DType::F16: return run.template operator()<DType::F16>();
    case DType::BF16: return run.template operator()<DType::BF16>();
    case DType::Q4_0: return run.template operator()<DType::Q4_0>();
    case DType::Q4_1: return run.template operator()<DType::Q4_1>();
    case DType::Q5_0: return run.template operator()<DType::Q5_0>();
    case DType::Q5_1: return run.template operator()<DType::Q5_1>();
    case DType::Q8_0: return run.template operator()<DType::Q8_0>();
    case DType::Q2_K: return run.template operator()<DType::Q2_K>();
    case DType::Q3_K: return run.template operator()<DType::Q3_K>();
    case DType::Q4_K: return run.template operator()<DType::Q4_K>();
    case DType::Q5_K: return run.template operator()<DType::Q5_K>();
    case DType::Q6_K: return run.template operator()<DType::Q6_K>();
    case DType::IQ4_NL: return run.template operator()<DType::IQ4_NL>();
    case DType::IQ4_XS: return run.template operator()<DType::IQ4_XS>();
    default: return unsupported("CUDA: weights of type " + std::string(dtype_name(dtype)));
  }
}

Shape shape_of(const DeviceWeight& w) {
  const DeviceFormat* f = device_format(w.dtype);
  return {w.data, f != nullptr ? tile_bytes(*f, w.k) : 0, static_cast<int32_t>(w.n), static_cast<int32_t>(w.k),
          static_cast<int32_t>(ceil_div<int64_t>(w.k, kTaskColumns))};
}

}  // namespace

Status dequantize(const DeviceWeight& w, uint16_t* out, int64_t ld, Stream stream, bool pdl) {
  PARE_CHECK(ld >= w.k && ld % 8 == 0);
  const Shape shape = shape_of(w);
  const int64_t blocks = ceil_div<int64_t>(tiles_of(w.n) * shape.tasks, kWarps);
  return dispatch(w.dtype, [&]<DType kType>() {
    return launch(dequantize_kernel<kType>, dim3(static_cast<unsigned>(blocks)), dim3(32 * kWarps), 0, stream, pdl,
                  shape, reinterpret_cast<__nv_bfloat16*>(out), ld);
  });
}

Status embed_rows(const DeviceWeight& table, const int32_t* ids, int64_t t, float scale, float* out, Stream stream,
                  bool pdl) {
  if (t == 0) return ok_status();
  return dispatch(table.dtype, [&]<DType kType>() {
    return launch(embed_kernel<kType>, dim3(static_cast<unsigned>(t)), dim3(32 * kWarps), 0, stream, pdl,
                  shape_of(table), ids, scale, out);
  });
}

}  // namespace pare::cuda
