#include "runtime/embedder.h"

#include <fmt/format.h>

#include <algorithm>

#include "attention/selector.h"
#include "base/limits.h"
#include "kv/step_builder.h"

namespace pare {
namespace {

constexpr int32_t kBatchTexts = 16;

SegmentShape shape_of(const ModelConfig& c, int threads) { return {c.n_heads, c.n_kv_heads, c.head_dim, threads}; }

uint16_t tile_rows_of(const ModelConfig& c, CpuLevel level) {
  return static_cast<uint16_t>(preferred_tile_rows(level, c.n_heads / c.n_kv_heads, c.head_dim));
}

}  // namespace

Expected<std::unique_ptr<Embedder>> Embedder::create(std::shared_ptr<const LoadedModel> model, int32_t threads) {
  const ModelConfig& config = model->model->config();
  if (!config.encoder)
    return unsupported(fmt::format("'{}' is a decoder: it generates, it does not embed", config.arch));
  if (threads == 0) threads = usable_cpus();
  if (threads < 1 || threads > kMaxThreads)
    return invalid_argument(fmt::format("threads is {}, allowed 1 to {}", threads, kMaxThreads));
  PARE_ASSIGN_OR_RETURN(const CpuLevel level, selected_cpu_level());
  std::unique_ptr<Embedder> e(new Embedder());
  e->pool_ = std::make_unique<ThreadPool>(threads);
  e->context_ = std::make_unique<ExecContext>(e->pool_.get(), level, Arena());
  e->layers_ = uniform_layer_map(config.n_layers);
  PARE_ASSIGN_OR_RETURN(const Spec dense, parse_spec("dense", "kv"));
  PARE_ASSIGN_OR_RETURN(e->policy_, make_kv_policy(dense));

  KvStoreConfig c;
  c.layers = &e->layers_;
  c.n_kv_heads = config.n_kv_heads;
  c.head_dim = config.head_dim;
  // Encoders keep rows for one step only; full precision costs nothing worth saving.
  c.codec = Codec::F32;
  c.max_sequences = kBatchTexts;
  c.max_context = config.context_max;
  c.max_step_rows = config.context_max;
  c.share_prefixes = false;
  PARE_ASSIGN_OR_RETURN(e->store_, KvStore::create(c));

  const int32_t rows = kBatchTexts * config.context_max;
  const SegmentShape shape = shape_of(config, threads);
  PARE_ASSIGN_OR_RETURN(const Spec attn, parse_spec("dense", "attn"));
  PARE_ASSIGN_OR_RETURN(const SelectorSet selectors, SelectorSet::make(attn, e->layers_));
  const uint16_t tile_rows = tile_rows_of(config, level);
  const size_t bytes = step_max_bytes(rows, kBatchTexts, config.context_max, e->layers_, *e->policy_.policy, shape) +
                       selectors.max_bytes(rows, kBatchTexts, tile_rows) +
                       model->model->workspace_bytes(*e->context_, rows, 0, tile_rows) +
                       static_cast<size_t>(rows) * (config.dim * sizeof(float) + 3 * sizeof(int32_t)) +
                       static_cast<size_t>(kBatchTexts) * config.dim * sizeof(float) + 4096;
  PARE_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::allocate(bytes));
  e->context_->arena = Arena(std::move(buffer));
  e->model_ = std::move(model);
  return e;
}

Expected<std::vector<std::vector<float>>> Embedder::embed(std::span<const std::vector<TokenId>> texts) {
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].empty() || texts[i].size() > static_cast<size_t>(tokens_max())) {
      return invalid_argument(fmt::format("text {} has {} tokens, allowed 1 to {}", i, texts[i].size(), tokens_max()));
    }
    for (TokenId id : texts[i]) {
      if (id < 0 || id >= model_->model->config().vocab)
        return invalid_argument(fmt::format("text {} holds token {}", i, id));
    }
  }
  std::vector<std::vector<float>> vectors;
  vectors.reserve(texts.size());
  for (size_t first = 0; first < texts.size(); first += kBatchTexts) {
    PARE_RETURN_IF_ERROR(
        embed_batch(texts.subspan(first, std::min<size_t>(kBatchTexts, texts.size() - first)), &vectors));
  }
  return vectors;
}

Status Embedder::embed_batch(std::span<const std::vector<TokenId>> texts, std::vector<std::vector<float>>* out) {
  ExecContext& ctx = *context_;
  const ModelConfig& config = model_->model->config();
  ctx.arena.reset();
  std::vector<StepSeq> seqs(texts.size());
  int64_t rows = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    PARE_ASSIGN_OR_RETURN(seqs[i].seq, store_->create_sequence());
    PARE_RETURN_IF_ERROR(store_->reserve(seqs[i].seq, static_cast<int32_t>(texts[i].size())));
    seqs[i].tokens = texts[i];
    seqs[i].prompt_len = static_cast<int32_t>(texts[i].size());
    rows += seqs[i].prompt_len;
  }
  const auto ints = [&](int64_t n) { return Tensor(ctx.arena.take<int32_t>(n).data(), DType::I32, {n}, ctx.device); };
  StepInputs inputs;
  inputs.tokens = ints(rows);
  inputs.positions = ints(rows);
  inputs.logit_rows = Tensor(nullptr, DType::I32, {0}, ctx.device);
  const Tensor limit = ints(rows), begin = ints(static_cast<int64_t>(texts.size()) + 1);
  int32_t row = 0;
  begin.as<int32_t>()[0] = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const int32_t length = seqs[i].prompt_len;
    for (int32_t p = 0; p < length; ++p, ++row) {
      inputs.tokens.as<int32_t>()[row] = texts[i][p];
      inputs.positions.as<int32_t>()[row] = p;
      limit.as<int32_t>()[row] = length;  // every token sees the whole text
    }
    begin.as<int32_t>()[i + 1] = row;
  }

  StepPlans plans;
  PARE_RETURN_IF_ERROR(
      build_step(seqs, layers_, *policy_.policy, shape_of(config, pool_->threads()), *store_, ctx.arena, plans));
  PARE_ASSIGN_OR_RETURN(const Spec attn, parse_spec("dense", "attn"));
  PARE_ASSIGN_OR_RETURN(const SelectorSet selectors, SelectorSet::make(attn, layers_));
  PrefillRows prefill;
  prefill.seqs = std::span(plans.classes[0].seqs, plans.n_seqs);
  prefill.limit = limit.as<int32_t>();
  prefill.n_heads = config.n_heads;
  prefill.tile_rows = tile_rows_of(config, ctx.level);
  PARE_RETURN_IF_ERROR(selectors.build(prefill, ctx.arena, plans));
  inputs.plans = &plans;
  Tensor hidden = ops::make_f32(ctx, {rows, config.dim});
  Tensor pooled = ops::make_f32(ctx, {static_cast<int64_t>(texts.size()), config.dim});
  model_->model->forward(ctx, inputs, &hidden);
  ops::mean_pool(ctx, hidden, begin, config.normalize_embedding, pooled);
  store_->commit_step();
  for (size_t i = 0; i < texts.size(); ++i) {
    const float* vector = pooled.as<float>() + i * config.dim;
    out->emplace_back(vector, vector + config.dim);
    store_->free_sequence(seqs[i].seq);
  }
  return ok_status();
}

}  // namespace pare
