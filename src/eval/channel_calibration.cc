#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "eval/tune_leank.h"
#include "plan/step.h"
#include "tensor/tensor.h"

namespace pare {
namespace {

// Sums of magnitudes, in the order of the rows, on the engine's thread: bits that do not depend on threads.
class Magnitudes {
 public:
  explicit Magnitudes(const ModelConfig& c)
      : config_(c),
        q_(static_cast<size_t>(c.n_layers) * c.n_heads * c.head_dim),
        k_(static_cast<size_t>(c.n_layers) * c.n_kv_heads * c.head_dim),
        rows_(c.n_layers) {}

  void add(int32_t layer, const StepPlans& plans, const Tensor& q, const Tensor& k) {
    const ClassStep& where = plans.cls(layer);
    const int64_t q_items = q.row_items(), k_items = k.row_items();
    for (int32_t s = 0; s < plans.n_seqs; ++s) {
      const SeqStep& seq = where.seqs[s];
      for (int32_t i = std::max(0, kCalibrationSinkRows - seq.pos); i < seq.n_q; ++i) {
        const int64_t row = seq.q_row + i;
        add_row(q.as<float>() + row * q_items, q_items, q_.data() + layer * q_items);
        add_row(k.as<float>() + row * k_items, k_items, k_.data() + layer * k_items);
        ++rows_[layer];
      }
    }
    done_ += layer == 0 ? plans.n_rows : 0;
  }

  int64_t done() const { return done_; }

  Expected<ChannelScores> scores() const {
    ChannelScores s;
    s.n_layers = config_.n_layers;
    s.n_kv_heads = config_.n_kv_heads;
    s.head_dim = config_.head_dim;
    s.rows = rows_[0];
    const int32_t group = config_.n_heads / config_.n_kv_heads;
    for (int32_t l = 0; l < s.n_layers; ++l) {
      s.windowed.push_back(config_.is_sliding(l) ? 1 : 0);
      if (rows_[l] == 0) return internal_error(fmt::format("layer {} showed no rows", l));
      const auto n = static_cast<double>(rows_[l]);
      for (int32_t h = 0; h < s.n_kv_heads; ++h) {
        for (int32_t c = 0; c < s.head_dim; ++c) {
          double q = 0.0;
#ifdef PARE_FAULT_EVAL_FIRST_HEAD_OF_GROUP
          const int32_t heads = 1;
#else
          const int32_t heads = group;
#endif
          for (int32_t r = 0; r < heads; ++r) q += q_[index(l, config_.n_heads, h * group + r, c)];
          s.values.push_back(q / (n * group) * (k_[index(l, config_.n_kv_heads, h, c)] / n));
        }
      }
    }
    return s;
  }

 private:
  static void add_row(const float* x, int64_t n, double* sums) {
    for (int64_t i = 0; i < n; ++i) sums[i] += std::abs(static_cast<double>(x[i]));
  }
  size_t index(int32_t layer, int32_t heads, int32_t head, int32_t channel) const {
    return (static_cast<size_t>(layer) * heads + head) * config_.head_dim + channel;
  }

  const ModelConfig& config_;
  std::vector<double> q_, k_;  // [layer][head][channel]
  std::vector<int64_t> rows_;  // [layer]
  int64_t done_ = 0;
};

}  // namespace

Expected<ChannelScores> calibrate_channels(const std::shared_ptr<const LoadedModel>& model,
                                           std::span<const std::vector<TokenId>> prompts, int32_t threads,
                                           const std::function<bool(int64_t done, int64_t total)>& progress) {
  size_t longest = 0;
  int64_t total = 0;
  for (const auto& prompt : prompts) {
    longest = std::max(longest, prompt.size());
    total += static_cast<int64_t>(prompt.size());
  }
  if (longest <= kCalibrationSinkRows) {
    return invalid_argument(fmt::format("the longest prompt has {} tokens; the first {} of each do not count", longest,
                                        kCalibrationSinkRows));
  }
  Magnitudes sums(model->model->config());
  EngineOptions options;
  options.threads = threads;
  options.max_sequences = 1;
  // One row for the token that ends a request.
  options.max_context =
      static_cast<int32_t>(std::min<size_t>(longest + 1, static_cast<size_t>(model->model->config().context_max)));
  options.share_prefixes = false;
  options.logit_rows = 1;
  options.on_attention = [&](int32_t layer, const StepPlans& plans, const Tensor& q, const Tensor& k) {
    sums.add(layer, plans, q, k);
  };
  PARE_ASSIGN_OR_RETURN(const auto engine, Engine::create(model, options));
  for (const std::vector<TokenId>& prompt : prompts) {
    Request request;
    request.tokens = prompt;
    request.max_tokens = 1;
    Status failure;
    PARE_RETURN_IF_ERROR(engine
                             ->submit(std::move(request),
                                      [&](const TokenEvent& event) {
                                        if (event.error) failure = *event.error;
                                      })
                             .status());
    for (bool more = true; more;) {
      PARE_ASSIGN_OR_RETURN(more, engine->step());
      if (progress && !progress(sums.done(), total)) return cancelled("stopped while calibrating");
    }
    PARE_RETURN_IF_ERROR(failure);
  }
  return sums.scores();
}

std::string calibration_text(uint64_t seed, int64_t bytes) {
  constexpr std::string_view kProse[] = {
      "The ferry left before sunrise, and nobody on the quay had thought to count the crates.",
      "A library that lends tools needs more shelves for returns than for loans.",
      "When the river froze, the two halves of the town discovered how much they had argued about the bridge.",
      "She wrote the recipe down from memory, then crossed out the sugar and wrote it again, larger.",
      "The committee agreed that the clock was wrong but could not agree on by how much.",
      "Rain on a tin roof makes every conversation underneath it a little shorter.",
      "Nothing in the ledger explained why the lighthouse had been painted green.",
      "He kept a list of the names of winds, and added to it whenever he moved house.",
      "By noon the market had sold all its pears and most of its gossip.",
      "The engineer drew the valve twice, once as it was and once as it should have been.",
      "They planted the orchard in rows so straight that the fog seemed to follow them.",
      "If the train is late on Thursday, the letters wait until Monday, and so does everyone else.",
  };
  constexpr std::string_view kNames[] = {"amber",  "birch", "cobalt", "delta",  "ember", "fjord",
                                         "garnet", "hazel", "indigo", "jasper", "kelp",  "linden"};
  Philox rng(seed);
  const auto pick = [&](const auto& list) { return list[rng.below(static_cast<uint32_t>(std::size(list)))]; };
  std::string text;
  while (static_cast<int64_t>(text.size()) < bytes) {
    if (rng.below(2) == 0) {
      text += fmt::format("{} ", pick(kProse));
      if (rng.below(4) == 0) text += "\n\n";
      continue;
    }
    std::string name(pick(kNames));
    name += fmt::format("-{}", pick(kNames));
    const uint32_t a = rng(), b = rng();
    if (rng.below(2) == 0) {
      text += fmt::format("The key of {} is {:08x}-{:04x}-{:04x}.\n", name, a, b >> 16, b & 0xFFFF);
    } else {
      text += fmt::format("The special number of {} is {}.\n", name, 1'000'000 + a % 9'000'000);
    }
  }
  return text;
}

}  // namespace pare
