#include "runtime/engine_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "base/limits.h"
#include "kv/configure.h"
#include "ops/device_ops.h"
#include "runtime/placement.h"
#include "runtime/policy_files.h"

namespace pare {
namespace {

constexpr int64_t kMaxStepRows = 65'536;
// Enough rows to amortize reading the weights, few enough that decoding neighbours do not wait long.
constexpr int32_t kCpuStepRows = 512, kAcceleratorStepRows = 4096;

Status bounded(std::string_view option, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return ok_status();
  return invalid_argument(fmt::format("{} is {}, allowed {} to {}", option, value, min, max));
}

// FNV-1a: joins what a cached row depends on into one tag.
uint64_t mix(uint64_t hash, std::string_view text) {
  for (char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

LayerMap layer_map(const ModelConfig& c) {
  std::vector<LayerInfo> layers(c.n_layers);
  for (int32_t l = 0; l < c.n_layers; ++l) {
    layers[l].window = c.is_sliding(l) ? c.window : kNoWindow;
    layers[l].kv_layer = l;
  }
  return *make_layer_map(layers);
}

}  // namespace

Expected<std::unique_ptr<EngineMemory>> EngineMemory::create(const LoadedModel& model, const EngineOptions& options) {
  std::unique_ptr<EngineMemory> memory(new EngineMemory());
  const ModelConfig& config = model.model->config();
  if (config.encoder)
    return unsupported(fmt::format("'{}' is an encoder: it embeds, it does not generate", config.arch));
  EngineOptions& o = memory->options_;
  o = options;
  if (o.threads == 0) o.threads = usable_cpus();
  if (o.max_context == 0) o.max_context = config.context_max;
  PARE_RETURN_IF_ERROR(bounded("threads", o.threads, 1, kMaxThreads));
  if (o.cpu_level) PARE_RETURN_IF_ERROR(check_cpu_level(*o.cpu_level).with_context("cpu_level"));
  PARE_RETURN_IF_ERROR(bounded("max_sequences", o.max_sequences, 1, kMaxSequences));
  PARE_RETURN_IF_ERROR(bounded("max_context", o.max_context, 1, config.context_max));
  PARE_RETURN_IF_ERROR(bounded("kv_rows", o.kv_rows, 0, kMaxContext * kMaxSequences));
  o.kv_rows = round_up<int64_t>(o.kv_rows == 0 ? o.max_context : o.kv_rows, kPageRows);
  if (o.step_rows == 0) o.step_rows = model.accelerator ? kAcceleratorStepRows : kCpuStepRows;
  PARE_RETURN_IF_ERROR(bounded("step_rows", o.step_rows, 1, kMaxStepRows));
  PARE_RETURN_IF_ERROR(bounded("logit_rows", o.logit_rows, 1, kMaxStepRows));
  o.logit_rows = std::min(o.logit_rows, o.step_rows);
  PARE_RETURN_IF_ERROR(bounded("steps_in_flight", o.steps_in_flight, -1, 1));
  if (o.steps_in_flight < 0) o.steps_in_flight = model.accelerator ? 1 : 0;
  if (o.on_attention && model.accelerator) return unsupported("an observer of attention on an accelerator");
  if (o.kv_f32 && model.accelerator) return unsupported("stored rows in fp32 on an accelerator");
  memory->layers_ = layer_map(config);
  PARE_RETURN_IF_ERROR(memory->make_context(model));
  PARE_RETURN_IF_ERROR(memory->make_policies(model));
  // A step holds at least one chunk of a prompt, and the logits of all its rows when they are observed.
  const int32_t grid = memory->selectors_->chunk_grid();
  PARE_RETURN_IF_ERROR(bounded("step_rows", o.step_rows, grid, kMaxStepRows));
  PARE_RETURN_IF_ERROR(bounded("logit_rows", o.logit_rows, grid, kMaxStepRows));
  PARE_RETURN_IF_ERROR(memory->make_store(model));
  PARE_RETURN_IF_ERROR(memory->make_arena(*model.model));
  PARE_RETURN_IF_ERROR(memory->make_outputs());
  return memory;
}

Status EngineMemory::make_context(const LoadedModel& model) {
  const ModelConfig& c = model.model->config();
  if (!options_.cpu_level) {
    PARE_ASSIGN_OR_RETURN(options_.cpu_level, selected_cpu_level());
  }
  const CpuLevel level = *options_.cpu_level;
  pool_ = std::make_unique<ThreadPool>(options_.threads);
  shape_ = segment_shape(c.n_heads, c.n_kv_heads, c.head_dim, pool_->threads(), model.accelerator.get());
  std::unique_ptr<ops::DeviceOps> device_ops;
  if (model.accelerator) {
    PARE_ASSIGN_OR_RETURN(device_ops, model.accelerator->create_ops());
  }
  context_ = std::make_unique<ExecContext>(pool_.get(), level, Arena(), std::move(device_ops));
  context_->on_attention = options_.on_attention;
  tile_rows_ = static_cast<uint16_t>(ops::preferred_tile_rows(*context_, c.n_heads / c.n_kv_heads, c.head_dim));
  return ok_status();
}

Status EngineMemory::make_policies(const LoadedModel& model) {
  DiskPolicyFiles files;
  const std::string device = device_class(model, context_->level);
  const PolicyContext context = policy_context(model, device, &files);
  PARE_ASSIGN_OR_RETURN(const Spec attn, parse_spec(options_.attn, "attn"));
  PARE_ASSIGN_OR_RETURN(SelectorSet selectors, SelectorSet::make(attn, layers_, context));
  selectors_ = std::make_unique<SelectorSet>(std::move(selectors));
  PARE_ASSIGN_OR_RETURN(const Spec kv, parse_spec(options_.kv, "kv"));
  PARE_ASSIGN_OR_RETURN(policy_, make_kv_policy(kv, context));

  const std::vector<const Caps*> selector_caps = selectors_->caps();
  for (const Caps* caps : selector_caps) {
    if (!options_.strict || caps->batch_invariant) continue;
    return invalid_argument(
        fmt::format("strict mode: with attn={} a row's bits depend on the rows beside it", selectors_->canonical()));
  }
  std::vector<const Caps*> features;
  for (const char* name : {"chunked_prefill", "fork", "preemption"}) features.push_back(find_feature(name));
  return check_legal(selector_caps, policy_.policy->stages(), features);
}

Status EngineMemory::make_store(const LoadedModel& model) {
  const ModelConfig& config = model.model->config();
  KvStoreConfig c;
  c.layers = &layers_;
  c.n_kv_heads = config.n_kv_heads;
  c.head_dim = config.head_dim;
  if (options_.kv_f32) c.codec = Codec::F32;
  place_rows(model.accelerator, &c);
  if (model.accelerator) {
    // Decode rows and prompt rows come from different kernels: their bits are not the same.
    c.share_decoded = false;
  }
  c.max_sequences = options_.max_sequences;
  c.max_context = options_.max_context;
  c.max_step_rows = options_.step_rows;
  c.total_rows = options_.kv_rows;
  c.tile_rows = tile_rows_;
  c.share_prefixes = options_.share_prefixes;
  apply_policies(selectors_->facts(), *policy_.policy, layers_, c);
  // A token still in flight has no id that the prefix index could know.
  if (options_.steps_in_flight > 0) c.share_decoded = false;
  c.tag = mix(mix(model.content_hash, attn_spec()), kv_spec());
  PARE_ASSIGN_OR_RETURN(store_, KvStore::create(c));
  return ok_status();
}

Status EngineMemory::make_arena(const Model& model) {
  const EngineOptions& o = options_;
  const int64_t vocab = model.config().vocab;
  const PlanBytes plans = step_max_bytes(o.step_rows, o.max_sequences, o.max_context, layers_, *policy_.policy, shape_);
  const size_t blocks = selectors_->max_bytes(o.step_rows, o.max_sequences, tile_rows_);
  const size_t inputs = static_cast<size_t>(4 * o.step_rows + o.logit_rows) * sizeof(int32_t);
  const size_t logits = static_cast<size_t>(o.logit_rows) * vocab * sizeof(float);
  const size_t forward = model.workspace_bytes(*context_, o.step_rows, o.logit_rows, tile_rows_);
  const size_t sampling = ops::sample_workspace_bytes(*context_, o.max_sequences, vocab);
  constexpr size_t kAlignment = 64 * 64;  // a cache line for each block that is alive at once
  ops::StepMemory memory;
  memory.arena_bytes = plans.workspace + static_cast<size_t>(o.step_rows) * sizeof(int32_t) + logits +
                       std::max(forward, sampling) + kAlignment;
  memory.tables_bytes = plans.tables + blocks + inputs + kAlignment;
  memory.max_sequences = o.max_sequences;
  memory.max_context = o.max_context;
  memory.decode_slots = plans.slots;
  memory.n_heads = shape_.n_heads;
  memory.plan_flags = selectors_->plan_flags();
  memory.graphs = o.graphs;
  memory.strict = o.strict;
  memory.timed = o.step_stamps;
  memory.pool_bytes = store_->pool_bytes();
  return ops::allocate_step_memory(*context_, memory, store_->view());
}

Status EngineMemory::make_outputs() {
  // A running branch draws at most once a step; several may draw from one row of logits.
  const size_t n = static_cast<size_t>(options_.max_sequences);
  sample_rows_.resize(n);
  top_view_.resize(kMaxTopLogprobs);
  const size_t ids = round_up<size_t>(n * sizeof(int32_t), 64);
  const size_t top = n * kMaxTopLogprobs * sizeof(ops::TopLogprob), one = round_up<size_t>(2 * ids + top, 64);
  PARE_ASSIGN_OR_RETURN(output_memory_, ops::make_output_memory(*context_, 2 * one));
  for (int parity = 0; parity < 2; ++parity) {
    std::byte* base = output_memory_.get() + parity * one;
    outputs_[parity] = {.ids = reinterpret_cast<int32_t*>(base),
                        .logprobs = reinterpret_cast<float*>(base + ids),
                        .top = reinterpret_cast<ops::TopLogprob*>(base + 2 * ids),
                        .top_cap = static_cast<int32_t>(kMaxTopLogprobs)};
  }
  PARE_ASSIGN_OR_RETURN(last_tokens_memory_, ops::make_device_memory(*context_, ids));
  last_tokens_ = Tensor(last_tokens_memory_.get(), DType::I32, {options_.max_sequences}, context_->device);
  return ok_status();
}

uint64_t EngineMemory::causal_keys(int32_t pos, int32_t rows) const {
  uint64_t keys = 0;
  for (const int32_t cls : layers_.class_of) {
    // Rows before the window's length see all before them, the others the window.
    const int64_t window = layers_.classes[cls].window, begin = pos, end = begin + rows;
    const int64_t growing = std::clamp<int64_t>(window, begin, end);
    keys += static_cast<uint64_t>((growing - begin) * (begin + growing + 1) / 2 + (end - growing) * window);
  }
  return keys * static_cast<uint64_t>(shape_.n_heads);
}

Status EngineMemory::build_plans(std::span<const StepSeq> seqs, StepPlans* plans) {
  PARE_RETURN_IF_ERROR(
      build_step(seqs, layers_, *policy_.policy, shape_, *store_, context_->tables, context_->arena, *plans));
  PrefillRows rows;
  rows.seqs = std::span(plans->classes[0].seqs, plans->n_seqs);
  rows.n_heads = shape_.n_heads;
  rows.tile_rows = tile_rows_;
  if (Status status = selectors_->build(rows, context_->tables, *plans); !status.ok()) {
    store_->abort_step();
    return status;
  }
  return ok_status();
}

std::span<const TokenLogprob> EngineMemory::top_logprobs(int parity, int32_t row, int32_t n) const {
  const ops::SampleOutput& out = outputs_[parity];
  for (int32_t i = 0; i < n; ++i) {
    const ops::TopLogprob& top = out.top[static_cast<size_t>(row) * kMaxTopLogprobs + i];
    top_view_[i] = {top.id, top.logprob};
  }
  return std::span(top_view_).first(n);
}

}  // namespace pare
