#include "kernels/cuda/decode_attention.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "kernels/cuda/decode_launch.h"

namespace pare::cuda {
namespace {

// Rows of zone mid: the queries' type or quantized, in groups that the kernels can follow.
Status check_mid(const RowFormat& format, Codec codec) {
  const auto known = [&](Codec c, uint64_t scales, int32_t group, int32_t width) {
    return c == codec || (is_quantized(c) && scales != kNoPlane && group > 0 && group % 16 == 0 && width % 16 == 0);
  };
  if (format.order != Order::Rows || !known(format.k_codec, format.ks, format.k_group, format.k_width) ||
      !known(format.v_codec, format.vs, format.v_group, format.v_width) ||
      (is_quantized(format.v_codec) && format.v_width % format.v_group != 0)) {
    return unsupported("decode attention: stored rows are neither of the queries' type nor quantized in groups of 16");
  }
  return ok_status();
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
  for (int32_t g = 0; g < layer.kv.n_kv_heads && layer.host_mid != nullptr; ++g) {
    if (layer.host_mid[g].v_width > 0) PARE_RETURN_IF_ERROR(check_mid(layer.host_mid[g], codec));
  }
  if (plan.done == nullptr || plan.octet_done == nullptr)
    return invalid_argument("decode attention: a plan without arrival counters");
  return ok_status();
}

// What the rows of zone mid ask for.
decode::Rows rows_of(const AttentionLayer& layer) {
  auto rows = decode::Rows::kPlain;
  for (int32_t g = 0; g < layer.kv.n_kv_heads && layer.host_mid != nullptr; ++g) {
    const RowFormat &format = layer.host_mid[g], &first = layer.host_mid[0];
    if (format.v_width > 0 && (is_quantized(format.k_codec) || is_quantized(format.v_codec))) {
      return decode::Rows::kCoded;
    }
    if (format.v_width != first.v_width || format.k_width != first.k_width) rows = decode::Rows::kPruned;
  }
  return rows;
}

}  // namespace

Status decode_attention(const AttentionLayer& layer, const SegmentPlan& plan, const DecodeOptions& options,
                        Stream stream) {
  PARE_RETURN_IF_ERROR(check(layer, plan));
  decode::Params params;
  params.layer = layer;
  params.plan = plan;
  params.group = layer.n_heads / layer.kv.n_kv_heads;
  params.stages = 0;
  if (options.heads != nullptr) {
    params.heads = *options.heads;
    PARE_CHECK(params.heads.rows <= kMaxHeadsRows && params.heads.type == DType::F32 &&
               params.heads.q_type == layer.dtype && params.heads.q_out == layer.q);
  }
  params.rows_settled = options.rows_settled;
  params.first_jobs = static_cast<const decode::FirstJob*>(options.first_jobs);
  PARE_CHECK(params.first_jobs == nullptr || options.blocks == 0);
  // A launch that waits for another one has the time. The heads' barrier keeps the planning warp from the scene.
  params.rehearsed = options.overlap_launch && options.heads != nullptr;
  params.query_terms = layer.kv.channels != nullptr ? 2 : 1;
  params.factor =
      layer.softcap == 0.0f ? layer.scale * decode::kLog2e : layer.scale * (2.0f * decode::kLog2e) / layer.softcap;
  params.cap = layer.softcap * decode::kLog2e;
  const int32_t query_rows = options.query_rows > 0 ? options.query_rows : std::max(1, layer.n_rows - layer.n_seqs + 1);
  const int64_t rows = int64_t{query_rows} * params.group;
  const bool bf16 = layer.dtype == DType::BF16;
  switch (rows_of(layer)) {
    case decode::Rows::kPlain:
      return bf16 ? decode::launch_bf16(rows, params, options, stream)
                  : decode::launch_f16(rows, params, options, stream);
    case decode::Rows::kPruned:
      return bf16 ? decode::launch_bf16_pruned(rows, params, options, stream)
                  : decode::launch_f16_pruned(rows, params, options, stream);
    case decode::Rows::kCoded:
      return bf16 ? decode::launch_bf16_coded(rows, params, options, stream)
                  : decode::launch_f16_coded(rows, params, options, stream);
  }
  return unsupported("decode attention: an unknown kind of rows");
}

}  // namespace pare::cuda
