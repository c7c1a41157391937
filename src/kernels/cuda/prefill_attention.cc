#include "kernels/cuda/prefill_attention.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/cuda/prefill_launch.h"
#include "tensor/cuda/status.h"

namespace pare::cuda {
namespace {

constexpr float kLog2e = 1.44269504088896341f;
constexpr int kPlainBlocksPerProcessor = 8;
static_assert(sizeof(CUtensorMap) == sizeof(KvTensorMap::page_box));

struct Device {
  bool hopper = false;
  int processors = 0;
};
Status current_device(Device* out) {
  int device, major, minor;
  PARE_CUDA_RETURN_IF_ERROR(cudaGetDevice(&device));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceGetAttribute(&out->processors, cudaDevAttrMultiProcessorCount, device));
  // A build without Hopper code may run here as an older card's.
  out->hopper = major == 9 && minor == 0 && prefill::has_hopper_code();
  return ok_status();
}

constexpr int32_t kMaxPlainHeadDim = 256;
// Head dimensions of the Hopper kernels; the plain one takes the others.
bool has_kernel(int32_t d) { return d == 64 || d == 96 || d == 128 || d == 256; }

// The driver's function, found at run time so that the engine needs no driver library to link or to start.
Status encode_tiled(const std::byte* pool, size_t bytes, int32_t head_dim, DType dtype, int32_t rows, std::byte* out) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  PARE_CUDA_RETURN_IF_ERROR(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess) return unsupported("the CUDA driver has no tensor maps");
  const cuuint64_t row_bytes = static_cast<cuuint64_t>(head_dim) * 2;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(head_dim), bytes / row_bytes};
  const cuuint32_t columns = head_dim % 64 == 0 ? 64 : 32;  // one plane of prefill_hopper.cuh: a swizzled row
  const cuuint32_t box[2] = {columns, static_cast<cuuint32_t>(rows)}, steps[2] = {1, 1};
  CUtensorMap map;
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry)(
      &map, dtype == DType::BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
      const_cast<std::byte*>(pool), sizes, &row_bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return internal_error(
        fmt::format("cuTensorMapEncodeTiled over {} bytes: error {}", bytes, static_cast<int>(result)));
  }
  std::memcpy(out, &map, sizeof(map));
  return ok_status();
}

Status check_layer(const AttentionLayer& layer, const BlockPlan& plan) {
  if (layer.dtype != DType::BF16 && layer.dtype != DType::F16) {
    return unsupported("prefill attention: queries are BF16 or F16");
  }
  if (layer.head_dim <= 0 || layer.head_dim > kMaxPlainHeadDim || layer.head_dim % 16 != 0) {
    return unsupported(fmt::format("prefill attention: head dimension {}, a multiple of 16 up to {} is wanted",
                                   layer.head_dim, kMaxPlainHeadDim));
  }
  if (plan.tile_rows == 0 || plan.tile_rows > prefill::kMaxTileRows) {
    return unsupported(
        fmt::format("prefill attention: tiles of {} rows, limit {}", plan.tile_rows, prefill::kMaxTileRows));
  }
  if (layer.kv.n_kv_heads <= 0 || layer.n_heads % layer.kv.n_kv_heads != 0 || !(layer.scale > 0.0f)) {
    return invalid_argument(fmt::format("prefill attention: {} heads over {} KV heads, scale {}", layer.n_heads,
                                        layer.kv.n_kv_heads, layer.scale));
  }
  return check_plain_rows(layer);
}

prefill::Arguments make_arguments(const AttentionLayer& layer, const BlockPlan& plan, std::byte* workspace) {
  prefill::Arguments args;
  args.kv = layer.kv;
  args.plan = plan;
  args.seqs = layer.seqs;
  args.q = layer.q;
  args.out = layer.out;
  args.lse = layer.lse;
  args.tickets = reinterpret_cast<uint32_t*>(workspace);
  args.kv_layer = layer.kv_layer;
  args.n_heads = layer.n_heads;
  args.head_dim = layer.head_dim;
  args.qa = layer.qa;
  args.qb = layer.qb;
  args.n_rows = layer.n_rows;
  args.pool = layer.host_formats[0].pool;
  args.group = layer.n_heads / layer.kv.n_kv_heads;
  args.pack = std::min(args.group, prefill::kMaxTileRows / plan.tile_rows);
  args.cap_log2 = layer.softcap * kLog2e;
  args.scale_log2 = layer.softcap == 0.0f ? layer.scale * kLog2e : layer.scale * (2.0f * kLog2e) / layer.softcap;
  return args;
}

}  // namespace

Status check_plain_rows(const AttentionLayer& layer) {
  const Codec codec = layer.dtype == DType::BF16 ? Codec::Bf16 : Codec::F16;
  const auto row_bytes = static_cast<uint64_t>(layer.head_dim) * 2;
  for (int32_t g = 0; g < layer.kv.n_kv_heads; ++g) {
    const RowFormat& f = layer.host_formats[g];
    if (f.order != Order::Rows || f.k_codec != codec || f.v_codec != codec || f.k_width != layer.head_dim ||
        f.v_width != layer.head_dim || f.chan >= 0 || f.lw != kNoPlane || f.pool != layer.host_formats[0].pool ||
        f.k % row_bytes != 0 || f.v % row_bytes != 0 || f.page_bytes % row_bytes != 0) {
      return unsupported(
          fmt::format("prefill attention: KV head {} is not stored in plain rows of the query's type", g));
    }
  }
  return ok_status();
}

Expected<KvTensorMap> make_kv_tensor_map(const std::byte* pool, size_t bytes, int32_t head_dim, DType dtype) {
  Device device;
  PARE_RETURN_IF_ERROR(current_device(&device));
  if (!device.hopper) return unsupported("tensor maps: not a Hopper card");
  if (!has_kernel(head_dim) || (dtype != DType::BF16 && dtype != DType::F16)) {
    return unsupported(fmt::format("tensor maps: head dimension {} or its type", head_dim));
  }
  KvTensorMap map;
  map.pool = pool;
  map.head_dim = head_dim;
  map.dtype = dtype;
  PARE_RETURN_IF_ERROR(encode_tiled(pool, bytes, head_dim, dtype, kPageRows, map.page_box));
  PARE_RETURN_IF_ERROR(encode_tiled(pool, bytes, head_dim, dtype, kGranuleKeys, map.granule_box));
  return map;
}

Status prefill_attention(const AttentionLayer& layer, const BlockPlan& plan, const KvTensorMap* map,
                         std::byte* workspace, const PrefillOptions& options, Stream stream) {
  PARE_RETURN_IF_ERROR(check_layer(layer, plan));
  if (plan.tiles_cap == 0) return ok_status();
  Device device;
  PARE_RETURN_IF_ERROR(current_device(&device));
  const prefill::Arguments args = make_arguments(layer, plan, workspace);
  const bool bf16 = layer.dtype == DType::BF16;
  if (options.plain || !device.hopper || !has_kernel(layer.head_dim)) {
    return to_status(prefill::launch_plain(args, bf16, device.processors * kPlainBlocksPerProcessor, stream),
                     "plain prefill attention");
  }
  if (map == nullptr || map->pool != layer.kv.pools[args.pool] || map->head_dim != layer.head_dim ||
      map->dtype != layer.dtype) {
    return invalid_argument("prefill attention: the tensor map is not of this layer's pool");
  }
  CUtensorMap page_map, granule_map;
  std::memcpy(&page_map, map->page_box, sizeof(page_map));
  std::memcpy(&granule_map, map->granule_box, sizeof(granule_map));
  const auto launch = layer.head_dim == 64    ? prefill::launch_hopper_64
                      : layer.head_dim == 96  ? prefill::launch_hopper_96
                      : layer.head_dim == 128 ? prefill::launch_hopper_128
                                              : prefill::launch_hopper_256;
  return to_status(launch(args, bf16, page_map, granule_map, device.processors, stream), "prefill attention");
}

}  // namespace pare::cuda
