#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/row_ops.h"

namespace pare::cuda {
namespace {

// A row lies in the registers of blockDim.x threads, kFours groups of four columns each: group g of the row belongs to
// thread g % blockDim.x. Both numbers follow from the width alone, and with them every sum.
constexpr int kMaxThreads = 1024, kFewFours = 4, kManyFours = 8;
constexpr int64_t kMaxDim = int64_t{kMaxThreads} * kManyFours * 4;

template <int kFours>
struct Row {
  Four part[kFours];
};

__device__ __forceinline__ int column(int part) { return 4 * (part * blockDim.x + threadIdx.x); }

template <bool kAligned, int kFours, typename T>
__device__ __forceinline__ void load_row(const T* x, int n, Row<kFours>* row) {
#pragma unroll
  for (int p = 0; p < kFours; ++p) row->part[p] = load_columns<kAligned>(x, column(p), n);
}
template <bool kAligned, int kFours, typename T>
__device__ __forceinline__ void store_row(T* x, int n, const Row<kFours>& row) {
#pragma unroll
  for (int p = 0; p < kFours; ++p) store_columns<kAligned>(x, column(p), n, row.part[p]);
}

template <int kFours>
__device__ __forceinline__ void add_row_parts(const Row<kFours>& from, Row<kFours>* to) {
#pragma unroll
  for (int p = 0; p < kFours; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) to->part[p].v[j] += from.part[p].v[j];
  }
}

// row = rms_norm(row) * weight
template <bool kAligned, int kFours>
__device__ __forceinline__ void rms_normalize(const float* weight, float eps, int n, float* warp_sums,
                                              Row<kFours>* row) {
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kFours; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) squares = fmaf(row->part[p].v[j], row->part[p].v[j], squares);
  }
  const float inverse = 1.0f / sqrtf(sum_row(squares, warp_sums) / static_cast<float>(n) + eps);
#pragma unroll
  for (int p = 0; p < kFours; ++p) {
    const Four w = load_columns<kAligned>(weight, column(p), n);
#pragma unroll
    for (int j = 0; j < 4; ++j) row->part[p].v[j] = row->part[p].v[j] * inverse * w.v[j];
  }
}

template <bool kAligned, int kFours, typename Delta>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_kernel(RmsNormArgs args) {
  __shared__ float warp_sums[kMaxThreads / 32];
  wait_for_inputs();
  start_dependents();
  const int64_t t = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  // A row beyond the last is computed like any other, for the barriers, and stored nowhere.
  const bool present = t < args.rows;
  const int64_t first = (present ? t : args.rows - 1) * args.dim;
  const int n = static_cast<int>(args.dim);
  Row<kFours> x;
  load_row<kAligned>(args.x + first, n, &x);
  if (args.delta) {
    Row<kFours> delta;
    load_row<kAligned>(static_cast<const Delta*>(args.delta) + first, n, &delta);
    if (args.delta_weight) rms_normalize<kAligned>(args.delta_weight, args.eps, n, warp_sums, &delta);
    add_row_parts(delta, &x);
    if (present) store_row<kAligned>(args.x + first, n, x);
  }
  if (!args.weight) return;
  rms_normalize<kAligned>(args.weight, args.eps, n, warp_sums, &x);
  if (present) store_row<kAligned>(static_cast<__nv_bfloat16*>(args.out) + first, n, x);
}

template <bool kAligned, int kFours, typename Delta>
__global__ void __launch_bounds__(kMaxThreads) layer_norm_kernel(LayerNormArgs args) {
  __shared__ float warp_sums[kMaxThreads / 32];
  wait_for_inputs();
  start_dependents();
  const int64_t t = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const bool present = t < args.rows;
  const int64_t first = (present ? t : args.rows - 1) * args.dim;
  const int n = static_cast<int>(args.dim);
  Row<kFours> x;
  load_row<kAligned>(args.x + first, n, &x);
  if (args.delta) {
    Row<kFours> delta;
    load_row<kAligned>(static_cast<const Delta*>(args.delta) + first, n, &delta);
    add_row_parts(delta, &x);
  }
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < kFours; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += x.part[p].v[j];
  }
  const float mean = sum_row(sum, warp_sums) / static_cast<float>(n);
  float squares = 0.0f;
#pragma unroll
  for (int p = 0; p < kFours; ++p) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float centred = column(p) + j < n ? x.part[p].v[j] - mean : 0.0f;
      x.part[p].v[j] = centred;
      squares = fmaf(centred, centred, squares);
    }
  }
  const float inverse = 1.0f / sqrtf(sum_row(squares, warp_sums) / static_cast<float>(n) + args.eps);
#pragma unroll
  for (int p = 0; p < kFours; ++p) {
    const Four w = load_columns<kAligned>(args.weight, column(p), n),
               b = load_columns<kAligned>(args.bias, column(p), n);
#pragma unroll
    for (int j = 0; j < 4; ++j) x.part[p].v[j] = fmaf(x.part[p].v[j] * inverse, w.v[j], b.v[j]);
  }
  if (!present) return;
  if (args.out_f32) store_row<kAligned>(args.out_f32 + first, n, x);
  if (args.out_bf16) store_row<kAligned>(static_cast<__nv_bfloat16*>(args.out_bf16) + first, n, x);
}

// Threads of one row: the fewest whole warps, a power of two of them, that hold it in kFewFours groups each.
int threads_of_row(int64_t dim) {
  int threads = 32;
  while (threads < kMaxThreads && int64_t{threads} * kFewFours * 4 < dim) threads *= 2;
  return threads;
}

struct Geometry {
  dim3 grid, block;
};
// Short rows share a block of 256 threads, unless there are so few that each had better run on its own multiprocessor.
Geometry geometry_of(int64_t rows, int64_t dim) {
  constexpr int kBlock = 256, kFewRows = 264;
  const int threads = threads_of_row(dim);
  const int per_block = rows <= kFewRows ? 1 : std::max(1, kBlock / threads);
  return {dim3(static_cast<unsigned>(ceil_div<int64_t>(rows, per_block))), dim3(threads, per_block)};
}

// Calls launch_one.operator()<kAligned, kFours, Delta>() for the width and the type of the delta.
template <typename LaunchOne>
Status dispatch(int64_t dim, DType delta_type, LaunchOne&& launch_one) {
  if (dim > kMaxDim) return unsupported("CUDA: a norm of more than 32768 columns");
  PARE_CHECK(delta_type == DType::F32 || delta_type == DType::BF16);
  const auto with_type = [&]<bool kAligned, int kFours>() {
    return delta_type == DType::F32 ? launch_one.template operator()<kAligned, kFours, float>()
                                    : launch_one.template operator()<kAligned, kFours, __nv_bfloat16>();
  };
  const bool few = dim <= int64_t{kMaxThreads} * kFewFours * 4;
  if (dim % 4 != 0) {
    return few ? with_type.template operator()<false, kFewFours>() : with_type.template operator()<false, kManyFours>();
  }
  return few ? with_type.template operator()<true, kFewFours>() : with_type.template operator()<true, kManyFours>();
}

}  // namespace

Status rms_norm(const RmsNormArgs& args, Stream stream, bool pdl) {
  PARE_CHECK(args.weight == nullptr || args.out != nullptr);
  if (args.rows == 0 || args.dim == 0) return ok_status();
  const Geometry g = geometry_of(args.rows, args.dim);
  return dispatch(args.dim, args.delta_type, [&]<bool kAligned, int kFours, typename Delta>() {
    return launch(rms_norm_kernel<kAligned, kFours, Delta>, g.grid, g.block, 0, stream, pdl, args);
  });
}

Status layer_norm(const LayerNormArgs& args, Stream stream, bool pdl) {
  if (args.rows == 0 || args.dim == 0) return ok_status();
  const Geometry g = geometry_of(args.rows, args.dim);
  return dispatch(args.dim, args.delta_type, [&]<bool kAligned, int kFours, typename Delta>() {
    return launch(layer_norm_kernel<kAligned, kFours, Delta>, g.grid, g.block, 0, stream, pdl, args);
  });
}

}  // namespace pare::cuda
