// The decode kernel and its launch, for one element type; included by one file for each.
#pragma once

#include <algorithm>
#include <string>

#include "kernels/cuda/decode_attend.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_load.cuh"
#include "kernels/cuda/decode_schedule.cuh"
#include "kernels/cuda/decode_stage.cuh"
#include "kernels/cuda/launch.cuh"
#include "tensor/cuda/status.h"

namespace pare::cuda::decode {

template <typename T, typename S>
__global__ void __launch_bounds__(S::kBlockThreads, 1) decode_kernel(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) std::byte memory[];
  const Shared<S> shared(params, memory);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / 32;
  if (warp < kAttendWarps) warm_plan(params, warp);
  if (threadIdx.x == kAttendThreads) {
    for (int32_t stage = 0; stage < params.stages; ++stage) {
      mbarrier_init(shared.keys_full(stage), kFullArrivals * S::kLoadWarps);
      mbarrier_init(shared.values_full(stage), kFullArrivals * S::kLoadWarps);
      mbarrier_init(shared.keys_empty(stage), kAttendWarps);
      mbarrier_init(shared.values_empty(stage), kAttendWarps);
    }
    for (int32_t job = 0; job < S::kJobs; ++job) {
      mbarrier_init(shared.job_full(job), 1);
      mbarrier_init(shared.queries_full(job), kFullArrivals);
      mbarrier_init(shared.job_empty(job), kAttendWarps + S::kLoadWarps + (S::kStaged ? 1 : 0));
    }
    if constexpr (S::kStaged) init_places(shared);
  }
  __syncthreads();
  if (warp < kAttendWarps) {
    Attend<T, S>(params, shared).run();
  } else if (warp < kAttendWarps + S::kLoadWarps) {
    start_dependents();
    Load<T, S>(params, shared, warp - kAttendWarps).run();
  } else if (S::kStaged && warp == kAttendWarps + S::kLoadWarps) {
    Stage<S>(params, shared).run();
  } else {
    Schedule<T, S>(params, shared).run();
  }
}

struct DeviceLimits {
  int32_t multiprocessors = 0, shared_bytes = 0;
};
inline Status device_limits(DeviceLimits* limits) {
  int device = 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaGetDevice(&device));
  PARE_CUDA_RETURN_IF_ERROR(cudaDeviceGetAttribute(&limits->multiprocessors, cudaDevAttrMultiProcessorCount, device));
  PARE_CUDA_RETURN_IF_ERROR(
      cudaDeviceGetAttribute(&limits->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return ok_status();
}

// Bytes of a staged tile of zone mid: of the head whose are most.
inline uint32_t place_bytes(const AttentionLayer& layer) {
  uint32_t bytes = 0;
  for (int32_t g = 0; g < layer.kv.n_kv_heads && layer.host_mid != nullptr; ++g) {
    if (layer.host_mid[g].v_width > 0) bytes = std::max(bytes, codes_of(layer.host_mid[g]).part_bytes() * kStagedParts);
  }
  return bytes;
}

// Stages that fit; none: false. Places of staged tiles lie beside them: as many as leave room for two stages, else
// empty ones, into which nothing is copied.
template <typename S>
bool choose_stages(int32_t shared_bytes, Params* params) {
  const auto fit = [&](uint32_t staged) {
    int32_t stages = S::kMaxStages;
    while (stages > 0 && S::bytes(stages, params->query_terms) + staged > static_cast<uint32_t>(shared_bytes)) --stages;
    return stages;
  };
  params->place_bytes = S::kStaged ? place_bytes(params->layer) : 0;
  if (params->place_bytes > 0) {
    for (params->places = kMaxPlaces; params->places > 0; --params->places) {
      params->stages = fit(static_cast<uint32_t>(params->places) * params->place_bytes);
      if (params->stages >= 2) return true;
    }
  }
  params->places = kMaxPlaces;
  params->place_bytes = 0;
  params->stages = fit(0);
  return params->stages > 0;
}

template <typename T, Rows kRows, int kMaxDim, int kColumnTiles>
Status launch(Params params, const DecodeOptions& options, const DeviceLimits& limits, Stream stream) {
  using S = Shape<kMaxDim, kColumnTiles, kRows>;
  if (!takes_first_jobs<S>) params.first_jobs = nullptr;  // the plan's arrays are warmed instead (warm_plan)
  // An item leaves a partial at least, so that slots bound the pairs of items and KV heads. Few blocks
  // leave multiprocessors to the launches behind them, which begin early.
  const int64_t pairs = int64_t{params.plan.parts_cap} * params.layer.kv.n_kv_heads;
  const int64_t blocks = options.blocks > 0 ? options.blocks : std::min<int64_t>(limits.multiprocessors, pairs);
  if (!choose_stages<S>(limits.shared_bytes, &params)) {
    if constexpr (kColumnTiles > 1) return launch<T, kRows, kMaxDim, kColumnTiles / 2>(params, options, limits, stream);
    return unsupported("decode attention: head dimension " + std::to_string(params.layer.head_dim) + " needs " +
                       std::to_string(S::bytes(1, params.query_terms)) + " bytes of shared memory, limit " +
                       std::to_string(limits.shared_bytes));
  }
  const auto kernel = decode_kernel<T, S>;
  PARE_CUDA_RETURN_IF_ERROR(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.shared_bytes));

  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<uint32_t>(std::max<int64_t>(1, blocks)));
  config.blockDim = dim3(S::kBlockThreads);
  config.dynamicSmemBytes =
      S::bytes(params.stages, params.query_terms) + static_cast<uint32_t>(params.places) * params.place_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = options.overlap_launch && supports_pdl(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  PARE_CUDA_RETURN_IF_ERROR(cudaLaunchKernelEx(&config, kernel, params));
  return ok_status();
}

// The kernel with columns for `rows` query rows, or for as many as one pass takes.
template <typename T, Rows kRows, int kMaxDim>
Status launch_for(int64_t rows, const Params& params, const DecodeOptions& options, const DeviceLimits& limits,
                  Stream stream) {
  if (rows <= 8) return launch<T, kRows, kMaxDim, 1>(params, options, limits, stream);
  if constexpr (kMaxDim <= 128) {
    if (rows <= 16) return launch<T, kRows, kMaxDim, 2>(params, options, limits, stream);
  }
  return launch<T, kRows, kMaxDim, 4>(params, options, limits, stream);
}

// The kernel for passes of `rows` query rows.
template <typename T, Rows kRows>
Status dispatch(int64_t rows, const Params& params, const DecodeOptions& options, Stream stream) {
  DeviceLimits limits;
  PARE_RETURN_IF_ERROR(device_limits(&limits));
  const int32_t d = params.layer.head_dim;
  if (d <= 64) return launch_for<T, kRows, 64>(rows, params, options, limits, stream);
  if (d <= 128) return launch_for<T, kRows, 128>(rows, params, options, limits, stream);
  return launch_for<T, kRows, 256>(rows, params, options, limits, stream);
}

}  // namespace pare::cuda::decode
