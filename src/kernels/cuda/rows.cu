#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/card_clock.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/row_ops.h"

namespace pare::cuda {
namespace {

constexpr int kBlock = 256;

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>(ceil_div<int64_t>(threads, kBlock)); }
dim3 grid_of(int64_t rows, unsigned pieces_per_row) {
  PARE_CHECK(rows * pieces_per_row <= INT32_MAX);
  return dim3(static_cast<unsigned>(rows * pieces_per_row));
}

// --- plain elements ---

// body(i, columns) for every group of four of `items` elements; the last group may be shorter.
template <typename Body>
__global__ void __launch_bounds__(kBlock) elements_kernel(int64_t items, Body body) {
  wait_for_inputs();
  start_dependents();
  const int64_t i = 4 * (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x);
  if (i < items) body(i, static_cast<int>(min(items - i, int64_t{4})));
}

template <typename Body>
Status for_elements(int64_t items, Stream stream, bool pdl, Body body) {
  if (items == 0) return ok_status();
  return launch(elements_kernel<Body>, dim3(blocks_for(ceil_div<int64_t>(items, 4))), dim3(kBlock), 0, stream, pdl,
                items, body);
}

// The first `columns` of four elements at an address that is a multiple of four from an aligned start.
template <typename T>
__device__ __forceinline__ Four load_some(const T* x, int columns) {
  return columns == 4 ? load_four(x) : load_columns<false>(x, 0, columns);
}
template <typename T>
__device__ __forceinline__ void store_some(T* out, int columns, const Four& f) {
  if (columns == 4) {
    store_four(out, f);
  } else {
    store_columns<false>(out, 0, columns, f);
  }
}

// Rows are cut into pieces of kBlock threads each; a grid is all pieces of all rows, along x. (One division of 32 bits
// in a block, where a flat index would need one of 64 bits in every thread.)
struct Piece {
  int64_t row;
  int64_t thread;  // within the row
};
__device__ __forceinline__ Piece piece_of(unsigned pieces_per_row) {
  const unsigned row = blockIdx.x / pieces_per_row;
  return {row, static_cast<int64_t>(blockIdx.x - row * pieces_per_row) * kBlock + threadIdx.x};
}

__global__ void __launch_bounds__(kBlock) add_row_kernel(const float* row, float* y, int64_t dim, unsigned pieces) {
  wait_for_inputs();
  start_dependents();
  const Piece at = piece_of(pieces);
  if (at.thread < dim) y[at.row * dim + at.thread] += row[at.thread];
}

// --- activations ---

template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  if (kActivation == Activation::kSilu) return __fdividef(x, 1.0f + __expf(-x));
  if (kActivation == Activation::kGeluTanh) {
    // x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
    const float inner = fmaf(0.044715f * x * x, x, x);
    return __fdividef(x, 1.0f + __expf(-1.5957691216f * inner));
  }
  return 0.5f * x * erfcf(-0.70710678f * x);
}

template <bool kAligned, Activation kActivation, typename T>
__global__ void __launch_bounds__(kBlock) glu_kernel(GluArgs args, unsigned pieces) {
  wait_for_inputs();
  start_dependents();
  const Piece at = piece_of(pieces);
  const int i = 4 * static_cast<int>(at.thread), n = static_cast<int>(args.dim);
  Four y = load_columns<kAligned>(static_cast<const T*>(args.gate) + at.row * args.pitch, i, n);
  Four up{{1.0f, 1.0f, 1.0f, 1.0f}};
  if (args.up) up = load_columns<kAligned>(static_cast<const T*>(args.up) + at.row * args.pitch, i, n);
#pragma unroll
  for (int j = 0; j < 4; ++j) y.v[j] = activate<kActivation>(y.v[j]) * up.v[j];
  store_columns<kAligned>(static_cast<__nv_bfloat16*>(args.out) + at.row * args.dim, i, n, y);
}

template <Activation kActivation, typename T>
Status launch_glu(const GluArgs& args, Stream stream, bool pdl) {
  const unsigned pieces = blocks_for(ceil_div<int64_t>(args.dim, 4));
  const bool aligned = args.dim % 4 == 0 && args.pitch % 4 == 0;
  const auto kernel = aligned ? glu_kernel<true, kActivation, T> : glu_kernel<false, kActivation, T>;
  return launch(kernel, grid_of(args.rows, pieces), dim3(kBlock), 0, stream, pdl, args, pieces);
}

template <typename T>
Status dispatch_glu(const GluArgs& args, Stream stream, bool pdl) {
  switch (args.activation) {
    case Activation::kSilu: return launch_glu<Activation::kSilu, T>(args, stream, pdl);
    case Activation::kGeluTanh: return launch_glu<Activation::kGeluTanh, T>(args, stream, pdl);
    case Activation::kGeluErf: return launch_glu<Activation::kGeluErf, T>(args, stream, pdl);
  }
  return unsupported("CUDA: an unknown activation");
}

// --- copies ---

template <typename Word>
__global__ void __launch_bounds__(kBlock) gather_rows_kernel(GatherRowsArgs args, int64_t words, unsigned pieces) {
  wait_for_inputs();
  start_dependents();
  const Piece at = piece_of(pieces);
  if (at.thread >= words) return;
  const int64_t from = args.rows ? args.rows[at.row] : at.row;
  static_cast<Word*>(args.out)[at.row * words + at.thread] = static_cast<const Word*>(args.x)[from * words + at.thread];
}

template <typename Word>
Status launch_gather(const GatherRowsArgs& args, Stream stream, bool pdl) {
  const int64_t words = args.row_bytes / static_cast<int64_t>(sizeof(Word));
  const unsigned pieces = blocks_for(words);
  return launch(gather_rows_kernel<Word>, grid_of(args.n, pieces), dim3(kBlock), 0, stream, pdl, args, words, pieces);
}

// Block (copy, plane): planes are K and V of every layer and head in turn.
__global__ void __launch_bounds__(kBlock) copy_pages_kernel(CopyPagesArgs args) {
  wait_for_inputs();
  start_dependents();
  const PageCopy copy = args.copies[blockIdx.x];
  const RowFormat& format = args.formats[blockIdx.y / 2];
  const bool value = blockIdx.y % 2 != 0;
  const uint64_t plane = value ? format.v : format.k;
  if (format.pool != copy.cls || plane == kNoPlane) return;
  // Rows of 16-bit values, a multiple of 16 wide.
  const int vectors = kPageRows * (value ? format.v_width : format.k_width) * 2 / 16;
  std::byte* base = args.pools[format.pool] + plane;
  const auto* from = reinterpret_cast<const uint4*>(base + static_cast<uint64_t>(copy.src) * format.page_bytes);
  auto* to = reinterpret_cast<uint4*>(base + static_cast<uint64_t>(copy.dst) * format.page_bytes);
  for (int i = threadIdx.x; i < vectors; i += kBlock) to[i] = from[i];
}

// --- pooling ---

constexpr int kPoolThreads = 1024;

// A block pools one group of rows, kPoolThreads / blockDim.x of its rows at a time: threadIdx.y adds up every
// blockDim.y-th row, and the parts are added in ascending order. Then columns go on to the next blockDim.x.
__global__ void __launch_bounds__(kPoolThreads) mean_pool_kernel(MeanPoolArgs args) {
  __shared__ float parts[kPoolThreads];
  __shared__ double squares[kPoolThreads / 32];
  wait_for_inputs();
  start_dependents();
  const int32_t begin = args.begin[blockIdx.x], end = args.begin[blockIdx.x + 1];
  const float inverse_count = end > begin ? 1.0f / static_cast<float>(end - begin) : 0.0f;
  float* out = args.out + blockIdx.x * args.dim;
  double norm = 0.0;  // in the threads of part 0
  for (int64_t column0 = 0; column0 < args.dim; column0 += blockDim.x) {
    const int64_t column = column0 + threadIdx.x;
    float sum = 0.0f;
    if (column < args.dim) {
      for (int32_t t = begin + threadIdx.y; t < end; t += blockDim.y) sum += args.x[t * args.dim + column];
    }
    parts[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < args.dim) {
      for (int part = 1; part < blockDim.y; ++part) sum += parts[part * blockDim.x + threadIdx.x];
      sum *= inverse_count;
      out[column] = sum;
      norm += static_cast<double>(sum) * sum;
    }
    __syncthreads();
  }
  if (!args.normalize) return;
  // Part 0 is whole warps of the block: its threads' sums in a fixed tree, those of the other parts are 0.
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int step = 16; step > 0; step /= 2) norm += __shfl_xor_sync(kFullWarp, norm, step);
  if (thread % 32 == 0) squares[thread / 32] = norm;
  __syncthreads();
  norm = squares[thread % 32];
  for (int step = 16; step > 0; step /= 2) norm += __shfl_xor_sync(kFullWarp, norm, step);
  // The floor keeps an all-zero embedding at zero instead of NaN.
  const float factor = static_cast<float>(1.0 / sqrt(fmax(norm, 1e-24)));
  for (int64_t column = thread; column < args.dim; column += kPoolThreads) out[column] *= factor;
}

}  // namespace

Status copy_pages(const CopyPagesArgs& args, Stream stream, bool pdl) {
  if (args.n_copies == 0 || args.n_formats == 0) return ok_status();
  const dim3 grid(static_cast<unsigned>(args.n_copies), static_cast<unsigned>(2 * args.n_formats));
  return launch(copy_pages_kernel, grid, dim3(kBlock), 0, stream, pdl, args);
}

Status gather_rows(const GatherRowsArgs& args, Stream stream, bool pdl) {
  PARE_CHECK(args.row_bytes % 2 == 0);
  if (args.n == 0 || args.row_bytes == 0) return ok_status();
  if (args.row_bytes % 16 == 0) return launch_gather<uint4>(args, stream, pdl);
  return args.row_bytes % 4 == 0 ? launch_gather<uint32_t>(args, stream, pdl)
                                 : launch_gather<uint16_t>(args, stream, pdl);
}

Status add(const float* x, float* y, int64_t items, Stream stream, bool pdl) {
  return for_elements(items, stream, pdl, [x, y] __device__(int64_t i, int columns) {
    const Four a = load_some(x + i, columns);
    Four b = load_some(y + i, columns);
    for (int j = 0; j < 4; ++j) b.v[j] += a.v[j];
    store_some(y + i, columns, b);
  });
}

Status add_row(const float* row, float* y, int64_t rows, int64_t dim, Stream stream, bool pdl) {
  if (rows * dim == 0) return ok_status();
  const unsigned pieces = blocks_for(dim);
  return launch(add_row_kernel, grid_of(rows, pieces), dim3(kBlock), 0, stream, pdl, row, y, dim, pieces);
}

Status scale(float factor, float* x, int64_t items, Stream stream, bool pdl) {
  return for_elements(items, stream, pdl, [factor, x] __device__(int64_t i, int columns) {
    Four f = load_some(x + i, columns);
    for (int j = 0; j < 4; ++j) f.v[j] *= factor;
    store_some(x + i, columns, f);
  });
}

Status softcap(float cap, float* x, int64_t items, Stream stream, bool pdl) {
  return for_elements(items, stream, pdl, [cap, x] __device__(int64_t i, int columns) {
    Four f = load_some(x + i, columns);
    for (int j = 0; j < 4; ++j) f.v[j] = cap * tanhf(f.v[j] / cap);
    store_some(x + i, columns, f);
  });
}

Status glu(const GluArgs& args, Stream stream, bool pdl) {
  PARE_CHECK(args.type == DType::F32 || args.type == DType::BF16);
  if (args.rows == 0 || args.dim == 0) return ok_status();
  return args.type == DType::F32 ? dispatch_glu<float>(args, stream, pdl)
                                 : dispatch_glu<__nv_bfloat16>(args, stream, pdl);
}

Status mean_pool(const MeanPoolArgs& args, Stream stream, bool pdl) {
  if (args.groups == 0 || args.dim == 0) return ok_status();
  // Whole warps along the columns, as many rows at a time as the block has room for: both follow from the width alone.
  const auto columns = std::bit_ceil(static_cast<unsigned>(std::clamp<int64_t>(args.dim, 32, 256)));
  const dim3 block(columns, kPoolThreads / columns);
  return launch(mean_pool_kernel, dim3(static_cast<unsigned>(args.groups)), block, 0, stream, pdl, args);
}

Status select_tokens(const SelectTokensArgs& args, Stream stream, bool pdl) {
  return for_elements(4 * args.rows, stream, pdl, [args] __device__(int64_t i, int) {
    if (i == 0 && args.began) *args.began = card_clock();
    const int64_t t = i / 4;
    const int32_t slot = args.slots[t];
    args.out[t] = slot < 0 ? args.known[t] : args.last_tokens[slot];
  });
}

Status store_tokens(const StoreTokensArgs& args, Stream stream, bool pdl) {
  // A failed draw becomes 0, because a step may embed the token before the host has seen it.
  return for_elements(4 * args.n, stream, pdl, [args] __device__(int64_t i, int) {
    const int32_t slot = args.slots[i / 4];
    if (slot >= 0) args.last_tokens[slot] = max(0, args.ids[args.rows ? args.rows[i / 4] : i / 4]);
  });
}

}  // namespace pare::cuda
