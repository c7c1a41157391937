// Prefill attention on CUDA: executes a BlockPlan over the paged store (plan/block_plan.h says what a plan means).
//
//   out[t][h] = softmax over the keys that the plan lets row t of head h attend, of softcap(scale * q.k), times v;
//   0 for a row that attends no key. Rows that no tile stores, and heads beyond SeqStep::heads, are left alone.
//
// Shapes: q, out [T][H][D] in layer.dtype (BF16 or F16), lse [T][H] fp32 (-inf without keys); D is 64, 96, 128 or 256;
// any number of query heads per KV head. The store: zone full, Order::Rows, both widths D, codec = layer.dtype, all
// planes of the layer in one pool and at multiples of a row (D elements) from its base. Tiles: tile_rows <= 128; tiles
// of 128 / n rows run n heads of a KV head that share a key list together. Every pointer of layer and plan is device
// memory, but layer.host_formats; plans may be written by earlier kernels of the same stream and are trusted.
//
// Stored rows that some row of a tile attends must be finite; all others may hold anything. Pages without a visited
// key are not read. Accumulation is fp32; probabilities are rounded to layer.dtype before they multiply v. One launch,
// no allocation, no synchronization: fit for graph capture. Cost: 4 D FLOP a visited (row, key) pair, in steps of 128
// keys (64 with D = 256); longest tiles should come first in the plan.
//
// Threads: any; calls on different streams need workspaces of their own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention.h"
#include "pare/status.h"
#include "plan/block_plan.h"
#include "tensor/cuda/stream.h"
#include "tensor/dtype.h"

namespace pare::cuda {

// How the copy engine sees one pool of the store: rows of D elements, swizzled in boxes. A value without resources.
struct KvTensorMap {
  alignas(64) std::byte page_box[128] = {};     // CUtensorMap with boxes of 64 rows
  alignas(64) std::byte granule_box[128] = {};  // ... of 16 rows
  const std::byte* pool = nullptr;
  int32_t head_dim = 0;
  DType dtype = DType::BF16;
};

// The map of a pool of `bytes` bytes at `pool` (device). Made once. kUnsupported: not a Hopper card, or a head
// dimension or type that the kernels don't have.
Expected<KvTensorMap> make_kv_tensor_map(const std::byte* pool, size_t bytes, int32_t head_dim, DType dtype);

// Bytes of device memory that a stream's calls need. The caller zeroes them once; every call leaves them zero.
inline constexpr size_t kPrefillWorkspaceBytes = 256;

struct PrefillOptions {
  bool plain = false;  // the kernel for any card, which is slow, also where the Hopper kernel could run
};

// kUnsupported unless every KV head of the layer (host_formats) is stored as the head of this file says.
Status check_plain_rows(const AttentionLayer& layer);

// `map` must be of the layer's pool; it is not used (and may be null) where the plain kernel runs: on cards other than
// Hopper, or by option. kUnsupported names what the layer or plan has that no kernel here takes; nothing is launched.
Status prefill_attention(const AttentionLayer& layer, const BlockPlan& plan, const KvTensorMap* map,
                         std::byte* workspace, const PrefillOptions& options, Stream stream);

}  // namespace pare::cuda
