#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_resolve.cuh"
#include "kernels/cuda/launch.cuh"

namespace pare::cuda {
namespace {

// A warp for each block of a launch.
__global__ void __launch_bounds__(32)
    first_jobs_kernel(const __grid_constant__ decode::Params params, decode::FirstJob* first_jobs) {
  using namespace decode;
  const int32_t kv_heads = params.layer.kv.n_kv_heads, n_runs = *params.plan.n_runs;
  const uint32_t task = blockIdx.x,
                 n_tasks = n_runs == 0 ? 0 : static_cast<uint32_t>(params.plan.item_prefix[n_runs]) * kv_heads;
  FirstJob& first = first_jobs[task];
  int32_t usable = 1;
  if (task < n_tasks) {
    Resolve<FirstJob::kColumns> resolve(params);
    const auto item = static_cast<int32_t>(task / kv_heads);
    resolve.open_run(resolve.find_run(item, 0, n_runs));
    Job job = resolve.resolve(item, static_cast<int32_t>(task % kv_heads));
    usable = !job.is(kJobPicked) && resolve.passes(job) == 1;  // picks are a layer's own
    if (usable != 0) {
      resolve.begin_pass(job, 0);
      for (int32_t c = lane_id(); c < FirstJob::kColumns; c += 32) first.columns[c] = resolve.column(job, c);
      job.flags &= ~static_cast<uint32_t>(kJobWeighted);  // a layer's own too
      if (lane_id() == 0) first.job = job;
    }
  }
  if (lane_id() == 0) {
    first.n_tasks = n_tasks;
    first.usable = usable;
  }
}

}  // namespace

size_t first_jobs_bytes(int32_t blocks) { return static_cast<size_t>(blocks) * sizeof(decode::FirstJob); }

Status resolve_first_jobs(const AttentionLayer& layer, const SegmentPlan& plan, void* first_jobs, int32_t blocks,
                          Stream stream) {
  decode::Params params{};
  params.layer = layer;
  params.layer.kv_layer = 0;
  params.plan = plan;
  params.group = layer.n_heads / layer.kv.n_kv_heads;
  return launch(first_jobs_kernel, dim3(static_cast<unsigned>(blocks)), dim3(32), 0, stream, false, params,
                static_cast<decode::FirstJob*>(first_jobs));
}

}  // namespace pare::cuda
