#include "cli/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/console.h"
#include "eval/bandwidth.h"
#include "plan/kv_layout.h"

namespace pare::cli {
namespace {

struct DecodeCost {
  double ms_per_step = 0, bytes_per_step = 0, bandwidth_share = 0;
  uint64_t steps = 0;
};

// Of where the model runs; 0 when the card does not tell.
double read_bandwidth(const Engine& engine) {
  const auto& card = engine.model().accelerator;
  if (!card) return read_bandwidth_bytes_per_s(engine.threads());
  const auto bytes_per_s = card->read_bandwidth();
  return bytes_per_s.ok() ? *bytes_per_s : 0.0;
}

DecodeCost decode_cost(const GenerationResult& r, const Engine& engine) {
  DecodeCost cost;
  cost.steps = r.after.decode_steps - r.before.decode_steps;
  if (cost.steps == 0) return cost;
  cost.ms_per_step = (r.after.decode_ms - r.before.decode_ms) / cost.steps;
  cost.bytes_per_step = static_cast<double>(r.after.decode_weight_bytes + r.after.decode_kv_bytes -
                                            r.before.decode_weight_bytes - r.before.decode_kv_bytes) /
                        cost.steps;
  const double peak = read_bandwidth(engine);
  if (cost.ms_per_step > 0 && peak > 0) cost.bandwidth_share = cost.bytes_per_step / (cost.ms_per_step * 1e-3) / peak;
  return cost;
}

// " (41.3 % of dense)", where policies left some out.
std::string share_of_causal(const GenerationResult& r) {
  const uint64_t pairs = r.after.keys_visited - r.before.keys_visited;
  const uint64_t causal = r.after.keys_causal - r.before.keys_causal;
  if (pairs >= causal) return "";
  return fmt::format(" ({:.1f} % of dense)", 100.0 * static_cast<double>(pairs) / static_cast<double>(causal));
}

double inter_token_ms(const RequestStats& s, size_t samples) {
  const double gaps = static_cast<double>(s.generated_tokens) / static_cast<double>(samples) - 1.0;
  return gaps > 0 ? s.decode_ms / gaps : 0.0;
}

}  // namespace

Expected<std::vector<int32_t>> encode_chat(const LoadedModel& model, const nlohmann::ordered_json& messages) {
  const std::string json = messages.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  PARE_ASSIGN_OR_RETURN(const std::string text, render_chat(model, json));
  EncodeOptions options;
  options.add_special = false;
  return model.tokenizer->encode(text, options);
}

Expected<std::unique_ptr<Engine>> make_engine(std::shared_ptr<const LoadedModel> model, const ModelOptions& options,
                                              const Request& request) {
  EngineOptions o;
  o.threads = options.threads;
  o.strict = options.strict;
  o.attn = options.attn;
  o.kv = options.kv;
  o.max_context = options.context > 0 ? options.context : model->model->config().context_max;
  const int64_t prompt = static_cast<int64_t>(request.tokens.size());
  const int64_t answer = std::clamp<int64_t>(request.max_tokens, 0, std::max<int64_t>(0, o.max_context - prompt));
  const int64_t samples = std::max(1, request.samples);
  // Whole pages: the prompt once, and for each answer its own tail plus a page that it may share with the prompt.
  o.kv_rows = std::max<int64_t>(kPageRows, prompt + samples * (answer + 2 * kPageRows));
  o.max_sequences = static_cast<int32_t>(std::min<int64_t>(samples, 64));
  return Engine::create(std::move(model), o);
}

Expected<GenerationResult> generate(Engine& engine, const GenerationInput& input) {
  GenerationResult result;
  result.samples.resize(std::max(1, input.request.samples));
  result.before = engine.stats();
  Status failure;
  const EventSink sink = [&](const TokenEvent& event) {
    GeneratedSample& sample = result.samples[event.branch];
    if (event.token >= 0) {
      sample.tokens.push_back({event.token, event.logprob, {event.top.begin(), event.top.end()}});
    }
    sample.text += event.text;
    if (input.on_text && !event.text.empty()) input.on_text(event.branch, event.text);
    if (event.finish != FinishReason::kNone) sample.finish = event.finish;
    if (event.error) failure = *event.error;
  };
  PARE_ASSIGN_OR_RETURN(const RequestId id, engine.submit(input.request, sink));
  Progress progress;
  for (;;) {
    const uint64_t rows = engine.stats().prefill_rows - result.before.prefill_rows;
    if (rows > 0 && rows < input.request.tokens.size()) {
      progress.update("reading the prompt", static_cast<int64_t>(rows),
                      static_cast<int64_t>(input.request.tokens.size()), "tokens");
    } else {
      progress.finish();
    }
    if (interrupted()) engine.cancel(id);
    PARE_ASSIGN_OR_RETURN(const bool more, engine.step());
    if (!more) break;
  }
  PARE_RETURN_IF_ERROR(failure);
  PARE_ASSIGN_OR_RETURN(result.stats, engine.request_stats(id));
  result.after = engine.stats();
  return result;
}

std::string statistics_line(const GenerationResult& r, const Engine& engine) {
  const RequestStats& s = r.stats;
  const DecodeCost cost = decode_cost(r, engine);
  std::string line = fmt::format("{} prompt tokens", s.prompt_tokens);
  if (s.cached_tokens > 0) line += fmt::format(" ({} cached)", s.cached_tokens);
  line += fmt::format(", {} generated | TTFT {:.0f} ms ({:.0f} tokens/s)", s.generated_tokens, s.ttft_ms,
                      s.ttft_ms > 0 ? (s.prompt_tokens - s.cached_tokens) / s.ttft_ms * 1e3 : 0.0);
  const double itl = inter_token_ms(s, r.samples.size());
  if (itl > 0) line += fmt::format(" | ITL {:.1f} ms ({:.1f} tokens/s)", itl, 1e3 / itl);
  if (cost.steps > 0) {
    line += fmt::format(" | {} read per step, {:.0f} % of the read bandwidth",
                        format_bytes(static_cast<int64_t>(cost.bytes_per_step)), cost.bandwidth_share * 100.0);
  }
  line += fmt::format(" | KV {} in {} pages", format_bytes(r.after.kv_bytes_used_peak), r.after.kv_pages_used_peak);
  if (r.after.kv_pages_moved > 0) line += fmt::format(" ({} pruned or quantized)", r.after.kv_pages_moved);
  if (s.whole_short) line += " (none pruned or quantized: fewer tokens than the policy's min_tokens)";
  if (r.after.kv_pages_freed > 0) line += fmt::format(" ({} freed)", r.after.kv_pages_freed);
  // A card does not count the pairs that it visits.
  if (!engine.model().accelerator) {
    line += fmt::format(", {} query-key pairs{}", r.after.keys_visited - r.before.keys_visited, share_of_causal(r));
  }
  if (s.dense_short) line += ", read densely: shorter than the selector's min_tokens";
  if (s.dense_observed) line += ", read densely: log-probabilities of the prompt were wanted";
  if (s.preemptions > 0) line += fmt::format(", {} pre-emptions", s.preemptions);
  return line;
}

nlohmann::ordered_json to_json(const GenerationResult& r, const Request& request, const Engine& engine) {
  using Json = nlohmann::ordered_json;
  const auto sample_json = [&](const GeneratedSample& sample) {
    Json tokens = Json::array();
    for (const GeneratedToken& t : sample.tokens) {
      Json token{{"id", t.id}};
      if (request.logprobs >= 0) {
        token["logprob"] = t.logprob;
        Json top = Json::array();
        for (const TokenLogprob& entry : t.top) top.push_back(Json::array({entry.id, entry.logprob}));
        token["top"] = std::move(top);
      }
      tokens.push_back(std::move(token));
    }
    return Json{{"text", sample.text}, {"finish", finish_reason_name(sample.finish)}, {"tokens", std::move(tokens)}};
  };
  Json object = sample_json(r.samples.front());
  object["prompt_ids"] = request.tokens;
  if (r.samples.size() > 1) {
    Json samples = Json::array();
    for (const GeneratedSample& sample : r.samples) samples.push_back(sample_json(sample));
    object["samples"] = std::move(samples);
  }
  const RequestStats& s = r.stats;
  const DecodeCost cost = decode_cost(r, engine);
  object["stats"] = {{"prompt_tokens", s.prompt_tokens},
                     {"cached_tokens", s.cached_tokens},
                     {"generated_tokens", s.generated_tokens},
                     {"preemptions", s.preemptions},
                     {"ttft_ms", s.ttft_ms},
                     {"itl_ms", inter_token_ms(s, r.samples.size())},
                     {"decode_bytes_per_step", cost.bytes_per_step},
                     {"decode_bandwidth_share", cost.bandwidth_share},
                     {"query_key_pairs",
                      engine.model().accelerator ? Json(nullptr) : Json(r.after.keys_visited - r.before.keys_visited)},
                     {"query_key_pairs_dense", r.after.keys_causal - r.before.keys_causal},
                     {"dense_short", s.dense_short},
                     {"dense_observed", s.dense_observed},
                     {"whole_short", s.whole_short},
                     {"kv_bytes_used_peak", r.after.kv_bytes_used_peak},
                     {"kv_bytes_per_token", r.after.kv_bytes_per_token},
                     {"kv_pages_used_peak", r.after.kv_pages_used_peak},
                     {"kv_pages_cached", r.after.kv_pages_cached},
                     {"kv_pages_freed", r.after.kv_pages_freed},
                     {"kv_pages_moved", r.after.kv_pages_moved},
                     {"kv_bytes_allocated",
                      {{"full", r.after.kv_bytes_full},
                       {"mid_k", r.after.kv_bytes_mid_k},
                       {"mid_v", r.after.kv_bytes_mid_v},
                       {"mid_scales", r.after.kv_bytes_mid_scales}}},
                     {"weight_bytes", r.after.weight_bytes},
                     {"threads", engine.threads()},
                     {"attn", engine.attn_spec()},
                     {"kv", engine.kv_spec()}};
  return object;
}

}  // namespace pare::cli
