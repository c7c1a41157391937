// A chat template and a conversation, both hostile: "template \0 messages \0 extra variables".
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "text/chat_template.h"

namespace {

constexpr std::string_view kMessages =
    R"([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": null,
  "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, "é"]}}}]}])";

std::string_view next_part(std::string_view* input, std::string_view fallback) {
  const size_t end = input->find('\0');
  const std::string_view part = input->substr(0, end);
  *input = end == std::string_view::npos ? std::string_view() : input->substr(end + 1);
  return part.empty() ? fallback : part;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view source = next_part(&input, "");
  auto parsed = pare::ChatTemplate::parse(source);
  if (!parsed.ok()) return 0;
  const std::string_view messages = next_part(&input, kMessages);
  const std::string_view extra = next_part(&input, "");
  const auto text = parsed->render({.messages_json = messages,
                                    .tools_json = R"([{"type": "function", "function": {"name": "f"}}])",
                                    .extra_json = extra,
                                    .bos_token = "<s>",
                                    .eos_token = "</s>",
                                    .add_generation_prompt = true,
                                    .strftime_now = [](std::string_view format) { return std::string(format); }});
  if (text.ok() && static_cast<int64_t>(text->size()) > pare::kMaxTemplateOutputBytes) __builtin_trap();
  return 0;
}
