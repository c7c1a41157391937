// Attention of a layer on a card: heads into the store, then both phases.
#include "base/check.h"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/row_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "plan/causal_plan.h"

namespace pare::ops {
namespace {

constexpr int32_t kTileRows = 128;  // M of the prefill kernel

}  // namespace

int32_t CudaOps::preferred_tile_rows(int32_t, int32_t) const { return kTileRows; }

// One map for each pool of the store; cards before Hopper have none and run the plain kernel.
Status CudaOps::make_maps() {
  maps_.assign(kMaxClasses, {});
  if (device_->info().major != 9) return ok_status();
  for (size_t pool = 0; pool < maps_.size(); ++pool) {
    if (memory_.pool_bytes[pool] == 0) continue;
    auto map = cuda::make_kv_tensor_map(host_kv_.pools[pool], memory_.pool_bytes[pool], host_kv_.head_dim, DType::BF16);
    // A head dimension that only the plain kernel takes.
    if (!map.ok() && map.status().code() != StatusCode::kUnsupported) return map.status();
    if (map.ok()) maps_[pool] = *map;
  }
  return ok_status();
}

Status CudaOps::make_cudnn() {
  if ((memory_.plan_flags & kPlanCudnn) == 0) return ok_status();
  cuda::CudnnAttention::Limits limits;
  limits.heads = memory_.n_heads;
  limits.kv_heads = host_kv_.n_kv_heads;
  limits.head_dim = host_kv_.head_dim;
  limits.max_keys = memory_.max_context;
  auto made = cuda::CudnnAttention::create(limits);
  if (!made.ok()) return made.status().with_context("attn=dense(impl=cudnn)");
  cudnn_.emplace(std::move(*made));
  return ok_status();
}

void CudaOps::attend_layer(Arena& arena, const StepPlans& plans, int32_t l, float logit_scale,
                           const HeadTransform& transform, Tensor& q, Tensor& k, const Tensor& v, LinearInput& out) {
  const LayerPlan& where = plans.layer(l);
  const ClassStep& cls = plans.classes[where.cls];
  const int32_t n_heads = static_cast<int32_t>(q.shape[1]), head_dim = static_cast<int32_t>(q.shape[2]);
  const int32_t kv_heads = plans.kv.n_kv_heads;
  const size_t mark = arena.mark();
  Tensor rotated = make_activations(arena, {q.shape[0], q.shape[1], q.shape[2]});

  cuda::HeadsArgs heads;
  heads.q = q.data;
  heads.k = k.data;
  heads.v = v.data;
  heads.type = q.dtype;
  heads.q_pitch = int64_t{n_heads} * head_dim;
  heads.k_pitch = heads.v_pitch = int64_t{kv_heads} * head_dim;
  heads.q_norm = transform.q_norm;
  heads.k_norm = transform.k_norm;
  heads.eps = transform.eps;
  if (transform.rope) {
    heads.cos = transform.rope->cos.as<float>();
    heads.sin = transform.rope->sin.as<float>();
    heads.rot = static_cast<int32_t>(transform.rope->rot);
  }
  heads.q_out = rotated.data;
  for (int32_t i = 0; i < kMaxClasses; ++i) heads.pools[i] = const_cast<std::byte*>(kv_.pools[i]);
  heads.formats = &kv_.format(kZoneFull, where.kv_layer, 0);
  heads.dst = where.writes_kv ? cls.dst : nullptr;
  heads.rows = plans.n_rows;
  heads.n_heads = n_heads;
  heads.n_kv_heads = kv_heads;
  heads.head_dim = head_dim;
  const bool heads_inside =
      plans.n_prefill_rows == 0 && plans.n_rows <= cuda::kMaxHeadsRows && heads.type == DType::F32;
  if (!heads_inside) check(cuda::heads(heads, stream_, true));

  cuda::AttentionLayer layer;
  layer.kv = plans.kv;
  layer.host_formats = &host_kv_.format(kZoneFull, where.kv_layer, 0);
  layer.host_mid = &host_kv_.format(kZoneMid, where.kv_layer, 0);
  layer.kv_layer = where.kv_layer;
  layer.n_heads = n_heads;
  layer.head_dim = head_dim;
  layer.qa = n_heads / kv_heads;
  layer.scale = logit_scale;
  layer.seqs = cls.seqs;
  layer.n_seqs = plans.n_seqs;
  layer.n_rows = plans.n_rows;
  layer.q = rotated.data;
  layer.out = out.values.data;
  if (plans.n_prefill_rows > 0) {
    const BlockPlan& block = plans.blocks[where.block];
    const cuda::KvTensorMap& map = maps_[layer.host_formats->pool];
    if ((block.flags & kPlanCudnn) != 0) {
      PARE_CHECK(cudnn_.has_value());
      check(cudnn_->attend(layer, {on_host(cls.seqs), static_cast<size_t>(plans.n_seqs)}, stream_));
    } else {
      check(cuda::prefill_attention(layer, block, map.pool ? &map : nullptr, prefill_workspace_.data(),
                                    {.plain = map.pool == nullptr}, stream_));
    }
  }
  if (plans.n_decode_rows > 0) {
    check(cuda::decode_attention(layer, cls.segment,
                                 {.query_rows = decode_rows_of_a_sequence_,
                                  .overlap_launch = plans.n_prefill_rows == 0,
                                  .rows_settled = plans.n_prefill_rows == 0 && plans.n_copies == 0,
                                  .heads = heads_inside ? &heads : nullptr,
                                  .first_jobs = first_jobs(where.cls)},
                                 stream_));
  }
  arena.release(mark);
}

void CudaOps::copy_pages(const StepPlans& plans) {
  cuda::CopyPagesArgs args;
  args.copies = plans.copies;
  args.n_copies = plans.n_copies;
  for (int32_t i = 0; i < kMaxClasses; ++i) args.pools[i] = const_cast<std::byte*>(kv_.pools[i]);
  args.formats = kv_.formats;
  args.n_formats = kv_.n_kv_layers * kv_.n_kv_heads;
  check(cuda::copy_pages(args, stream_, true));
}

void CudaOps::move_rows(const StepPlans&, std::span<const RowMove> moves) {
  const auto formats = [&](const KvView& kv, int zone) { return &kv.format(zone, 0, 0); };
  cuda::MoveRowsArgs args;
  // They travel with the launch, which is outside the step's graph: after launch_step has returned.
  PARE_CHECK(!capturing_);
  args.moves = moves.data();
  args.n_moves = static_cast<int32_t>(moves.size());
  for (int32_t i = 0; i < kMaxPools; ++i) args.pools[i] = const_cast<std::byte*>(kv_.pools[i]);
  args.full = formats(kv_, kZoneFull);
  args.mid = formats(kv_, kZoneMid);
  args.sum = formats(kv_, kZoneSum);
  args.host_full = formats(host_kv_, kZoneFull);
  args.host_mid = formats(host_kv_, kZoneMid);
  args.host_sum = formats(host_kv_, kZoneSum);
  args.n_formats = kv_.n_kv_layers * kv_.n_kv_heads;
  args.channels = kv_.channels;
  check(cuda::move_rows(args, stream_, true));
}

}  // namespace pare::ops
