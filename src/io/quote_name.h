// Names from files inside messages: bounded, and without bytes that a terminal would obey.
#pragma once

#include <string>
#include <string_view>

namespace pare {

// 'name' with control characters, quotes and bytes above 0x7E as \xNN, cut after 96 bytes.
inline std::string quote_name(std::string_view name) {
  constexpr size_t kShown = 96;
  constexpr char kHex[] = "0123456789abcdef";
  std::string text = "'";
  for (const char c : name.substr(0, kShown)) {
    if (c >= 0x20 && c < 0x7F && c != '\'' && c != '\\') {
      text += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      text += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return text + (name.size() > kShown ? "...'" : "'");
}

}  // namespace pare
