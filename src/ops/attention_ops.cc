#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/prefill_pieces.h"
#include "ops/device_ops.h"
#include "ops/ops.h"

namespace pare::ops {
namespace {

// Query rows of one sequence that a decode item may carry (contracts.md §3: drafts up to 16).
constexpr int32_t kMaxDecodeRows = 16;

void append(ExecContext& ctx, const StepPlans& plans, const LayerPlan& where, const ClassStep& cls, const Tensor& k,
            const Tensor& v) {
  AppendArgs args;
  args.pools = plans.pools;
  args.formats = &plans.kv.format(kZoneFull, where.kv_layer, 0);
  args.k = k.as<float>();
  args.v = v.as<float>();
  args.dst = cls.dst;
  args.n_kv_heads = plans.kv.n_kv_heads;
  args.head_dim = plans.kv.head_dim;
  if (plans.n_rows <= 2) {
    ctx.attention.append_rows(args, 0, plans.n_rows);
    return;
  }
  ctx.pool.run_on_all([&](int thread) {
    const Share share = share_of(plans.n_rows, thread, ctx.pool.threads());
    ctx.attention.append_rows(args, share.begin, share.end);
  });
}

std::span<std::byte> thread_workspaces(ExecContext& ctx, size_t bytes) {
  const auto workspace = ctx.arena.take<std::byte>(bytes * ctx.pool.threads());
  PARE_CHECK(bytes == 0 || !workspace.empty());
  return workspace;
}

void prefill(ExecContext& ctx, const AttentionLayer& layer, const BlockPlan& plan, AttentionCounters* counters) {
  const int32_t kv_heads = layer.kv.n_kv_heads;
  const int threads = ctx.pool.threads();
  const size_t bytes = round_up<size_t>(
      ctx.attention.prefill_workspace_bytes(plan.tile_rows, layer.n_heads / kv_heads, layer.head_dim), 64);
  const auto workspace = thread_workspaces(ctx, bytes);
  const auto room = ctx.arena.take<TilePiece>(tile_pieces_max(*plan.n_tiles, threads));
  PARE_CHECK(!room.empty());
  const std::span<const TilePiece> pieces = cut_tiles(layer, plan, threads, room);
  ctx.pool.run_singly(static_cast<int64_t>(pieces.size()) * kv_heads, [&](int64_t task, int thread) {
    prefill_piece(ctx.attention, layer, plan, pieces[task / kv_heads], static_cast<int32_t>(task % kv_heads),
                  workspace.data() + bytes * thread, &counters[thread]);
  });
}

void decode(ExecContext& ctx, const AttentionLayer& layer, const SegmentPlan& plan, int32_t n_seqs,
            AttentionCounters* counters) {
  const int32_t kv_heads = layer.kv.n_kv_heads;
  const int64_t items = plan.item_prefix[*plan.n_runs];
  const size_t bytes = round_up<size_t>(
      ctx.attention.decode_workspace_bytes(kMaxDecodeRows * layer.n_heads / kv_heads, layer.head_dim), 64);
  const auto workspace = thread_workspaces(ctx, bytes);
  ctx.pool.run(items * kv_heads, [&](int64_t task, int thread) {
    ctx.attention.decode_item(layer, plan, static_cast<int32_t>(task / kv_heads), static_cast<int32_t>(task % kv_heads),
                              workspace.data() + bytes * thread, &counters[thread]);
  });
  const int64_t folds = static_cast<int64_t>(n_seqs) * kv_heads;
  const auto fold = [&](int64_t task, int) {
    const int32_t seq = static_cast<int32_t>(task / kv_heads);
    if (layer.seqs[seq].n_folds > 0) ctx.attention.decode_fold(layer, plan, seq, static_cast<int32_t>(task % kv_heads));
  };
  // A handful of folds costs less than waking the pool.
  if (folds <= 4) {
    for (int64_t task = 0; task < folds; ++task) fold(task, 0);
  } else {
    ctx.pool.run(folds, fold);
  }
}

}  // namespace

size_t attend_workspace_bytes(const ExecContext& ctx, int64_t rows, int32_t tile_rows, int32_t n_heads,
                              int32_t n_kv_heads, int32_t head_dim) {
  if (ctx.device_ops) return 0;  // allocated once, by the accelerator
  const int32_t group = n_heads / n_kv_heads;
  constexpr size_t kAlign = 64;
  // A tile has a row at least.
  const size_t pieces = static_cast<size_t>(tile_pieces_max(rows, ctx.pool.threads())) * sizeof(TilePiece) + kAlign;
  return pieces +
         ctx.pool.threads() * (std::max(ctx.attention.prefill_workspace_bytes(tile_rows, group, head_dim),
                                        ctx.attention.decode_workspace_bytes(kMaxDecodeRows * group, head_dim)) +
                               sizeof(AttentionCounters) + 2 * kAlign);
}

void attend_layer(ExecContext& ctx, const StepPlans& plans, int32_t l, float logit_scale, const HeadTransform& heads,
                  Tensor& q, Tensor& k, const Tensor& v, LinearInput& out) {
  if (ctx.device_ops) return ctx.device_ops->attend_layer(ctx.arena, plans, l, logit_scale, heads, q, k, v, out);
  if (heads.rope) {
    head_norm_rope(ctx, q, heads.q_norm, heads.eps, *heads.rope);
#ifdef PARE_FAULT_MODEL_KEY_NORM
    head_norm_rope(ctx, k, nullptr, heads.eps, *heads.rope);
#else
    head_norm_rope(ctx, k, heads.k_norm, heads.eps, *heads.rope);
#endif
  }
  const LayerPlan& where = plans.layer(l);
  const ClassStep& cls = plans.classes[where.cls];
  PARE_CHECK(q.shape[0] == plans.n_rows && out.rows.t == plans.n_rows);
  if (where.writes_kv) append(ctx, plans, where, cls, k, v);
  if (ctx.on_attention) ctx.on_attention(l, plans, q, k);

  AttentionLayer layer;
  layer.kv = plans.kv;
  layer.kv_layer = where.kv_layer;
  layer.n_heads = static_cast<int32_t>(q.shape[1]);
  layer.head_dim = static_cast<int32_t>(q.shape[2]);
  layer.qa = layer.n_heads / plans.kv.n_kv_heads;
  layer.qb = 1;
  layer.scale = logit_scale;
  layer.seqs = cls.seqs;
  layer.q = q.as<float>();
  layer.out = out.values.as<float>();

  const size_t mark = ctx.arena.mark();
  const auto counters = ctx.arena.take<AttentionCounters>(ctx.pool.threads());
  PARE_CHECK(!counters.empty());
  std::fill(counters.begin(), counters.end(), AttentionCounters{});
  // One phase after the other, so a mixed step needs the larger of the two workspaces, not both.
  const size_t phase = ctx.arena.mark();
  if (plans.n_prefill_rows > 0) prefill(ctx, layer, plans.blocks[where.block], counters.data());
  ctx.arena.release(phase);
  if (plans.n_decode_rows > 0) decode(ctx, layer, cls.segment, plans.n_seqs, counters.data());
  for (const AttentionCounters& c : counters) {
    ctx.counters.kv_bytes += c.bytes_read;
    ctx.counters.kv_rows += c.rows_read;
    ctx.counters.keys_visited += c.keys_visited;
  }
  ctx.arena.release(mark);
  quantize(ctx, out);
}

void copy_pages(ExecContext& ctx, const StepPlans& plans) {
  if (plans.n_copies == 0) return;
  if (ctx.device_ops) return ctx.device_ops->copy_pages(plans);
  // Every plane of every layer of the class that lies in the full zone.
  ctx.pool.run(plans.n_layers, [&](int64_t l, int) {
    const LayerPlan& where = plans.layer(static_cast<int>(l));
    if (!where.writes_kv) return;
    for (int32_t i = 0; i < plans.n_copies; ++i) {
      const PageCopy& copy = plans.copies[i];
      if (copy.cls != where.cls) continue;
      for (int32_t g = 0; g < plans.kv.n_kv_heads; ++g) {
        const RowFormat& format = plans.kv.format(kZoneFull, where.kv_layer, g);
        std::byte* pool = plans.pools[format.pool];
        const auto copy_plane = [&](uint64_t plane, size_t bytes) {
          if (plane == kNoPlane) return;
          std::memcpy(pool + plane + static_cast<size_t>(copy.dst) * format.page_bytes,
                      pool + plane + static_cast<size_t>(copy.src) * format.page_bytes, bytes);
        };
        const size_t k_item = format.k_codec == Codec::F32 ? 4 : 2, v_item = format.v_codec == Codec::F32 ? 4 : 2;
        copy_plane(format.k, size_t{kPageRows} * format.k_width * k_item);
        copy_plane(format.v, size_t{kPageRows} * format.v_width * v_item);
      }
    }
  });
}

void move_rows(ExecContext& ctx, const StepPlans& plans, std::span<const RowMove> moves) {
  if (moves.empty()) return;
  if (ctx.device_ops) return ctx.device_ops->move_rows(plans, moves);
  const int32_t kv_heads = plans.kv.n_kv_heads;
  const auto n_moves = static_cast<int64_t>(moves.size());
  ctx.pool.run(plans.n_layers * n_moves, [&](int64_t task, int) {
    const LayerPlan& where = plans.layer(static_cast<int>(task / n_moves));
    const auto move = static_cast<int32_t>(task % n_moves);
    if (!where.writes_kv || moves[move].cls != where.cls) return;
    MoveRowsArgs args;
    args.pools = plans.pools;
    args.full = &plans.kv.format(kZoneFull, where.kv_layer, 0);
    args.mid = &plans.kv.format(kZoneMid, where.kv_layer, 0);
    args.sum = &plans.kv.format(kZoneSum, where.kv_layer, 0);
    args.channels = plans.kv.channels;
    args.moves = moves.data();
    args.head_dim = plans.kv.head_dim;
    for (int32_t g = 0; g < kv_heads; ++g) ctx.attention.move_rows(args, move, g);
  });
}

}  // namespace pare::ops
