#include "kernels/cuda/decode_attention.h"

#include <algorithm>
#include <string>

#include "kernels/cuda/decode_launch.h"

namespace pare::cuda {
namespace {

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
  decode::Params params;
  params.layer = layer;
  params.plan = plan;
  params.group = layer.n_heads / layer.kv.n_kv_heads;
  params.stages = 0;
  params.query_terms = layer.kv.channels != nullptr ? 2 : 1;
  params.factor =
      layer.softcap == 0.0f ? layer.scale * decode::kLog2e : layer.scale * (2.0f * decode::kLog2e) / layer.softcap;
  params.cap = layer.softcap * decode::kLog2e;
  const int32_t query_rows = options.query_rows > 0 ? options.query_rows : std::max(1, layer.n_rows - layer.n_seqs + 1);
  const int64_t rows = int64_t{query_rows} * params.group;
  return layer.dtype == DType::BF16 ? decode::launch_bf16(rows, params, options, stream)
                                    : decode::launch_f16(rows, params, options, stream);
}

}  // namespace pare::cuda
