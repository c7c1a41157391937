#include "kernels/cuda/cudnn_attention.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/cuda/prefill_attention.h"
#include "plan/step.h"

namespace pare::cuda {
namespace {

// Two shapes that stand for all others, one of each mask: a whole prompt, and a chunk behind rows that are stored.
constexpr int64_t kProbeKeys = 256, kProbeChunk = 100;

}  // namespace

Expected<CudnnAttention> CudnnAttention::create(const Limits& limits) {
  if (limits.kv_heads <= 0 || limits.heads <= 0 || limits.heads % limits.kv_heads != 0 || limits.head_dim <= 0 ||
      limits.max_keys <= 0) {
    return invalid_argument(fmt::format("cuDNN attention: {} heads over {} KV heads of {}, {} keys", limits.heads,
                                        limits.kv_heads, limits.head_dim, limits.max_keys));
  }
  if (limits.dtype != DType::BF16 && limits.dtype != DType::F16) {
    return unsupported("cuDNN attention: queries are BF16 or F16");
  }
  CudnnAttention attention(limits);
  PARE_ASSIGN_OR_RETURN(attention.graphs_, CudnnGraphs::open());
  CudnnShape shape{limits.dtype, limits.heads, limits.kv_heads, limits.head_dim, kProbeKeys, kProbeKeys};
  shape.scale = 1.0f / std::sqrt(static_cast<float>(limits.head_dim));
  for (const int64_t queries : {kProbeKeys, kProbeChunk}) {
    shape.queries = queries;
    PARE_RETURN_IF_ERROR(attention.graphs_->prepare(shape));
  }
  const size_t bytes = static_cast<size_t>(limits.max_keys) * limits.kv_heads * limits.head_dim * sizeof(uint16_t);
  PARE_ASSIGN_OR_RETURN(attention.keys_, DeviceBuffer::allocate(bytes));
  PARE_ASSIGN_OR_RETURN(attention.values_, DeviceBuffer::allocate(bytes));
  PARE_ASSIGN_OR_RETURN(attention.workspace_, DeviceBuffer::allocate(CudnnGraphs::kWorkspaceBytes));
  return attention;
}

Status CudnnAttention::check_layer(const AttentionLayer& layer) const {
  const auto refuse = [](std::string_view what) { return unsupported(fmt::format("cuDNN attention: {}", what)); };
  if (layer.lse != nullptr) return refuse("log-sum-exp is not read back from it");
  if (layer.softcap != 0.0f) return refuse("logits with a cap");
  if (layer.dtype != limits_.dtype || layer.head_dim != limits_.head_dim || layer.n_heads != limits_.heads ||
      layer.kv.n_kv_heads != limits_.kv_heads) {
    return refuse(fmt::format("a layer of {}/{} heads of {}, made for {}/{} of {}", layer.n_heads, layer.kv.n_kv_heads,
                              layer.head_dim, limits_.heads, limits_.kv_heads, limits_.head_dim));
  }
  if (limits_.kv_heads > 1 && (layer.qb != 1 || layer.qa != limits_.heads / limits_.kv_heads)) {
    return refuse(fmt::format("head map ({}, {})", layer.qa, layer.qb));
  }
  return check_plain_rows(layer);
}

Status CudnnAttention::attend(const AttentionLayer& layer, std::span<const SeqStep> seqs, Stream stream) {
  PARE_RETURN_IF_ERROR(check_layer(layer));
  CudnnShape shape{limits_.dtype, limits_.heads, limits_.kv_heads, limits_.head_dim};
  shape.scale = layer.scale;
  const size_t row_bytes = static_cast<size_t>(limits_.heads) * limits_.head_dim * sizeof(uint16_t);
  for (const SeqStep& s : seqs) {
    if (s.n_q <= 0 || (s.flags & kSeqDecode) != 0) continue;
    shape.queries = s.n_q;
    shape.keys = int64_t{s.pos} + s.n_q;
    if (shape.keys > limits_.max_keys || (s.heads != 0 && s.heads != limits_.heads)) {
      return unsupported(fmt::format("cuDNN attention: {} keys and {} heads of a sequence, limits {} and {}",
                                     shape.keys, s.heads, limits_.max_keys, limits_.heads));
    }
    GatherPagesArgs gather;
    gather.kv = layer.kv;
    gather.kv_layer = layer.kv_layer;
    gather.page0 = s.page0;
    gather.rows = static_cast<int32_t>(shape.keys);
    gather.k = keys_.data();
    gather.v = values_.data();
    PARE_RETURN_IF_ERROR(gather_pages(gather, stream));
    CudnnOperands operands;
    operands.q = static_cast<const std::byte*>(layer.q) + s.q_row * row_bytes;
    operands.k = keys_.data();
    operands.v = values_.data();
    operands.out = static_cast<std::byte*>(layer.out) + s.q_row * row_bytes;
    PARE_RETURN_IF_ERROR(graphs_->run(shape, operands, workspace_.data(), stream));
  }
  return ok_status();
}

}  // namespace pare::cuda
