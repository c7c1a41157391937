#include "eval/model_bench.h"

#include <algorithm>

#include "base/rng.h"
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
  o.max_context = std::max(config.prompt + 1, std::max(1, config.depth) + config.generate + 1);
  o.kv_rows = static_cast<int64_t>(o.max_sequences) * (o.max_context + kPageRows);
  o.logit_rows = o.max_sequences;
  o.share_prefixes = false;
  o.attn = config.attn;
  o.kv = config.kv;
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
    PARE_ASSIGN_OR_RETURN(sample.decode_tps, decode());
  }
  return sample;
}

Expected<double> ModelBench::prefill() {
  Request request;
  request.tokens = random_tokens(config_.prompt, 1);
  request.max_tokens = 1;
  request.ignore_eos = true;
  const EngineStats before = engine_->stats();
  PARE_RETURN_IF_ERROR(engine_->submit(std::move(request), {}).status());
  PARE_RETURN_IF_ERROR(engine_->run());
  const EngineStats after = engine_->stats();
  return (after.prefill_rows - before.prefill_rows) / (after.prefill_ms - before.prefill_ms) * 1e3;
}

Expected<double> ModelBench::decode() {
  // Sequences start together: prompts are read in steps of their own, and only steps without prompt rows are timed.
  for (int32_t i = 0; i < config_.parallel; ++i) {
    Request request;
    request.tokens = random_tokens(std::max(1, config_.depth), 2 + static_cast<uint32_t>(i));
    request.max_tokens = config_.generate + 1;
    request.ignore_eos = true;
    PARE_RETURN_IF_ERROR(engine_->submit(std::move(request), {}).status());
  }
  // Steps with prompt rows decode those that are ahead; the rates count pure decode steps only.
  const EngineStats before = engine_->stats();
  uint64_t rows_in_mixed_steps = 0;
  for (;;) {
    const EngineStats last = engine_->stats();
    PARE_ASSIGN_OR_RETURN(const bool more, engine_->step());
    const EngineStats now = engine_->stats();
    if (now.decode_steps == last.decode_steps) rows_in_mixed_steps += now.decode_rows - last.decode_rows;
    if (!more) break;
  }
  const EngineStats after = engine_->stats();
  const double rows = static_cast<double>(after.decode_rows - before.decode_rows - rows_in_mixed_steps);
  return rows / (after.decode_ms - before.decode_ms) * 1e3;
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

BenchFloor ModelBench::floor() const {
  BenchFloor floor;
  const Model& model = *model_->model;
  const ModelConfig& c = model.config();
  floor.decode_bytes_per_step = decode_floor_bytes(c, model.decode_weight_bytes(), config_);
  // A policy that drops rows need not read them: what the steps counted is what had to be read.
  const EngineStats stats = engine_->stats();
  if (engine_->kv_spec() != "dense" && stats.decode_steps > 0) {
    floor.decode_bytes_per_step = static_cast<double>(stats.decode_weight_bytes + stats.decode_kv_bytes) /
                                  static_cast<double>(stats.decode_steps);
  }
  const double hd = static_cast<double>(c.n_heads) * c.head_dim, kd = static_cast<double>(c.n_kv_heads) * c.head_dim;
  floor.prefill_macs_per_token =
      c.n_layers * (static_cast<double>(c.dim) * (2.0 * hd + 2.0 * kd) + 3.0 * c.dim * c.ffn_dim);
  return floor;
}

}  // namespace pare
