#include <algorithm>
#include <string>

#include "kernels/cuda/decode_attend.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_load.cuh"
#include "kernels/cuda/decode_schedule.cuh"
#include "tensor/cuda/status.h"

namespace pare::cuda {
namespace {

using namespace decode;

template <typename T, int kTileRows, int kChannelTiles>
__global__ void __launch_bounds__(kBlockThreads, 1) decode_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(128) std::byte memory[];
  const Shared shared(params, kTileRows, memory);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / 32;
  if (warp < kAttendWarps) warm_plan(params, warp);
  if (threadIdx.x == kAttendThreads) {
    for (int32_t stage = 0; stage < params.stages; ++stage) {
      mbarrier_init(shared.keys_full(stage), kFullArrivals);
      mbarrier_init(shared.values_full(stage), kFullArrivals);
      mbarrier_init(shared.keys_empty(stage), kAttendWarps);
      mbarrier_init(shared.values_empty(stage), kAttendWarps);
    }
    for (int32_t job = 0; job < params.jobs; ++job) {
      mbarrier_init(shared.job_full(job), kFullArrivals);
      mbarrier_init(shared.job_empty(job), kAttendWarps + kLoadWarps);
    }
  }
  __syncthreads();
  if (warp < kAttendWarps) {
    wait_for_earlier_kernels();
    Attend<T, kTileRows, kChannelTiles>(params, shared).run();
  } else if (warp < kAttendWarps + kLoadWarps) {
    wait_for_earlier_kernels();
    Load<kTileRows>(params, shared, warp == kAttendWarps).run();
    let_next_kernel_start();
  } else {
    Schedule<T>(params, shared).run();
  }
}

struct DeviceLimits {
  int32_t multiprocessors = 0, shared_bytes = 0;
};
Status device_limits(DeviceLimits* limits) {
  int device = 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaGetDevice(&device));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceGetAttribute(&limits->multiprocessors, cudaDevAttrMultiProcessorCount, device));
  PARE_CUDA_RETURN_IF_ERROR(
      cudaDeviceGetAttribute(&limits->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return ok_status();
}

template <typename T, int kTileRows, int kChannelTiles>
Status launch(Params params, const DecodeOptions& options, Stream stream) {
  DeviceLimits limits;
  PARE_RETURN_IF_ERROR(device_limits(&limits));
  // Deep rings of tiles keep memory busy, deep rings of jobs keep them filled across short items.
  constexpr int32_t kRings[][2] = {{8, 4}, {6, 4}, {5, 4}, {4, 4}, {3, 4}, {3, 3}, {3, 2}, {2, 4}, {2, 2}, {1, 2}};
  int32_t bytes = 0;
  for (const auto& [stages, jobs] : kRings) {
    params.stages = stages;
    params.jobs = jobs;
    bytes = static_cast<int32_t>(SharedLayout(params, kTileRows).bytes);
    if (bytes <= limits.shared_bytes) break;
  }
  if (bytes > limits.shared_bytes) {
    return unsupported("decode attention: " + std::to_string(params.max_columns) + " query rows of head dimension " +
                       std::to_string(params.layer.head_dim) + " need " + std::to_string(bytes) +
                       " bytes of shared memory, limit " + std::to_string(limits.shared_bytes));
  }
  const auto kernel = decode_kernel<T, kTileRows, kChannelTiles>;
  PARE_CUDA_RETURN_IF_ERROR(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.shared_bytes));

  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<uint32_t>(options.blocks > 0 ? options.blocks : limits.multiprocessors));
  config.blockDim = dim3(kBlockThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = options.overlap_launch ? 1 : 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaLaunchKernelEx(&config, kernel, params));
  return ok_status();
}

template <typename T>
Status dispatch(Params params, const DecodeOptions& options, Stream stream) {
  if (params.layer.head_dim <= 128) return launch<T, 128, 1>(params, options, stream);
  params.max_columns = std::min(params.max_columns, 32);
  return launch<T, 64, 2>(params, options, stream);
}

Status check(const AttentionLayer& layer, const SegmentPlan& plan) {
  if (layer.head_dim % 16 != 0 || layer.head_dim < 16 || layer.head_dim > 256) {
    return unsupported("decode attention: head dimension " + std::to_string(layer.head_dim));
  }
  const Codec codec = layer.dtype == DType::BF16 ? Codec::Bf16 : Codec::F16;
  if (layer.dtype != DType::BF16 && layer.dtype != DType::F16) {
    return unsupported("decode attention: queries are neither BF16 nor F16");
  }
  for (int32_t g = 0; g < layer.kv.n_kv_heads && layer.host_formats != nullptr; ++g) {
    const RowFormat& format = layer.host_formats[g];
    if (format.order != Order::Rows || format.k_codec != codec || format.v_codec != codec) {
      return unsupported("decode attention: stored rows are not plain rows of the queries' type");
    }
  }
  if (plan.done == nullptr) return invalid_argument("decode attention: a plan without arrival counters");
  return ok_status();
}

}  // namespace

Status decode_attention(const AttentionLayer& layer, const SegmentPlan& plan, const DecodeOptions& options,
                        Stream stream) {
  PARE_RETURN_IF_ERROR(check(layer, plan));
  Params params;
  params.layer = layer;
  params.plan = plan;
  params.group = layer.n_heads / layer.kv.n_kv_heads;
  params.stages = params.jobs = 0;
  params.query_terms = layer.kv.channels != nullptr ? 2 : 1;
  const int32_t query_rows = options.query_rows > 0 ? options.query_rows : std::max(1, layer.n_rows - layer.n_seqs + 1);
  params.max_columns = 8;
  while (params.max_columns < kMaxColumns && params.max_columns < query_rows * params.group) params.max_columns *= 2;
  params.factor = layer.softcap == 0.0f ? layer.scale * kLog2e : layer.scale * (2.0f * kLog2e) / layer.softcap;
  params.cap = layer.softcap * kLog2e;
  return layer.dtype == DType::BF16 ? dispatch<__nv_bfloat16>(params, options, stream)
                                    : dispatch<__half>(params, options, stream);
}

}  // namespace pare::cuda
