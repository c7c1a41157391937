#include "runtime/embedder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "attention/selector.h"
#include "base/limits.h"
#include "kv/step_builder.h"
#include "ops/device_ops.h"
#include "ops/step.h"
#include "runtime/placement.h"

namespace pare {
namespace {

constexpr int32_t kBatchTexts = 16;

SegmentShape shape_of(const ModelConfig& c, int threads) { return {c.n_heads, c.n_kv_heads, c.head_dim, threads}; }

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
  std::unique_ptr<ops::DeviceOps> device_ops;
  if (model->accelerator) {
    PARE_ASSIGN_OR_RETURN(device_ops, model->accelerator->create_ops());
  }
  e->context_ = std::make_unique<ExecContext>(e->pool_.get(), level, Arena(), std::move(device_ops));
  e->layers_ = uniform_layer_map(config.n_layers);
  PARE_ASSIGN_OR_RETURN(const Spec dense, parse_spec("dense", "kv"));
  PARE_ASSIGN_OR_RETURN(e->policy_, make_kv_policy(dense));

  KvStoreConfig c;
  c.layers = &e->layers_;
  c.n_kv_heads = config.n_kv_heads;
  c.head_dim = config.head_dim;
  // Encoders keep rows for one step only; full precision costs nothing worth saving.
  c.codec = Codec::F32;
  place_rows(model->accelerator, &c);
  c.max_sequences = kBatchTexts;
  c.max_context = config.context_max;
  c.max_step_rows = config.context_max;
  c.share_prefixes = false;
  PARE_ASSIGN_OR_RETURN(e->store_, KvStore::create(c));

  const int32_t rows = kBatchTexts * config.context_max;
  const SegmentShape shape = shape_of(config, threads);
  PARE_ASSIGN_OR_RETURN(const Spec attn, parse_spec("dense", "attn"));
  PARE_ASSIGN_OR_RETURN(const SelectorSet selectors, SelectorSet::make(attn, e->layers_));
  e->tile_rows_ = static_cast<uint16_t>(ops::preferred_tile_rows(*e->context_, 1, config.head_dim));
  const PlanBytes plans = step_max_bytes(rows, kBatchTexts, config.context_max, e->layers_, *e->policy_.policy, shape);
  const size_t ints = static_cast<size_t>(rows) * sizeof(int32_t);
  ops::StepMemory memory;
  memory.arena_bytes = plans.workspace + model->model->workspace_bytes(*e->context_, rows, 0, e->tile_rows_) +
                       static_cast<size_t>(rows + kBatchTexts) * config.dim * sizeof(float) + 4096;
  memory.tables_bytes = plans.tables + selectors.max_bytes(rows, kBatchTexts, e->tile_rows_) + 4 * ints + 4096;
  memory.max_sequences = kBatchTexts;
  memory.max_context = config.context_max;
  memory.decode_slots = plans.slots;
  memory.graphs = false;
  memory.pool_bytes = e->store_->pool_bytes();
  PARE_RETURN_IF_ERROR(ops::allocate_step_memory(*e->context_, memory, e->store_->view()));
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
  ops::begin_step(ctx, 0);
  std::vector<StepSeq> seqs(texts.size());
  int64_t rows = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    PARE_ASSIGN_OR_RETURN(seqs[i].seq, store_->create_sequence());
    PARE_RETURN_IF_ERROR(store_->reserve(seqs[i].seq, static_cast<int32_t>(texts[i].size())));
    seqs[i].tokens = texts[i];
    seqs[i].prompt_len = static_cast<int32_t>(texts[i].size());
    rows += seqs[i].prompt_len;
  }
  const auto ints = [&](int64_t n) { return Tensor(ctx.tables.take<int32_t>(n).data(), DType::I32, {n}, ctx.device); };
  StepInputs inputs;
  inputs.tokens = ints(rows);
  inputs.positions = ints(rows);
  inputs.logit_rows = Tensor(nullptr, DType::I32, {0}, ctx.device);
  const Tensor limit = ints(rows);
  Tensor begin = ints(static_cast<int64_t>(texts.size()) + 1);
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
  PARE_RETURN_IF_ERROR(build_step(seqs, layers_, *policy_.policy, shape_of(config, pool_->threads()), *store_,
                                  ctx.tables, ctx.arena, plans));
  PARE_ASSIGN_OR_RETURN(const Spec attn, parse_spec("dense", "attn"));
  PARE_ASSIGN_OR_RETURN(const SelectorSet selectors, SelectorSet::make(attn, layers_));
  PrefillRows prefill;
  prefill.seqs = std::span(plans.classes[0].seqs, plans.n_seqs);
  prefill.limit = limit.as<int32_t>();
  prefill.n_heads = config.n_heads;
  prefill.tile_rows = tile_rows_;
  PARE_RETURN_IF_ERROR(selectors.build(prefill, ctx.tables, plans));
  inputs.plans = &plans;
  ops::SampleBatch no_draws;
  const std::array<Tensor*, 3> tables = {&inputs.tokens, &inputs.positions, &begin};
  ops::upload_step(ctx, plans, tables, &no_draws);
  Tensor hidden = ops::make_f32(ctx, {rows, config.dim});
  Tensor pooled = ops::make_f32(ctx, {static_cast<int64_t>(texts.size()), config.dim});
  PARE_RETURN_IF_ERROR(ops::launch_step(ctx, plans, tables, no_draws, [&] {
    model_->model->forward(ctx, inputs, &hidden);
    ops::mean_pool(ctx, hidden, begin, config.normalize_embedding, pooled);
  }));
  std::vector<float> buffer;
  PARE_ASSIGN_OR_RETURN(const std::span<const float> vectors, ops::read_values(ctx, pooled, &buffer));
  store_->commit_step();
  for (size_t i = 0; i < texts.size(); ++i) {
    const float* vector = vectors.data() + i * config.dim;
    out->emplace_back(vector, vector + config.dim);
    store_->free_sequence(seqs[i].seq);
  }
  return ok_status();
}

}  // namespace pare
