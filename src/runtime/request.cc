#include "pare/request.h"

#include <fmt/format.h>

#include <cmath>

#include "base/limits.h"
#include "text/utf8.h"

namespace pare {
namespace {

// NaN fails every comparison, hence the positive form.
Status in_range(std::string_view field, double value, double low, bool low_open, double high) {
  if ((low_open ? value > low : value >= low) && value <= high) return ok_status();
  return invalid_argument(fmt::format("{} is {}, allowed {}{}, {}]", field, value, low_open ? "(" : "[", low, high));
}

Status validate(const SamplingParams& s, int32_t vocab) {
  PARE_RETURN_IF_ERROR(in_range("temperature", s.temperature, 0, false, 100));
  PARE_RETURN_IF_ERROR(in_range("top_k", s.top_k, 0, false, INT32_MAX));
  PARE_RETURN_IF_ERROR(in_range("top_p", s.top_p, 0, true, 1));
  PARE_RETURN_IF_ERROR(in_range("min_p", s.min_p, 0, false, 1));
  PARE_RETURN_IF_ERROR(in_range("typical_p", s.typical_p, 0, true, 1));
  PARE_RETURN_IF_ERROR(in_range("repetition_penalty", s.repetition_penalty, 0, true, 100));
  PARE_RETURN_IF_ERROR(in_range("frequency_penalty", s.frequency_penalty, -100, false, 100));
  PARE_RETURN_IF_ERROR(in_range("presence_penalty", s.presence_penalty, -100, false, 100));
  PARE_RETURN_IF_ERROR(in_range("logit biases", static_cast<double>(s.logit_bias.size()), 0, false, kMaxLogitBias));
  for (const auto& [id, bias] : s.logit_bias) {
    if (id < 0 || id >= vocab) return invalid_argument(fmt::format("logit bias for token {} of {}", id, vocab));
    PARE_RETURN_IF_ERROR(in_range(fmt::format("logit bias of token {}", id), bias, -1000, false, 1000));
  }
  return ok_status();
}

Status validate_forced(const Request& r, int32_t vocab) {
  if (r.forced.empty()) return ok_status();
  if (r.forced.size() > static_cast<size_t>(r.max_tokens)) {
    return invalid_argument(fmt::format("{} forced tokens, max_tokens is {}", r.forced.size(), r.max_tokens));
  }
  for (size_t i = 0; i < r.forced.size(); ++i) {
    if (r.forced[i] < 0 || r.forced[i] >= vocab) {
      return invalid_argument(fmt::format("forced token {} is {}, the vocabulary has {}", i, r.forced[i], vocab));
    }
  }
  if (r.logprobs >= 0) return invalid_argument("logprobs are of drawn tokens: not with forced ones");
  const SamplingParams& s = r.sampling;
  if (s.repetition_penalty != 1.0f || s.frequency_penalty != 0.0f || s.presence_penalty != 0.0f) {
    return invalid_argument("penalties count drawn tokens: not with forced ones");
  }
  return ok_status();
}

}  // namespace

Status validate(const Request& r, int32_t vocab, int32_t context_max) {
  if (r.tokens.empty()) return invalid_argument("the prompt has no tokens");
  if (r.tokens.size() > static_cast<size_t>(context_max)) {
    return invalid_argument(
        fmt::format("the prompt has {} tokens, the context holds {}", r.tokens.size(), context_max));
  }
  for (size_t i = 0; i < r.tokens.size(); ++i) {
    if (r.tokens[i] < 0 || r.tokens[i] >= vocab) {
      return invalid_argument(fmt::format("prompt token {} is {}, the vocabulary has {}", i, r.tokens[i], vocab));
    }
  }
  PARE_RETURN_IF_ERROR(in_range("max_tokens", r.max_tokens, 1, false, INT32_MAX));
  PARE_RETURN_IF_ERROR(validate_forced(r, vocab));
  PARE_RETURN_IF_ERROR(in_range("samples", r.samples, 1, false, kMaxSamplesPerRequest));
  PARE_RETURN_IF_ERROR(in_range("observe_from", r.observe_from, 0, false, static_cast<double>(r.tokens.size()) - 1));
  PARE_RETURN_IF_ERROR(in_range("logprobs", r.logprobs, -1, false, kMaxTopLogprobs));
  PARE_RETURN_IF_ERROR(in_range("stop strings", static_cast<double>(r.stop.size()), 0, false, kMaxStopStrings));
  for (size_t i = 0; i < r.stop.size(); ++i) {
    PARE_RETURN_IF_ERROR(in_range(fmt::format("bytes of stop string {}", i), static_cast<double>(r.stop[i].size()), 1,
                                  false, kMaxStopBytes));
    // Answers are whole code points; a stop string that begins inside one would cut it.
    if (!utf8_valid(r.stop[i])) return invalid_argument(fmt::format("stop string {} is not UTF-8", i));
  }
  return validate(r.sampling, vocab);
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone: return "none";
    case FinishReason::kStopToken: return "stop_token";
    case FinishReason::kStopString: return "stop_string";
    case FinishReason::kLength: return "length";
    case FinishReason::kCancelled: return "cancelled";
    case FinishReason::kFailed: return "failed";
  }
  return "unknown";
}

}  // namespace pare
