#include "eval/prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace pare {
namespace {

Expected<std::string> render_turns(const LoadedModel& model, const CaseText& text, size_t turns, bool plain) {
  if (plain) {
    std::string out;
    for (size_t i = 0; i < turns; ++i) {
      out += fmt::format("{}Question: {}\nAnswer:", i > 0 ? "\n\n" : "", text.turns[i]);
      if (i + 1 < turns) out += " " + text.answers[i];
    }
    return out;
  }
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (size_t i = 0; i < turns; ++i) {
    messages.push_back({{"role", "user"}, {"content", text.turns[i]}});
    if (i + 1 < turns) messages.push_back({{"role", "assistant"}, {"content", text.answers[i]}});
  }
  return render_chat(model, messages.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace

Expected<PromptIds> render_case(const LoadedModel& model, const CaseText& text, bool plain) {
  plain = plain || model.chat_template.empty();
  if (text.turns.empty() || text.answers.size() + 1 != text.turns.size()) {
    return internal_error(fmt::format("{} turns with {} answers", text.turns.size(), text.answers.size()));
  }
  PARE_ASSIGN_OR_RETURN(std::string whole, render_turns(model, text, text.turns.size(), plain));
  if (!text.answer_prefix.empty()) whole += (plain ? " " : "") + text.answer_prefix;
  EncodeOptions options;
  options.add_special = plain;  // a template writes the special tokens itself
  PromptIds ids;
  if (text.turns.size() == 1) {
    PARE_ASSIGN_OR_RETURN(ids.prompt, model.tokenizer->encode(whole, options));
    return ids;
  }
  PARE_ASSIGN_OR_RETURN(const std::string first, render_turns(model, text, 1, plain));
  if (!whole.starts_with(first)) {
    return unsupported("the chat template writes the first turn differently once there is a second");
  }
  PARE_ASSIGN_OR_RETURN(ids.prompt, model.tokenizer->encode(first, options));
  options.add_special = false;
  PARE_ASSIGN_OR_RETURN(ids.told, model.tokenizer->encode(std::string_view(whole).substr(first.size()), options));
  return ids;
}

Expected<int64_t> fit_units(int64_t units_min, int64_t length,
                            const std::function<Expected<int64_t>(int64_t units)>& tokens) {
  constexpr int kTriesMax = 48;
  int64_t fits = units_min, too_many = INT64_MAX;
  PARE_ASSIGN_OR_RETURN(int64_t size, tokens(fits));
  if (size > length) {
    return invalid_argument(fmt::format("the shortest case has {} tokens, {} were asked for", size, length));
  }
  PARE_ASSIGN_OR_RETURN(const int64_t more, tokens(fits + 8));
  const double per_unit = std::max(0.125, static_cast<double>(more - size) / 8.0);
  for (int i = 0; i < kTriesMax && too_many - fits > 1; ++i) {
    const double room = static_cast<double>(length - size);
    if (too_many != INT64_MAX && room < 1.5 * per_unit) break;
    int64_t guess = fits + std::max<int64_t>(1, static_cast<int64_t>(room / per_unit));
    if (guess >= too_many) guess = fits + (too_many - fits) / 2;
    PARE_ASSIGN_OR_RETURN(const int64_t at_guess, tokens(guess));
    if (at_guess <= length) {
      fits = guess;
      size = at_guess;
    } else {
      too_many = guess;
    }
  }
  return fits;
}

Expected<FittedCase> fit_case(const LoadedModel& model, const TaskFamily& family, const TaskParams& params,
                              int32_t length, bool plain) {
  PARE_RETURN_IF_ERROR(validate(params));
  const auto tokens = [&](int64_t units) -> Expected<int64_t> {
    PARE_ASSIGN_OR_RETURN(const PromptIds ids, render_case(model, family.make(params, units), plain));
    return ids.size();
  };
  FittedCase c;
  PARE_ASSIGN_OR_RETURN(c.units, fit_units(family.units_min, length, tokens));
  c.text = family.make(params, c.units);
  PARE_ASSIGN_OR_RETURN(c.ids, render_case(model, c.text, plain));
  return c;
}

}  // namespace pare
