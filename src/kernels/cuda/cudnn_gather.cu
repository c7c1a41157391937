// Stored rows of a sequence out of their pages.
#include <string>

#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/launch.cuh"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

// One block a page, a KV head, and keys or values: a plane is one run of bytes on both sides.
__global__ void __launch_bounds__(kThreads) gather_kernel(GatherPagesArgs args, int head_dim) {
  const int first = static_cast<int>(blockIdx.x) * kPageRows, head = static_cast<int>(blockIdx.y);
  const bool values = blockIdx.z != 0;
  const RowFormat& f = args.kv.formats[int64_t{args.kv_layer} * args.kv.n_kv_heads + head];  // zone full is the first
  const int64_t page = args.kv.page_ids[args.page0 + static_cast<int>(blockIdx.x)];
  const auto* from = reinterpret_cast<const uint4*>(args.kv.pools[f.pool] + (values ? f.v : f.k) + page * f.page_bytes);
  const int row_words = head_dim * 2 / static_cast<int>(sizeof(uint4));
  auto* to = static_cast<uint4*>(values ? args.v : args.k) + (int64_t{head} * args.rows + first) * row_words;
  const int words = min(kPageRows, args.rows - first) * row_words;
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads) to[i] = from[i];
}

}  // namespace

Status gather_pages(const GatherPagesArgs& args, Stream stream) {
  if (args.rows <= 0) return ok_status();
  if (args.kv.head_dim % 8 != 0) {
    return unsupported("gathered rows: head dimension " + std::to_string(args.kv.head_dim) + ", no multiple of 8");
  }
  const auto pages = static_cast<unsigned>((args.rows + kPageRows - 1) / kPageRows);
  return launch(gather_kernel, dim3(pages, static_cast<unsigned>(args.kv.n_kv_heads), 2), kThreads, 0, stream, false,
                args, args.kv.head_dim);
}

}  // namespace pare::cuda
