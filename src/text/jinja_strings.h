// The string operations that filters and methods share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace pare::jinja {

// An argument that must be an integer.
Expected<int64_t> to_index(const Value& value);
// `chars`: null or none for white space.
Expected<Value> strip_text(Runtime& rt, const Value& text, const Value* chars, bool left, bool right);
// At most `count` replacements, all where it is negative.
Expected<std::string> replace_text(Runtime& rt, std::string_view text, std::string_view from, std::string_view to,
                                   int64_t count);
enum class Padding { kLeft, kRight, kBoth };
// `fill` is one code point; kLeft puts it on the left.
Expected<std::string> pad_text(Runtime& rt, std::string_view text, int64_t width, std::string_view fill,
                               Padding padding);
// str.splitlines.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace pare::jinja
