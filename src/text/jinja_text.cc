#include "text/jinja_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>

#include "base/checked.h"
#include "text/jinja_unicode_tables.h"

namespace pare::jinja {
namespace {

constexpr char32_t kCapitalSigma = 0x3a3, kFinalSigma = 0x3c2, kSmallSigma = 0x3c3;
constexpr char32_t kCapitalIWithDot = 0x130;

template <typename Run, size_t n>
const Run* find_run(const Run (&runs)[n], char32_t c) {
  const Run* run = std::upper_bound(std::begin(runs), std::end(runs), c,
                                    [](char32_t wanted, const Run& r) { return wanted < r.first; });
  if (run == std::begin(runs)) return nullptr;
  --run;
  return c <= run->last && (c - run->first) % run->stride == 0 ? run : nullptr;
}

template <size_t n>
const CaseSpecial* find_special(const CaseSpecial (&table)[n], char32_t c) {
  const CaseSpecial* row = std::lower_bound(std::begin(table), std::end(table), c,
                                            [](const CaseSpecial& r, char32_t wanted) { return r.from < wanted; });
  return row != std::end(table) && row->from == c ? row : nullptr;
}

void append_special(std::string* out, const CaseSpecial& row) {
  for (uint32_t c : row.to) {
    if (c != 0) append_utf8(out, c);
  }
}

bool is_cased(char32_t c) { return find_run(kLowercase, c) || find_run(kUppercase, c) || find_run(kTitlecase, c); }

bool is_case_ignorable(char32_t c) { return find_run(kCaseIgnorable, c) != nullptr; }

// A capital sigma at `offset` becomes the final form after a cased letter and before none.
bool is_final_sigma(std::string_view text, size_t offset) {
  size_t before = offset;
  bool after_cased = false;
  while (before > 0) {
    const char32_t c = previous_code_point(text, &before);
    if (is_case_ignorable(c)) continue;
    after_cased = is_cased(c);
    break;
  }
  if (!after_cased) return false;
  next_code_point(text, &offset);
  while (offset < text.size()) {
    const char32_t c = next_code_point(text, &offset);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

void append_lower(std::string* out, std::string_view text, size_t offset, char32_t c) {
  if (c == kCapitalSigma) return append_utf8(out, is_final_sigma(text, offset) ? kFinalSigma : kSmallSigma);
  if (c == kCapitalIWithDot) {
    out->append("i\u0307");
    return;
  }
  const CaseRun* run = find_run(kToLower, c);
  append_utf8(out, run ? c + static_cast<uint32_t>(run->delta) : c);
}

void append_upper(std::string* out, char32_t c) {
  if (const CaseSpecial* row = find_special(kUpperSpecial, c)) return append_special(out, *row);
  const CaseRun* run = find_run(kToUpper, c);
  append_utf8(out, run ? c + static_cast<uint32_t>(run->delta) : c);
}

void append_title(std::string* out, char32_t c) {
  if (const CaseSpecial* row = find_special(kTitleSpecial, c)) return append_special(out, *row);
  append_upper(out, c);
}

bool contains(std::string_view set, char32_t wanted) {
  for (size_t i = 0; i < set.size();) {
    if (next_code_point(set, &i) == wanted) return true;
  }
  return false;
}

// Digits with single underscores between them, as Python allows in numbers; false where one is out of place.
bool drop_underscores(std::string_view text, std::string* digits) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits->push_back(text[i]);
      continue;
    }
    const auto is_digit = [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    };
    if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) return false;
  }
  return true;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
    const unsigned char lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || i + length > text.size()) return i;
    for (size_t k = 1; k < length; ++k) {
      if ((byte(i + k) & 0xc0) != 0x80) return i;
    }
    const unsigned char second = byte(i + 1);
    const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
    const bool surrogate = lead == 0xed && second >= 0xa0;
    const bool too_large = lead == 0xf4 && second >= 0x90;
    if (overlong || surrogate || too_large) return i;
    i += length;
  }
  return std::string_view::npos;
}

void append_utf8(std::string* out, char32_t c) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xc0 | (c >> 6)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3f)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xe0 | (c >> 12)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3f)));
  } else {
    out->push_back(static_cast<char>(0xf0 | (c >> 18)));
    out->push_back(static_cast<char>(0x80 | ((c >> 12) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3f)));
  }
}

char32_t next_code_point(std::string_view text, size_t* offset) {
  const auto byte = [&](size_t k) { return static_cast<char32_t>(static_cast<unsigned char>(text[*offset + k])); };
  const char32_t lead = byte(0);
  char32_t c = lead;
  size_t length = 1;
  if (lead >= 0xf0) {
    length = 4;
    c = (lead & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
  } else if (lead >= 0xe0) {
    length = 3;
    c = (lead & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
  } else if (lead >= 0xc0) {
    length = 2;
    c = (lead & 0x1f) << 6 | (byte(1) & 0x3f);
  }
  *offset += length;
  return c;
}

char32_t previous_code_point(std::string_view text, size_t* offset) {
  do {
    --*offset;
  } while ((static_cast<unsigned char>(text[*offset]) & 0xc0) == 0x80);
  size_t start = *offset;
  return next_code_point(text, &start);
}

int64_t count_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

size_t byte_offset(std::string_view text, int64_t index) {
  size_t offset = 0;
  while (index > 0 && offset < text.size()) {
    next_code_point(text, &offset);
    --index;
  }
  return offset;
}

bool is_space(char32_t c) {
  return (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string_view strip_left(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (!is_space(next_code_point(text, &i))) return text.substr(start);
  }
  return {};
}

std::string_view strip_right(std::string_view text) {
  for (size_t i = text.size(); i > 0;) {
    const size_t end = i;
    if (!is_space(previous_code_point(text, &i))) return text.substr(0, end);
  }
  return {};
}

std::string_view strip_left(std::string_view text, std::string_view chars) {
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (!contains(chars, next_code_point(text, &i))) return text.substr(start);
  }
  return {};
}

std::string_view strip_right(std::string_view text, std::string_view chars) {
  for (size_t i = text.size(); i > 0;) {
    const size_t end = i;
    if (!contains(chars, previous_code_point(text, &i))) return text.substr(0, end);
  }
  return {};
}

std::string to_lower(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    append_lower(&out, text, start, next_code_point(text, &i));
  }
  return out;
}

std::string to_upper(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) append_upper(&out, next_code_point(text, &i));
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = next_code_point(text, &i);
    if (in_word) {
      append_lower(&out, text, start, c);
    } else {
      append_title(&out, c);
    }
    in_word = is_cased(c);
  }
  return out;
}

std::string to_capitalized(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = next_code_point(text, &i);
    if (start == 0) {
      append_title(&out, c);
    } else {
      append_lower(&out, text, start, c);
    }
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = next_code_point(text, &i);
    if (find_run(kUppercase, c)) {
      append_lower(&out, text, start, c);
    } else if (find_run(kLowercase, c)) {
      append_upper(&out, c);
    } else {
      append_utf8(&out, c);
    }
  }
  return out;
}

bool is_lower(std::string_view text) {
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, &i);
    if (find_run(kUppercase, c) || find_run(kTitlecase, c)) return false;
    cased = cased || find_run(kLowercase, c);
  }
  return cased;
}

bool is_upper(std::string_view text) {
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, &i);
    if (find_run(kLowercase, c) || find_run(kTitlecase, c)) return false;
    cased = cased || find_run(kUppercase, c);
  }
  return cased;
}

bool is_title(std::string_view text) {
  bool cased = false, in_word = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, &i);
    if (find_run(kUppercase, c) || find_run(kTitlecase, c)) {
      if (in_word) return false;
      in_word = cased = true;
    } else if (find_run(kLowercase, c)) {
      if (!in_word) return false;
      cased = true;
    } else {
      in_word = false;
    }
  }
  return cased;
}

bool is_alphabetic(char32_t c) { return find_run(kAlphabetic, c) != nullptr; }
bool is_decimal(char32_t c) { return find_run(kDecimal, c) != nullptr; }
bool is_printable(char32_t c) { return find_run(kNotPrintable, c) == nullptr; }

std::string repeat_text(std::string_view text, uint64_t count) {
  if (text.size() == 1) return std::string(count, text[0]);
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() * count);
  for (uint64_t i = 0; i < count; ++i) out += text;
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out.push_back(c);
    }
  }
  return out;
}

std::string quote_python(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, &i);
    const auto hex = [&](char kind, int digits) {
      out.push_back('\\');
      out.push_back(kind);
      for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out.push_back("0123456789abcdef"[(c >> shift) & 0xf]);
    };
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      append_utf8(&out, c);
    } else if (c < 0x100) {
      hex('x', 2);
    } else if (c < 0x10000) {
      hex('u', 4);
    } else {
      hex('U', 8);
    }
  }
  out.push_back(quote);
  return out;
}

std::string quoted(std::string_view name) {
  std::string out(1, '\'');
  out += name;
  out += '\'';
  return out;
}

std::string format_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // Shortest digits that read back the same, laid out as Python does: plain between 1e-4 and 1e16.
  std::array<char, 40> buffer;
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  const std::string_view scientific(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const size_t e = scientific.find('e');
  std::string digits, out;
  for (char c : scientific.substr(0, e)) {
    if (c == '-') {
      out.push_back('-');
    } else if (c != '.') {
      digits.push_back(c);
    }
  }
  int exponent = 0;
  std::from_chars(scientific.data() + e + (scientific[e + 1] == '+' ? 2 : 1), scientific.data() + scientific.size(),
                  exponent);
  if (exponent < -4 || exponent >= 16) {
    out.append(digits, 0, 1);
    if (digits.size() > 1) out.append(1, '.').append(digits, 1);
    out.append(exponent < 0 ? "e-" : "e+");
    if (std::abs(exponent) < 10) out.push_back('0');
    return out.append(std::to_string(std::abs(exponent)));
  }
  if (exponent < 0) return out.append("0.").append(static_cast<size_t>(-exponent - 1), '0').append(digits);
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return out.append(digits).append(whole - digits.size(), '0').append(".0");
  return out.append(digits, 0, whole).append(1, '.').append(digits, whole);
}

Expected<int64_t> parse_integer(std::string_view text, int base) {
  const Status bad =
      invalid_argument("invalid literal for int() with base " + std::to_string(base) + ": " + quote_python(text));
  if (base != 0 && (base < 2 || base > 36)) return invalid_argument("int() base must be >= 2 and <= 36, or 0");
  std::string_view rest = strip_left(strip_right(text));
  bool negative = false;
  if (!rest.empty() && (rest[0] == '+' || rest[0] == '-')) {
    negative = rest[0] == '-';
    rest.remove_prefix(1);
  }
  if (rest.size() > 1 && rest[0] == '0') {
    const char mark = static_cast<char>(rest[1] | 0x20);
    const int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == 0 || base == marked)) {
      base = marked;
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] == '_') rest.remove_prefix(1);
    } else if (base == 0 && rest.find_first_not_of("0_") != std::string_view::npos) {
      return bad;
    }
  }
  if (base == 0) base = 10;
  std::string digits;
  if (rest.empty() || !drop_underscores(rest, &digits)) return bad;
  int64_t value = 0;
  bool fits = true;
  for (char c : digits) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 10
                      : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                             : 99;
    if (digit >= base) return bad;
    const auto scaled = checked_mul<int64_t>(value, base);
    const auto sum = scaled ? checked_add<int64_t>(*scaled, negative ? -digit : digit) : std::nullopt;
    fits = fits && sum.has_value();
    value = sum.value_or(0);
  }
  if (!fits) return limit_exceeded("integer " + std::string(text.substr(0, 40)) + " does not fit 64 bits");
  return value;
}

Expected<double> parse_real(std::string_view text) {
  const std::string_view trimmed = strip_left(strip_right(text));
  const Status bad = invalid_argument("could not convert string to float: " + quote_python(text));
  std::string digits;
  if (trimmed.empty() || !drop_underscores(trimmed, &digits)) return bad;
  std::string_view rest = digits;
  const bool negative = rest[0] == '-';
  if (rest[0] == '+' || rest[0] == '-') rest.remove_prefix(1);
  const std::string word = to_lower(rest);
  if (word == "inf" || word == "infinity") return negative ? -INFINITY : INFINITY;
  if (word == "nan") return static_cast<double>(NAN);
  if (rest.empty() || rest.find_first_not_of("0123456789.eE+-") != std::string_view::npos || rest[0] == '-') return bad;
  double value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (end != rest.data() + rest.size() || error == std::errc::invalid_argument) return bad;
  if (error == std::errc::result_out_of_range) {
    // from_chars leaves the value alone: the sign of the exponent tells which way it went.
    const size_t e = rest.find_first_of("eE");
    const bool tiny = (e != std::string_view::npos && e + 1 < rest.size() && rest[e + 1] == '-') || rest[0] == '.' ||
                      rest.starts_with("0.");
    value = tiny ? 0.0 : INFINITY;
  }
  return negative ? -value : value;
}

}  // namespace pare::jinja
