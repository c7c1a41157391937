// bench_attention on the CPU: the engine's store, plans and kernels, without a model.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "attention/selector.h"
#include "base/checked.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "eval/attention_bench.h"
#include "eval/model_bench.h"
#include "kernels/attention.h"
#include "kernels/prefill_pieces.h"
#include "kv/store.h"
#include "runtime/policy_files.h"

namespace pare {
namespace {

constexpr int32_t kChunk = 4096;

class Prompt {
 public:
  static Expected<Prompt> create(const AttentionShape& shape, int32_t tokens, ThreadPool* pool, CpuLevel level) {
    Prompt p(shape, tokens, pool, level);
    KvStoreConfig c;
    c.layers = &p.layers_;
    c.n_kv_heads = shape.kv_heads;
    c.head_dim = shape.head_dim;
    c.max_sequences = 1;
    c.max_context = p.tokens_;
    c.max_step_rows = kChunk;
    c.share_prefixes = false;
    PARE_ASSIGN_OR_RETURN(p.store_, KvStore::create(c));
    PARE_ASSIGN_OR_RETURN(p.seq_, p.store_->create_sequence());
    PARE_RETURN_IF_ERROR(p.fill());
    return p;
  }

  // Plans and attends every chunk. Seconds.
  Expected<double> read(const SelectorSet& selectors, double* pairs) {
    const size_t bytes = selectors.max_bytes(kChunk, 1, tile_rows_);
    PARE_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::allocate(std::max<size_t>(bytes, 64)));
    Arena arena(std::move(buffer));
    std::vector<AttentionCounters> counters(pool_.threads());
    const auto begin = std::chrono::steady_clock::now();
    for (int32_t pos = 0; pos < tokens_; pos += kChunk) {
      arena.reset();
      PARE_RETURN_IF_ERROR(attend(selectors, pos, std::min(kChunk, tokens_ - pos), arena, counters.data()));
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    *pairs = 0;
    for (const AttentionCounters& c : counters) *pairs += static_cast<double>(c.keys_visited);
    return seconds;
  }

 private:
  Prompt(const AttentionShape& shape, int32_t tokens, ThreadPool* pool, CpuLevel level)
      : shape_(shape),
        tokens_(tokens),
        pool_(*pool),
        kernels_(attention_kernels(level)),
        tile_rows_(static_cast<uint16_t>(preferred_tile_rows(level, shape.heads / shape.kv_heads, shape.head_dim))) {
    const size_t rows = static_cast<size_t>(std::min(tokens, kChunk));
    q_.resize(rows * shape.heads * shape.head_dim);
    out_.resize(q_.size());
    workspace_bytes_ = round_up<size_t>(
        kernels_.prefill_workspace_bytes(tile_rows_, shape.heads / shape.kv_heads, shape.head_dim), 64);
    workspace_.resize(workspace_bytes_ * pool->threads() + 64);
    Philox rng(1);
    for (float& x : q_) x = rng.normal();
  }

  Status fill() {
    const size_t row = static_cast<size_t>(shape_.kv_heads) * shape_.head_dim;
    std::vector<float> k(static_cast<size_t>(kChunk) * row), v(k.size());
    Philox rng(2);
    for (std::vector<float>* x : {&k, &v}) {
      for (float& e : *x) e = rng.normal();
    }
    std::vector<int32_t> ids(kChunk, 0), dst(kChunk);
    for (int32_t pos = 0; pos < tokens_; pos += kChunk) {
      const int32_t n = std::min(kChunk, tokens_ - pos);
      PARE_RETURN_IF_ERROR(store_->reserve(seq_, n));
      store_->append(seq_, std::span(ids).first(n), tokens_);
      store_->fill_dst(seq_, 0, std::span(dst).first(n));
      AppendArgs args;
      args.pools = store_->pools();
      args.formats = &store_->view().format(kZoneFull, 0, 0);
      args.k = k.data();
      args.v = v.data();
      args.dst = dst.data();
      args.n_kv_heads = shape_.kv_heads;
      args.head_dim = shape_.head_dim;
      kernels_.append_rows(args, 0, n);
      store_->commit_step();
    }
    return ok_status();
  }

  Status attend(const SelectorSet& selectors, int32_t pos, int32_t n, Arena& arena, AttentionCounters* counters) {
    SeqStep seq{.q_row = 0, .n_q = n, .pos = pos, .prompt_len = tokens_, .page0 = store_->page0(seq_, 0)};
    seq.heads = static_cast<uint16_t>(shape_.heads);
    StepPlans plans;
    PARE_RETURN_IF_ERROR(
        selectors.build({.seqs = {&seq, 1}, .n_heads = shape_.heads, .tile_rows = tile_rows_}, arena, plans));
    const BlockPlan& plan = plans.block(0);
    AttentionLayer layer;
    layer.kv = store_->view();
    layer.n_heads = shape_.heads;
    layer.head_dim = shape_.head_dim;
    layer.qa = shape_.heads / shape_.kv_heads;
    layer.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    layer.seqs = &seq;
    layer.q = q_.data();
    layer.out = out_.data();
    layer.n_rows = n;
    auto* workspace = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(workspace_.data()) + 63) / 64 * 64);
    // As ops::attend_layer hands tiles out.
    const int32_t kv_heads = shape_.kv_heads;
    pieces_.resize(std::max<size_t>(pieces_.size(), tile_pieces_max(*plan.n_tiles, pool_.threads())));
    const std::span<const TilePiece> pieces = cut_tiles(layer, plan, pool_.threads(), pieces_);
    pool_.run_singly(static_cast<int64_t>(pieces.size()) * kv_heads, [&](int64_t task, int thread) {
      prefill_piece(kernels_, layer, plan, pieces[task / kv_heads], static_cast<int32_t>(task % kv_heads),
                    workspace + workspace_bytes_ * thread, &counters[thread]);
    });
    return ok_status();
  }

  AttentionShape shape_;
  int32_t tokens_;
  ThreadPool& pool_;
  const AttentionKernels& kernels_;
  uint16_t tile_rows_;
  LayerMap layers_ = uniform_layer_map(1);
  std::unique_ptr<KvStore> store_;
  SeqId seq_ = 0;
  std::vector<float> q_, out_;
  std::vector<TilePiece> pieces_;
  size_t workspace_bytes_ = 0;
  std::vector<std::byte> workspace_;
};

}  // namespace

Expected<AttentionBench> bench_attention_cpu(const AttentionBenchOptions& o) {
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  ThreadPool pool(o.threads > 0 ? o.threads : usable_cpus());
  PARE_ASSIGN_OR_RETURN(const Spec spec, parse_spec(o.attn, "attn"));
  PARE_ASSIGN_OR_RETURN(const Spec dense_spec, parse_spec("dense", "attn"));
  PARE_ASSIGN_OR_RETURN(const SelectorSet selectors, SelectorSet::make(spec, uniform_layer_map(1)));
  PARE_ASSIGN_OR_RETURN(const SelectorSet dense, SelectorSet::make(dense_spec, uniform_layer_map(1)));
  PARE_RETURN_IF_ERROR(check_gate_options(o, selectors));
  AttentionBench bench;
  bench.device_class = device_class(level);
  bench.attn = selectors.canonical();
  bench.machine = fmt::format("{}, {} threads", cpu_level_name(level), pool.threads());
  bench.shape = o.shape;
  bench.repetitions = o.repetitions;
  for (const int32_t tokens : o.lengths) {
    if (o.next && !o.next(fmt::format("{} tokens", tokens))) return cancelled("interrupted");
    PARE_ASSIGN_OR_RETURN(Prompt prompt, Prompt::create(o.shape, tokens, &pool, level));
    AttentionBenchLine line;
    line.tokens = tokens;
    line.dense_pairs = 0.5 * tokens * (tokens + 1.0) * o.shape.heads;
    std::vector<double> sparse_times, dense_times;
    for (int32_t r = -1; r < o.repetitions; ++r) {  // the first is a warm-up
      double pairs;
      PARE_ASSIGN_OR_RETURN(const double seconds, prompt.read(selectors, &line.pairs));
      if (r >= 0) sparse_times.push_back(seconds);
      if (tokens > o.dense_max) continue;
      PARE_ASSIGN_OR_RETURN(const double dense_seconds, prompt.read(dense, &pairs));
      if (r >= 0) dense_times.push_back(dense_seconds);
      if (o.next && !o.next(fmt::format("{} tokens", tokens))) return cancelled("interrupted");
    }
    line.seconds = median(sparse_times);
    if (!dense_times.empty()) {
      line.dense_seconds = median(dense_times);
      std::vector<double> ratios;
      for (size_t r = 0; r < dense_times.size(); ++r) ratios.push_back(sparse_times[r] / dense_times[r]);
      line.ratio = median(ratios);
    }
    bench.lines.push_back(line);
  }
  fit_slopes(&bench);
  return bench;
}

}  // namespace pare
