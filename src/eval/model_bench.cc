#include "eval/model_bench.h"

#include <algorithm>
#include <chrono>

#include "base/checked.h"
#include "base/rng.h"
#include "eval/decode_timing.h"
#include "plan/kv_layout.h"

namespace pare {

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const size_t half = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + half, values.end());
  if (values.size() % 2 == 1) return values[half];
  return (values[half] + *std::max_element(values.begin(), values.begin() + half)) / 2.0;
}

Expected<std::unique_ptr<ModelBench>> ModelBench::create(std::shared_ptr<const LoadedModel> model,
                                                         const BenchConfig& config) {
  std::unique_ptr<ModelBench> bench(new ModelBench());
  EngineOptions o;
  o.threads = config.threads;
  o.max_sequences = std::max(1, config.parallel);
  const int32_t decode_context = std::max(1, config.depth) + config.generate + 1 + lead(*model, config);
  o.max_context = std::min(model->model->config().context_max, std::max(config.prompt + 1, decode_context));
  o.kv_rows = static_cast<int64_t>(o.max_sequences) * (o.max_context + kPageRows);
  o.logit_rows = o.max_sequences;
  o.share_prefixes = false;
  o.attn = config.attn;
  o.kv = config.kv;
  o.strict = config.strict;
  o.step_stamps = config.step_stamps;
  PARE_ASSIGN_OR_RETURN(bench->engine_, Engine::create(model, o));
  bench->model_ = std::move(model);
  bench->config_ = config;
  return bench;
}

std::vector<int32_t> ModelBench::random_tokens(int32_t n, uint32_t stream) const {
  Philox random(0x70617265, stream);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint32_t>(model_->model->config().vocab)));
  return ids;
}

Expected<BenchSample> ModelBench::run() {
  BenchSample sample;
  if (config_.prompt > 0) {
    PARE_ASSIGN_OR_RETURN(sample.prefill_tps, prefill());
  }
  if (config_.generate > 0) {
    PARE_ASSIGN_OR_RETURN(sample.decode_tps, decode(&sample.steps));
  }
  return sample;
}

int32_t ModelBench::lead(const LoadedModel& model, const BenchConfig& config) {
  if (config.parallel <= 1) return 0;
  // Rows of prompts that a step takes at least; half of the engine's default, for the other half may be decode rows.
  const int64_t prompt_rows = model.accelerator ? 2048 : 256;
  const int64_t steps = ceil_div(int64_t{config.parallel} * std::max(1, config.depth), prompt_rows) + 1;
  return static_cast<int32_t>(std::min<int64_t>(steps, model.model->config().context_max));
}

Expected<double> ModelBench::prefill() {
  Request request;
  request.tokens = random_tokens(config_.prompt, 1);
  request.max_tokens = 1;
  request.ignore_eos = true;
  const auto begin = std::chrono::steady_clock::now();
  PARE_RETURN_IF_ERROR(engine_->submit(std::move(request), {}).status());
  PARE_RETURN_IF_ERROR(engine_->run());
  return config_.prompt / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Expected<double> ModelBench::decode(StepTimes* steps) {
  // Sequences whose prompts are read first decode while the others' are read. All go on until `generate` steps were
  // timed with every sequence among them.
  const int32_t ahead = lead(*model_, config_);
  DecodeTiming timing(config_.parallel);
  std::vector<RequestId> ids;
  for (int32_t i = 0; i < config_.parallel; ++i) {
    Request request;
    request.tokens = random_tokens(std::max(1, config_.depth), 2 + static_cast<uint32_t>(i));
    request.max_tokens = config_.generate + 1 + ahead;
    request.ignore_eos = true;
    PARE_ASSIGN_OR_RETURN(const RequestId id, engine_->submit(std::move(request), [&timing, i](const TokenEvent& e) {
      if (e.token >= 0) timing.token(i);
    }));
    ids.push_back(id);
  }
  double resident_bytes = 0.0;
  while (timing.tokens() < int64_t{config_.generate} * config_.parallel) {
    if (timing.steps() == 0) engine_->take_step_stamps();  // prompts, the step that starts the clock, earlier runs
    const int64_t counted = timing.steps();
    PARE_ASSIGN_OR_RETURN(const bool more, engine_->step());
    timing.step_ended(std::chrono::steady_clock::now());
    if (timing.steps() > counted) resident_bytes += static_cast<double>(engine_->stats().kv_bytes_used);
    if (!more) break;
  }
  append_times(engine_->take_step_stamps(), steps);
  for (const RequestId id : ids) engine_->cancel(id);
  PARE_RETURN_IF_ERROR(engine_->run());
  resident_kv_bytes_ = timing.steps() > 0 ? resident_bytes / static_cast<double>(timing.steps()) : 0.0;
  return timing.tokens_per_second();
}

double decode_floor_bytes(const ModelConfig& c, uint64_t weight_bytes, const BenchConfig& config) {
  const int64_t depth = std::max(1, config.depth);  // a sequence has at least one token
  int64_t rows = 0;                                 // that one sequence reads, over all steps and layers
  for (int64_t step = 1; step <= config.generate; ++step) {
    for (int32_t l = 0; l < c.n_layers; ++l) {
      rows += c.is_sliding(l) ? std::min<int64_t>(depth + step, c.window) : depth + step;
    }
  }
  constexpr int64_t kRowItemBytes = 2;  // fp16
  const double row_bytes = static_cast<double>(2 * kRowItemBytes * c.n_kv_heads * c.head_dim);
  const double kv_bytes = static_cast<double>(rows) * row_bytes / std::max(1, config.generate);
  return static_cast<double>(weight_bytes) + config.parallel * kv_bytes;
}

double causal_attention_flop(const ModelConfig& c, int32_t tokens) {
  const double all = static_cast<double>(tokens);
  double pairs = 0.0;  // (row, key), over all layers
  for (int32_t l = 0; l < c.n_layers; ++l) {
    const double window = c.is_sliding(l) ? std::min(all, static_cast<double>(c.window)) : all;
    pairs += window * (window + 1.0) / 2.0 + (all - window) * window;
  }
  return 4.0 * pairs * c.n_heads * c.head_dim;
}

BenchFloor ModelBench::floor() const {
  BenchFloor floor;
  const Model& model = *model_->model;
  const ModelConfig& c = model.config();
  floor.decode_bytes_per_step = decode_floor_bytes(c, model.decode_weight_bytes(), config_);
  // A policy that drops rows need not read them: what the steps counted is what had to be read. Accelerators don't
  // count: there it is what was kept.
  const EngineStats stats = engine_->stats();
  if (engine_->kv_spec() != "dense" && stats.decode_steps > 0) {
    floor.decode_bytes_per_step = model_->accelerator
                                      ? static_cast<double>(model.decode_weight_bytes()) + resident_kv_bytes_
                                      : static_cast<double>(stats.decode_weight_bytes + stats.decode_kv_bytes) /
                                            static_cast<double>(stats.decode_steps);
  }
  if (engine_->attn_spec() == "dense") floor.prefill_attention_flop = causal_attention_flop(c, config_.prompt);
  const double hd = static_cast<double>(c.n_heads) * c.head_dim, kd = static_cast<double>(c.n_kv_heads) * c.head_dim;
  floor.prefill_macs_per_token =
      c.n_layers * (static_cast<double>(c.dim) * (2.0 * hd + 2.0 * kd) + 3.0 * c.dim * c.ffn_dim);
  return floor;
}

}  // namespace pare
