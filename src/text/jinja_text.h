// Strings as Python sees them: code points, Unicode white space, case, quoting. All inputs are valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "pare/status.h"

namespace pare::jinja {

// Offset of the first byte that is not part of a valid UTF-8 sequence, or npos.
size_t find_invalid_utf8(std::string_view text);

void append_utf8(std::string* out, char32_t code_point);
// The code point at `*offset`, which moves past it.
char32_t next_code_point(std::string_view text, size_t* offset);
// The code point that ends before `*offset`, which moves to its start.
char32_t previous_code_point(std::string_view text, size_t* offset);
int64_t count_code_points(std::string_view text);
// Byte offset of code point `index`, counted from the start; the size where there are fewer.
size_t byte_offset(std::string_view text, int64_t index);

bool is_space(char32_t c);  // str.isspace
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
// Strips any of the code points of `chars`.
std::string_view strip_left(std::string_view text, std::string_view chars);
std::string_view strip_right(std::string_view text, std::string_view chars);

std::string to_lower(std::string_view text);
std::string to_upper(std::string_view text);
std::string to_title(std::string_view text);        // str.title
std::string to_capitalized(std::string_view text);  // str.capitalize
std::string swap_case(std::string_view text);
bool is_lower(std::string_view text);  // str.islower
bool is_upper(std::string_view text);
bool is_title(std::string_view text);
bool is_alphabetic(char32_t c);
bool is_decimal(char32_t c);
bool is_printable(char32_t c);

std::string repeat_text(std::string_view text, uint64_t count);
std::string escape_html(std::string_view text);
std::string quote_python(std::string_view text);  // repr(str)
std::string quoted(std::string_view name);        // 'name', for messages
std::string format_real(double value);            // repr(float)

// int(text, base) and float(text): surrounding white space, underscores between digits. kInvalidArgument if
// the text is no such number, kLimitExceeded if it does not fit.
Expected<int64_t> parse_integer(std::string_view text, int base);
Expected<double> parse_real(std::string_view text);

}  // namespace pare::jinja
