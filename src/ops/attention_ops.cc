#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "ops/ops.h"

namespace pare::ops {

void append_kv(ExecContext& ctx, const KvView& kv, std::byte* const* pools, int32_t kv_layer, const Tensor& k,
               const Tensor& v, const Tensor& dst) {
  const int64_t rows = dst.items();
  AppendArgs args;
  args.pools = pools;
  args.formats = &kv.format(kZoneFull, kv_layer, 0);
  args.k = k.as<float>();
  args.v = v.as<float>();
  args.dst = dst.as<int32_t>();
  args.n_kv_heads = kv.n_kv_heads;
  args.head_dim = kv.head_dim;
  if (rows <= 2) {
    ctx.attention.append_rows(args, 0, rows);
    return;
  }
  ctx.pool.run(ctx.pool.threads(), [&](int64_t task, int) {
    const Share share = share_of(rows, static_cast<int>(task), ctx.pool.threads());
    ctx.attention.append_rows(args, share.begin, share.end);
  });
}

void attend(ExecContext& ctx, const AttentionLayer& layer, const BlockPlan* block, const SegmentPlan* segment,
            int32_t n_seqs, LinearInput& out) {
  const int threads = ctx.pool.threads();
  const size_t mark = ctx.arena.mark();
  const int32_t kv_heads = layer.kv.n_kv_heads, group = layer.n_heads / kv_heads;
  const auto counters = ctx.arena.take<AttentionCounters>(threads);
  PARE_CHECK(!counters.empty());
  std::fill(counters.begin(), counters.end(), AttentionCounters{});

  if (block && *block->n_tiles > 0) {
    const int64_t tiles = *block->n_tiles;
    const size_t bytes = round_up<size_t>(
        ctx.attention.prefill_workspace_bytes(block->tile_rows, group, layer.head_dim), 64);
    const auto workspace = ctx.arena.take<std::byte>(bytes * threads);
    PARE_CHECK(!workspace.empty());
    // Late tiles see the most keys: starting with them leaves short tasks to fill the end.
    ctx.pool.run(tiles * kv_heads, [&](int64_t task, int thread) {
      const int64_t tile = tiles - 1 - task / kv_heads;
      ctx.attention.prefill_tile(layer, *block, static_cast<int32_t>(tile), static_cast<int32_t>(task % kv_heads),
                                 workspace.data() + bytes * thread, &counters[thread]);
    });
  }
  if (segment && *segment->n_runs > 0) {
    const int64_t items = segment->item_prefix[*segment->n_runs];
    constexpr int32_t kMaxQueryRows = 16;
    const size_t bytes = round_up<size_t>(
        ctx.attention.decode_workspace_bytes(kMaxQueryRows * group, layer.head_dim), 64);
    const auto workspace = ctx.arena.take<std::byte>(bytes * threads);
    PARE_CHECK(!workspace.empty());
    ctx.pool.run(items * kv_heads, [&](int64_t task, int thread) {
      ctx.attention.decode_item(layer, *segment, static_cast<int32_t>(task / kv_heads),
                                static_cast<int32_t>(task % kv_heads), workspace.data() + bytes * thread,
                                &counters[thread]);
    });
    const int64_t folds = static_cast<int64_t>(n_seqs) * kv_heads;
    const auto fold = [&](int64_t task) {
      const int32_t seq = static_cast<int32_t>(task / kv_heads);
      if (layer.seqs[seq].n_folds == 0) return;
      ctx.attention.decode_fold(layer, *segment, seq, static_cast<int32_t>(task % kv_heads));
    };
    if (folds <= 4) {
      for (int64_t task = 0; task < folds; ++task) fold(task);
    } else {
      ctx.pool.run(folds, [&](int64_t task, int) { fold(task); });
    }
  }
  for (const AttentionCounters& c : counters) {
    ctx.counters.kv_bytes += c.bytes_read;
    ctx.counters.kv_rows += c.rows_read;
    ctx.counters.keys_visited += c.keys_visited;
  }
  ctx.arena.release(mark);
  quantize(ctx, out);
}

}  // namespace pare::ops
