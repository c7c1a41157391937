#include "text/utf8.h"

#include <algorithm>

namespace pare {
namespace {

// What a lead byte announces: the length, and the range of the second byte, which is narrower than 80..BF
// where overlong forms, surrogates and values above U+10FFFF would start. Length 0: not a lead byte.
struct Lead {
  uint8_t size, second_min, second_max;
};

constexpr Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Length of the valid prefix of the code point at `at`, and what its lead announces.
size_t valid_bytes(std::string_view text, size_t at, size_t* announced) {
  const auto lead_byte = static_cast<unsigned char>(text[at]);
  const Lead lead = lead_of(lead_byte);
  *announced = lead.size;
  if (lead.size == 0) return 0;
  size_t have = 1;
  while (have < lead.size && at + have < text.size()) {
    const auto byte = static_cast<unsigned char>(text[at + have]);
    const unsigned low = have == 1 ? lead.second_min : 0x80, high = have == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) break;
    ++have;
  }
  return have;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {lead, 1, true};
  size_t announced;
  if (valid_bytes(text, at, &announced) != announced || announced == 0) return {lead, 1, false};
  char32_t value = lead & (0xFFu >> (announced + 1));
  for (size_t i = 1; i < announced; ++i) value = value << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3F);
  return {value, static_cast<uint8_t>(announced), true};
}

void utf8_append(char32_t c, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool utf8_valid(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (!step.valid) return false;
    at += step.size;
  }
  return true;
}

size_t utf8_unfinished_tail(std::string_view text) {
  for (size_t tail = 1; tail <= std::min<size_t>(3, text.size()); ++tail) {
    size_t announced;
    const size_t have = valid_bytes(text, text.size() - tail, &announced);
    if (have == tail && have < announced) return tail;
  }
  return 0;
}

std::string utf8_repair(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.valid) {
      out.append(text.substr(at, step.size));
    } else {
      out += "\xEF\xBF\xBD";
    }
    at += step.size;
  }
  return out;
}

}  // namespace pare
