#include "text/chat_template.h"

#include <array>
#include <ctime>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_library.h"
#include "text/jinja_parser.h"
#include "text/jinja_text.h"

namespace pare {
namespace {

Status check_utf8(std::string_view name, std::string_view text) {
  const size_t bad = jinja::find_invalid_utf8(text);
  if (bad == std::string_view::npos) return ok_status();
  return invalid_argument(std::string(name) + ": not UTF-8 at byte " + std::to_string(bad));
}

std::string local_time(std::string_view format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  std::array<char, 1024> buffer;
  const std::string terminated(format);
  return std::string(buffer.data(), std::strftime(buffer.data(), buffer.size(), terminated.c_str(), &parts));
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Block body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Expected<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  if (static_cast<int64_t>(source.size()) > kMaxTemplateBytes) {
    return limit_exceeded("chat template: " + std::to_string(source.size()) + " bytes, limit " +
                          std::to_string(kMaxTemplateBytes));
  }
  PARE_RETURN_IF_ERROR(check_utf8("chat template", source));
  auto body = jinja::parse_template(source);
  if (!body.ok()) return body.status().with_context("chat template");
  return ChatTemplate(std::make_unique<Impl>(Impl{std::move(body).value()}));
}

Expected<std::string> ChatTemplate::render(const ChatTemplateInputs& inputs) const {
  jinja::Runtime runtime;
  runtime.now = inputs.strftime_now ? inputs.strftime_now : local_time;
  // What apply_chat_template always passes; `extra` may replace any of it.
  std::vector<std::pair<std::string, jinja::Value>> variables;
  PARE_ASSIGN_OR_RETURN(jinja::Value messages, jinja::parse_json(runtime, "messages", inputs.messages_json));
  variables.emplace_back("messages", std::move(messages));
  variables.emplace_back("tools", jinja::Value::none());
  if (!inputs.tools_json.empty()) {
    PARE_ASSIGN_OR_RETURN(variables.back().second, jinja::parse_json(runtime, "tools", inputs.tools_json));
  }
  variables.emplace_back("documents", jinja::Value::none());
  variables.emplace_back("add_generation_prompt", jinja::Value::boolean(inputs.add_generation_prompt));
  for (const auto& [name, token] :
       {std::pair("bos_token", inputs.bos_token), std::pair("eos_token", inputs.eos_token)}) {
    PARE_RETURN_IF_ERROR(check_utf8(name, token));
    variables.emplace_back(name, jinja::Value::string(&runtime, std::string(token)));
  }
  if (!inputs.extra_json.empty()) {
    PARE_ASSIGN_OR_RETURN(const jinja::Value extra, jinja::parse_json(runtime, "extra variables", inputs.extra_json));
    if (!extra.is(jinja::Kind::kDict)) return invalid_argument("extra variables: not a JSON object");
    for (const auto& [name, value] : extra.dict().entries) variables.emplace_back(name.text(), value);
  }
  auto text = jinja::render(runtime, impl_->body, std::move(variables));
  return text;
}

}  // namespace pare
