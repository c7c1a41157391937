// UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pare {

struct Utf8Step {
  char32_t code_point;  // the raw byte when not valid
  uint8_t size;         // bytes consumed: 1 when not valid
  bool valid;
};

// The code point that starts at text[at]; at < text.size().
Utf8Step utf8_step(std::string_view text, size_t at);

// code_point <= U+10FFFF.
void utf8_append(char32_t code_point, std::string* out);

bool utf8_valid(std::string_view text);

// How many bytes at the end of `text` are an unfinished but so far valid code point: 0 to 3.
size_t utf8_unfinished_tail(std::string_view text);

// `text` with every byte outside a code point replaced by U+FFFD.
std::string utf8_repair(std::string_view text);

}  // namespace pare
