// Chat templates from outside: parse and render over a fixed conversation. The limits of base/limits.h bound every run.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto chat = pare::ChatTemplate::parse({reinterpret_cast<const char*>(data), size});
  if (!chat.ok()) return 0;
  pare::ChatTemplateInputs inputs;
  inputs.messages_json =
      R"([{"role":"system","content":"s"},{"role":"user","content":"q \u00e9"},{"role":"assistant","content":""}])";
  inputs.tools_json = R"([{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])";
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  inputs.strftime_now = [](std::string_view) { return std::string("26 Jul 2024"); };
  static_cast<void>(chat->render(inputs));
  return 0;
}
