#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "ops/device_ops.h"
#include "ops/ops.h"

namespace pare::ops {
namespace {

// Rows of activations that one task multiplies with its tiles: large enough to amortize unpacking a weight block,
// small enough that [rows, K] int8 stays in a core's L2 (128 x 8,960 = 1.1 MiB at the widest real layer).
constexpr int64_t kRowsPerTask = 128;
// Tasks a thread should find on average: balances unequal cores without paying for many claims.
constexpr int64_t kTasksPerThread = 8;

struct Grid {
  int64_t tiles_per_task, tile_tasks, row_tasks;
};

// How to cut [rows] x [tiles] of one weight. Cuts never change results: outputs are independent.
Grid make_grid(int threads, int64_t rows, int64_t tiles, int64_t total_tiles) {
  Grid grid;
  grid.row_tasks = ceil_div(rows, kRowsPerTask);
  const int64_t wanted = std::max<int64_t>(1, threads == 1 ? 1 : threads * kTasksPerThread / grid.row_tasks);
  grid.tiles_per_task = std::clamp<int64_t>(total_tiles / wanted, 1, std::max<int64_t>(1, tiles));
  grid.tile_tasks = ceil_div(tiles, grid.tiles_per_task);
  return grid;
}

int64_t tiles_of(const Weight& w) { return ceil_div(w.n, kRowTile); }

void count(ExecContext& ctx, const Weight& w, int64_t rows) {
  ctx.counters.weight_bytes += packed_weight_bytes(w.dtype, w.n, w.k);
  ctx.counters.macs += static_cast<uint64_t>(rows) * w.n * w.k;
}

}  // namespace

void linear(ExecContext& ctx, const LinearInput& x, std::span<const LinearOutput> outputs) {
  constexpr size_t kMaxOutputs = 4;
  PARE_CHECK(outputs.size() <= kMaxOutputs);
  const int64_t rows = x.rows.t;
  if (rows == 0) return;
  int64_t total_tiles = 0;
  for (const LinearOutput& o : outputs) {
    PARE_CHECK(o.weight->k == x.rows.k && o.y->items() == rows * o.weight->n);
    total_tiles += tiles_of(*o.weight);
    count(ctx, *o.weight, rows);
  }
  if (ctx.device_ops) return ctx.device_ops->linear(x, outputs);
  // Tasks go by rows first: threads that share rows of activations share nothing else.
  Grid grids[kMaxOutputs];
  int64_t tile_tasks = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    grids[i] = make_grid(ctx.pool.threads(), rows, tiles_of(*outputs[i].weight), total_tiles);
    tile_tasks += grids[i].tile_tasks;
  }
  ctx.pool.run_shares(tile_tasks * grids[0].row_tasks, [&](int64_t task, int) {
    const int64_t t0 = task / tile_tasks * kRowsPerTask;
    task %= tile_tasks;
    size_t i = 0;
    while (task >= grids[i].tile_tasks) task -= grids[i++].tile_tasks;
    const LinearOutput& o = outputs[i];
    const int64_t tile0 = task * grids[i].tiles_per_task;
    const LinearEpilogue epilogue{o.bias, o.accumulate};
    ctx.linear.linear(*o.weight, x.rows, t0, std::min(rows, t0 + kRowsPerTask), tile0,
                      std::min(tiles_of(*o.weight), tile0 + grids[i].tiles_per_task), epilogue,
                      o.y->as<float>() + t0 * o.weight->n + tile0 * kRowTile, o.weight->n);
  });
}

// Columns of gate and up that a task brings to an end at a time: one block of activations for the next product.
static constexpr int64_t kGluColumns = kActBlock;

size_t glu_workspace_bytes(const ExecContext& ctx, int64_t rows, int64_t n) {
  if (ctx.device_ops) return ctx.device_ops->glu_workspace_bytes(rows, n);
  return 2 * kRowsPerTask * kGluColumns * sizeof(float) * ctx.pool.threads() + 64;
}

void glu_linear(ExecContext& ctx, const LinearInput& x, const Weight& gate, const Weight& up, Activation act,
                LinearInput& out) {
  const int64_t rows = x.rows.t, n = gate.n;
  PARE_CHECK(gate.k == x.rows.k && up.k == x.rows.k && up.n == n && out.rows.t == rows && out.rows.k == n);
  PARE_CHECK(!out.quantized || n % kActBlock == 0);
  if (rows == 0) return;
  count(ctx, gate, rows);
  count(ctx, up, rows);
  if (ctx.device_ops) return ctx.device_ops->glu_linear(ctx.arena, x, gate, up, act, out);
  const size_t mark = ctx.arena.mark();
  constexpr int64_t kBuffer = kRowsPerTask * kGluColumns;
  const auto buffers = ctx.arena.take<float>(2 * kBuffer * ctx.pool.threads());
  PARE_CHECK(!buffers.empty());
  constexpr int64_t kTiles = kGluColumns / kRowTile;
  const int64_t pairs = ceil_div(tiles_of(gate), kTiles);
  const Grid grid = make_grid(ctx.pool.threads(), rows, pairs, pairs);
  ctx.pool.run_shares(grid.tile_tasks * grid.row_tasks, [&](int64_t task, int thread) {
    float* g = buffers.data() + 2 * kBuffer * thread;
    float* u = g + kBuffer;
    const int64_t t0 = task / grid.tile_tasks * kRowsPerTask, t1 = std::min(rows, t0 + kRowsPerTask);
    const int64_t first = task % grid.tile_tasks * grid.tiles_per_task;
    for (int64_t p = first; p < std::min(pairs, first + grid.tiles_per_task); ++p) {
      const int64_t tile0 = p * kTiles, tile1 = std::min(tiles_of(gate), tile0 + kTiles);
      ctx.linear.linear(gate, x.rows, t0, t1, tile0, tile1, {}, g, kGluColumns);
      ctx.linear.linear(up, x.rows, t0, t1, tile0, tile1, {}, u, kGluColumns);
      if (out.quantized) {
        ctx.elementwise.glu(act, g, u, (t1 - t0) * kGluColumns, g);
        ctx.linear.quantize(g, kGluColumns, out.rows, t0, t1, p, p + 1);
        continue;
      }
      const int64_t column = p * kGluColumns, columns = std::min(n - column, kGluColumns);
      for (int64_t t = t0; t < t1; ++t) {
        const int64_t at = (t - t0) * kGluColumns;
        ctx.elementwise.glu(act, g + at, u + at, columns, out.values.as<float>() + t * n + column);
      }
    }
  });
  ctx.arena.release(mark);
}

void linear_activate(ExecContext& ctx, const LinearInput& x, const Weight& w, const float* bias, Activation act,
                     LinearInput& out) {
  const int64_t rows = x.rows.t;
  if (ctx.device_ops) {
    count(ctx, w, rows);
    return ctx.device_ops->linear_activate(ctx.arena, x, w, bias, act, out);
  }
  const LinearOutput output{&w, bias, &out.values, false};
  linear(ctx, x, std::span(&output, 1));
  float* y = out.values.as<float>();
  ctx.pool.run(rows, [&](int64_t t, int) { ctx.elementwise.activate(act, y + t * w.n, w.n); });
  quantize(ctx, out);
}

}  // namespace pare::ops
