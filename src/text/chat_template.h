// Chat templates: a bounded subset of Jinja, equal to what transformers' apply_chat_template renders.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "pare/status.h"

namespace pare {

struct ChatTemplateInputs {
  // JSON text. messages: array of {"role", "content", "tool_calls"?, ...}; tools: array or empty string for none;
  // extra: object whose members become further template variables, or empty.
  std::string_view messages_json, tools_json, extra_json;
  std::string_view bos_token, eos_token;
  bool add_generation_prompt = true;
  // strftime_now(format) of the templates; tests inject a clock. Null: the machine's local time.
  std::function<std::string(std::string_view format)> strftime_now;
};

// A parsed template; immutable, any thread.
class ChatTemplate {
 public:
  // Errors give line and column. Bounds: kMaxTemplateBytes, kMaxTemplateDepth.
  static Expected<ChatTemplate> parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // Bounds: kMaxTemplateSteps, kMaxTemplateOutputBytes. raise_exception(m) is kInvalidArgument with m.
  Expected<std::string> render(const ChatTemplateInputs& inputs) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pare
