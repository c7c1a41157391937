// Unicode normalization forms C and D, and the few character classes of BERT's text cleaning. Tables:
// Unicode 14.
#pragma once

#include <string>
#include <string_view>

namespace pare {

// Canonical decomposition, in canonical order.
std::u32string to_nfd(std::u32string_view text);

// Sets *out to the NFC form of UTF-8 text and returns true; returns false, with *out untouched, when text is
// NFC already. Bytes outside a code point stay as they are.
bool to_nfc(std::string_view text, std::string* out);

bool is_nonspacing_mark(char32_t c);  // Mn
bool is_punctuation(char32_t c);      // P*
bool is_control(char32_t c);          // Cc, Cf, Co
bool is_white_space(char32_t c);      // property White_Space

// Appends the lower-case form (full mapping: U+0130 gives two code points).
void append_lower_case(char32_t c, std::u32string* out);

}  // namespace pare
