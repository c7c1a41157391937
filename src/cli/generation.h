// Running one request to its end, shared by `run` and `chat`: results, statistics, their JSON.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/command.h"

namespace pare::cli {

struct GenerationInput {
  Request request;
  std::function<void(int32_t branch, std::string_view text)> on_text;  // as it streams; may be empty
};

struct GeneratedToken {
  int32_t id;
  float logprob;
  std::vector<TokenLogprob> top;
};
struct GeneratedSample {
  std::string text;
  std::vector<GeneratedToken> tokens;
  FinishReason finish = FinishReason::kNone;
};
struct GenerationResult {
  std::vector<GeneratedSample> samples;
  RequestStats stats;
  EngineStats before, after;  // the engine around this request
};

// The model's template over `messages`, tokenized without adding specials that the template wrote itself.
Expected<std::vector<int32_t>> encode_chat(const LoadedModel& model, const nlohmann::ordered_json& messages);

// An engine sized for this request: a pool for its prompt and answers, the model's context otherwise.
Expected<std::unique_ptr<Engine>> make_engine(std::shared_ptr<const LoadedModel> model, const ModelOptions& options,
                                              const Request& request);

// Runs until every sample has ended, or until Ctrl-C, which cancels the request and keeps what came.
Expected<GenerationResult> generate(Engine& engine, const GenerationInput& input);

std::string statistics_line(const GenerationResult& result, const Engine& engine);
nlohmann::ordered_json to_json(const GenerationResult& result, const Request& request, const Engine& engine);

}  // namespace pare::cli
