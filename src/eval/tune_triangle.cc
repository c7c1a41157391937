#include "eval/tune_triangle.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "pare/engine.h"

namespace pare {
namespace {

// Natural log-probabilities of the answer's rows, row-major [answer][V].
using LogProbs = std::vector<float>;

void append_log_probs(std::span<const float> logits, LogProbs* out) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - max);
  const double shift = max + std::log(sum);
  for (const float x : logits) out->push_back(static_cast<float>(x - shift));
}

double divergence(const LogProbs& p, const LogProbs& q) {
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(static_cast<double>(p[i])) * (double{p[i]} - q[i]);
  return sum;
}

class Ablation {
 public:
  Ablation(std::shared_ptr<const LoadedModel> model, std::span<const TuneSample> samples, const TuneOptions& options,
           const TuneProgress& progress, int64_t prompts)
      : model_(std::move(model)), samples_(samples), options_(options), progress_(progress), total_(prompts) {}

  Status read_densely() {
    for (const TuneSample& sample : samples_) {
      dense_.emplace_back();
      PARE_RETURN_IF_ERROR(read(sample, "dense", &dense_.back()));
    }
    return ok_status();
  }

  // Mean over the answer rows of all samples of KL(dense || these layers triangle).
  Expected<double> cost(std::span<const int32_t> layers) {
    std::vector<int32_t> sorted(layers.begin(), layers.end());
    std::sort(sorted.begin(), sorted.end());
    double sum = 0.0;
    int64_t rows = 0;
    LogProbs sparse;
    for (size_t i = 0; i < samples_.size(); ++i) {
      // The answer's rows would be decoded: they attend everything, like the rows before them that are last.
      const std::string attn =
          fmt::format("triangle(sink={},window={},last={},layers={})+dense", options_.sink, options_.window,
                      options_.last + samples_[i].answer - 1, fmt::join(sorted, ","));
      sparse.clear();
      PARE_RETURN_IF_ERROR(read(samples_[i], attn, &sparse));
      sum += divergence(dense_[i], sparse);
      rows += samples_[i].answer;
    }
    return sum / static_cast<double>(rows);
  }

 private:
  Status read(const TuneSample& sample, const std::string& attn, LogProbs* out) {
    EngineOptions o;
    o.threads = options_.threads;
    o.max_context = static_cast<int32_t>(sample.tokens.size()) + 1;
    o.max_sequences = 1;
    o.share_prefixes = false;
    o.logit_rows = std::max(1, sample.answer);
    o.attn = attn;
    PARE_ASSIGN_OR_RETURN(const auto engine, Engine::create(model_, o));
    Request request;
    request.tokens = sample.tokens;
    request.max_tokens = 1;
    request.observe_prompt = request.observe_sparse = true;
    request.observe_from = static_cast<int32_t>(sample.tokens.size()) - sample.answer;
    request.on_logits = [&](int32_t, int32_t, std::span<const float> logits) { append_log_probs(logits, out); };
    Status failure;
    const EventSink sink = [&](const TokenEvent& event) {
      if (event.error) failure = *event.error;
    };
    PARE_RETURN_IF_ERROR(engine->submit(std::move(request), sink).status());
    PARE_RETURN_IF_ERROR(engine->run());
    PARE_RETURN_IF_ERROR(failure);
    if (progress_ && !progress_(std::min(++done_, total_), total_)) return cancelled("stopped between prompts");
    return ok_status();
  }

  std::shared_ptr<const LoadedModel> model_;
  std::span<const TuneSample> samples_;
  const TuneOptions& options_;
  const TuneProgress& progress_;
  int64_t done_ = 0, total_;
  std::vector<LogProbs> dense_;
};

// The published pattern, or the one that was tried where that is wider, and 128 rows that lose keys. Not timed.
int32_t shortest_prompt(const TuneOptions& o) { return std::max(8 + 512 + 128, o.sink + o.window + o.last) + 128; }

std::string provenance(const LoadedModel& model, std::span<const TuneSample> samples, const TuneOptions& o) {
  int64_t texts = 0;
  for (const TuneSample& s : samples) texts += s.kind == "text";
  nlohmann::ordered_json json{
      {"method", "forward ablation: KL(dense || one layer triangle) of the answer's rows, mean over prompts"},
      {"model", model.path.filename().string()},
      {"selector", fmt::format("triangle(sink={},window={},last={})", o.sink, o.window, o.last)},
      {"prompt_tokens", o.tokens},
      {"text_prompts", texts},
      {"retrieval_prompts", static_cast<int64_t>(samples.size()) - texts},
      {"answer_tokens", o.answer},
      {"seed", o.seed},
      {"recommended",
       fmt::format("the most layers, {} at most, that together cost at most {} nats", o.count_max, o.kl_max)},
      {"min_tokens", "from 128 rows on that lose keys with sink 8, window 512, last 128; not timed"}};
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

Expected<TriangleTuning> tune_triangle(const std::shared_ptr<const LoadedModel>& model,
                                       std::span<const TuneSample> samples, const TuneOptions& given,
                                       const TuneProgress& progress) {
  TuneOptions options = given;
  const ModelConfig& config = model->model->config();
  std::vector<int32_t> layers, windowed;
  for (int32_t l = 0; l < config.n_layers; ++l) (config.is_sliding(l) ? windowed : layers).push_back(l);
  if (samples.empty()) return invalid_argument("no prompt to rank layers by");
  if (layers.empty()) return unsupported("every layer of the model has a window of its own");
  const auto n = static_cast<int32_t>(layers.size());
  if (options.count_max == 0) options.count_max = std::max(1, config.n_layers / 2);
  options.count_max = std::min(options.count_max, n);
  // Dense, each layer, and the search for how many.
  const int64_t rounds = 2 + n + std::bit_width(static_cast<uint32_t>(options.count_max));
  Ablation ablation(model, samples, options, progress, rounds * static_cast<int64_t>(samples.size()));
  PARE_RETURN_IF_ERROR(ablation.read_densely());

  TriangleTuning tuning;
  for (const int32_t l : layers) {
    PARE_ASSIGN_OR_RETURN(const double kl, ablation.cost({&l, 1}));
    tuning.layer_kl.emplace_back(l, kl);
  }
  // Ties to the later layer: the paper finds that the middle fades with depth.
  std::sort(tuning.layer_kl.begin(), tuning.layer_kl.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second < b.second : a.first > b.first;
  });
  LayerRanking& ranking = tuning.ranking;
  for (const auto& [layer, kl] : tuning.layer_kl) ranking.layers.push_back(layer);
  // All that may be taken, or else by halves. The cost grows with the count, or nearly so: the search may end on a
  // smaller count than the largest that passes.
  int32_t good = 0, bad = options.count_max + 1;
  while (bad - good > 1) {
    const int32_t count = tuning.joint_kl.empty() ? options.count_max : good + (bad - good) / 2;
    PARE_ASSIGN_OR_RETURN(const double kl, ablation.cost(std::span(ranking.layers).first(static_cast<size_t>(count))));
    tuning.joint_kl.emplace_back(count, kl);
    (kl <= options.kl_max ? good : bad) = count;
  }
  ranking.recommended = good;
  ranking.layers.insert(ranking.layers.end(), windowed.begin(), windowed.end());
  for (const char* device : {"cpu-avx2", "cpu-avx512", "cpu-amx", "cuda-sm90"}) {
    ranking.min_tokens.emplace_back(device, shortest_prompt(options));
  }
  ranking.model_hash = model->content_hash;
  ranking.provenance = provenance(*model, samples, options);
  return tuning;
}

}  // namespace pare
