// The two ways in which Python fills a string with values: "%s" % x and "{}".format(x).
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/checked.h"
#include "text/jinja_library.h"
#include "text/jinja_strings.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

constexpr int64_t kMaxPrecision = 1'000;

// A conversion of either language.
struct Spec {
  bool left = false, plus = false, space = false, alternate = false, zero = false, center = false, inside = false,
       grouped = false;
  std::string fill = " ";
  int64_t width = 0, precision = -1;
  char type = 's';
};

std::string integer_digits(int64_t value, char type) {
  const uint64_t magnitude = value < 0 ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  const int base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  std::array<char, 72> buffer;
  std::string out(buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), magnitude, base).ptr);
  if (type == 'X')
    std::transform(out.begin(), out.end(), out.begin(),
                   [](char c) { return c >= 'a' ? static_cast<char>(c - 32) : c; });
  return out;
}

std::string real_digits(double magnitude, const Spec& spec) {
  const char lower = static_cast<char>(spec.type | 0x20);
  std::string out;
  if (std::isnan(magnitude)) {
    out = "nan";
  } else if (std::isinf(magnitude)) {
    out = "inf";
  } else {
    std::array<char, 1500> buffer;
    const std::string format = std::string("%") + (spec.alternate ? "#" : "") + ".*" + lower;
    const int size = std::snprintf(buffer.data(), buffer.size(), format.c_str(),
                                   static_cast<int>(spec.precision < 0 ? 6 : spec.precision), magnitude);
    out.assign(buffer.data(), static_cast<size_t>(std::clamp<int>(size, 0, static_cast<int>(buffer.size()) - 1)));
  }
  if (spec.type >= 'A' && spec.type <= 'Z') out = to_upper(out);
  return out;
}

std::string group_thousands(const std::string& digits) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % 3 == 0) out.push_back(',');
    out.push_back(digits[i]);
  }
  return out + digits.substr(whole);
}

Expected<std::string> lay_out(Runtime& rt, const std::string& sign, const std::string& digits, const Spec& spec) {
  if (spec.zero && !spec.left) {
    PARE_ASSIGN_OR_RETURN(const std::string padded,
                          pad_text(rt, digits, spec.width - static_cast<int64_t>(sign.size()), "0", Padding::kLeft));
    return sign + padded;
  }
  if (spec.inside) {
    PARE_ASSIGN_OR_RETURN(const std::string padded, pad_text(rt, digits, spec.width - static_cast<int64_t>(sign.size()),
                                                             spec.fill, Padding::kLeft));
    return sign + padded;
  }
  const std::string text = sign + digits;
  if (spec.center) {
    // format() centers with the odd one on the right, unlike str.center.
    const int64_t missing = std::max<int64_t>(spec.width - count_code_points(text), 0);
    PARE_ASSIGN_OR_RETURN(const std::string half,
                          pad_text(rt, text, spec.width - (missing - missing / 2), spec.fill, Padding::kLeft));
    return pad_text(rt, half, spec.width, spec.fill, Padding::kRight);
  }
  return pad_text(rt, text, spec.width, spec.fill, spec.left ? Padding::kRight : Padding::kLeft);
}

Expected<std::string> format_number(Runtime& rt, const Value& value, const Spec& spec) {
  const char type = spec.type;
  const bool real = std::string_view("eEfFgG").find(type) != std::string_view::npos;
  const bool negative = real ? std::signbit(value.as_real()) && !std::isnan(value.as_real()) : value.as_integer() < 0;
  std::string sign = negative ? "-" : spec.plus ? "+" : spec.space ? " " : "";
  std::string digits = real ? real_digits(std::fabs(value.as_real()), spec) : integer_digits(value.as_integer(), type);
  if (!real && spec.precision > 0) {
    PARE_ASSIGN_OR_RETURN(digits, pad_text(rt, digits, spec.precision, "0", Padding::kLeft));
  }
  if (spec.grouped) digits = group_thousands(digits);
  if (spec.alternate && (type == 'x' || type == 'X' || type == 'o' || type == 'b')) sign += std::string("0") + type;
  return lay_out(rt, sign, digits, spec);
}

Expected<std::string> format_text(Runtime& rt, std::string text, Spec spec) {
  if (spec.precision >= 0) text.resize(byte_offset(text, spec.precision));
  spec.zero = false;
  return lay_out(rt, "", text, spec);
}

// Values of a "%" format in the order in which its conversions take them.
class Operands {
 public:
  explicit Operands(const Value& operand) : operand_(operand) {}

  Expected<Value> next() {
    if (!operand_.is(Kind::kTuple)) {
      if (used_++ == 0) return operand_;
    } else if (used_ < operand_.items().size()) {
      return operand_.items()[used_++];
    }
    return invalid_argument("not enough arguments for format string");
  }

  Expected<Value> named(std::string_view key) {
    if (!operand_.is(Kind::kDict)) return invalid_argument("format requires a mapping");
    used_ = 1;
    const Value* value = operand_.dict().find(key);
    if (value == nullptr) return invalid_argument("format has no value for key " + quote_python(key));
    return *value;
  }

  Status finish() const {
    // Whatever has a [] passes for a mapping, of which nothing need be used.
    const bool mapping =
        operand_.is(Kind::kDict) || operand_.is(Kind::kList) || operand_.is(Kind::kRange) || operand_.is_undefined();
    const bool complete = operand_.is(Kind::kTuple) ? used_ == operand_.items().size() : mapping || used_ > 0;
    return complete ? ok_status() : invalid_argument("not all arguments converted during string formatting");
  }

 private:
  const Value& operand_;
  size_t used_ = 0;
};

class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  void advance() { ++at_; }
  bool skip(char c) { return peek() == c && !done() && (advance(), true); }
  std::string_view take_until(std::string_view stops) {
    const size_t begin = at_;
    at_ = std::min(text_.find_first_of(stops, at_), text_.size());
    return text_.substr(begin, at_ - begin);
  }
  std::string take_code_point() {
    const size_t begin = at_;
    next_code_point(text_, &at_);
    return std::string(text_.substr(begin, at_ - begin));
  }
  std::string_view rest() const { return text_.substr(std::min(at_, text_.size())); }

  Expected<int64_t> take_number(int64_t fallback) {
    const size_t begin = at_;
    while (peek() >= '0' && peek() <= '9') advance();
    if (at_ == begin) return fallback;
    return parse_integer(text_.substr(begin, at_ - begin), 10);
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

Status check_precision(int64_t precision) {
  if (precision <= kMaxPrecision) return ok_status();
  return limit_exceeded("precision " + std::to_string(precision) + " in a format, limit " +
                        std::to_string(kMaxPrecision));
}

Expected<Spec> parse_percent_spec(Cursor* cursor, Operands* operands) {
  Spec spec;
  for (;; cursor->advance()) {
    const char c = cursor->peek();
    if (c == '-') {
      spec.left = true;
    } else if (c == '+') {
      spec.plus = true;
    } else if (c == ' ') {
      spec.space = true;
    } else if (c == '#') {
      spec.alternate = true;
    } else if (c == '0') {
      spec.zero = true;
    } else {
      break;
    }
  }
  const auto number = [&](int64_t fallback) -> Expected<int64_t> {
    if (!cursor->skip('*')) return cursor->take_number(fallback);
    PARE_ASSIGN_OR_RETURN(const Value value, operands->next());
    return to_index(value);
  };
  PARE_ASSIGN_OR_RETURN(spec.width, number(0));
  if (spec.width < 0) {
    spec.left = true;
    spec.width = checked_mul<int64_t>(spec.width, -1).value_or(INT64_MAX);
  }
  if (cursor->skip('.')) {
    PARE_ASSIGN_OR_RETURN(spec.precision, number(0));
    spec.precision = std::max<int64_t>(spec.precision, 0);
    PARE_RETURN_IF_ERROR(check_precision(spec.precision));
  }
  while (cursor->peek() == 'h' || cursor->peek() == 'l' || cursor->peek() == 'L') cursor->advance();
  if (cursor->done()) return invalid_argument("incomplete format");
  spec.type = cursor->peek();
  cursor->advance();
  return spec;
}

Expected<std::string> convert_percent(Runtime& rt, const Value& value, const Spec& spec, bool escape) {
  if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
    if (spec.type == 'a') return unsupported("the conversion %a");
    PARE_ASSIGN_OR_RETURN(std::string text, spec.type == 's' ? to_text(rt, value) : to_repr(rt, value));
    if (escape && !(spec.type == 's' && value.is_string() && value.safe())) text = escape_html(text);
    return format_text(rt, std::move(text), spec);
  }
  if (spec.type == 'c') {
    std::string text;
    if (value.is_string() && count_code_points(value.text()) == 1) {
      text = value.text();
    } else if (value.is_integral() && value.as_integer() >= 0 && value.as_integer() < 0x110000 &&
               (value.as_integer() < 0xd800 || value.as_integer() > 0xdfff)) {
      append_utf8(&text, static_cast<char32_t>(value.as_integer()));
    } else {
      return invalid_argument("%c requires int or char");
    }
    return format_text(rt, std::move(text), spec);
  }
  if (value.is_undefined()) return invalid_argument(value.undefined_reason());
  const std::string conversion(1, spec.type);
  if (conversion.find_first_of("diuxXoeEfFgG") == std::string::npos) {
    return invalid_argument("unsupported format character " + quote_python(conversion));
  }
  if (!value.is_number()) {
    return invalid_argument("%" + conversion + " format: a number is required, not " + std::string(value.type_name()));
  }
  const bool integral = conversion.find_first_of("diuxXo") != std::string::npos;
  if (!integral || value.is_integral()) return format_number(rt, value, spec);
  if (conversion.find_first_of("diu") == std::string::npos) {
    return invalid_argument("%" + conversion + " format: an integer is required, not float");
  }
  if (!std::isfinite(value.as_real()) || std::fabs(value.as_real()) >= 0x1p63) {
    return limit_exceeded("integer " + format_real(value.as_real()) + " does not fit 64 bits");
  }
  return format_number(rt, Value::integer(static_cast<int64_t>(value.as_real())), spec);
}

}  // namespace

Expected<std::string> format_percent(Runtime& rt, std::string_view format, const Value& operand, bool escape) {
  PARE_RETURN_IF_ERROR(rt.step(format.size()));
  Operands operands(operand);
  Cursor cursor(format);
  std::string out;
  while (!cursor.done()) {
    out += cursor.take_until("%");
    if (cursor.done()) break;
    cursor.advance();
    if (cursor.skip('%')) {
      out.push_back('%');
      continue;
    }
    std::optional<Value> value;
    if (cursor.skip('(')) {
      const std::string key(cursor.take_until(")"));
      if (!cursor.skip(')')) return invalid_argument("incomplete format key");
      PARE_ASSIGN_OR_RETURN(value, operands.named(key));
    }
    PARE_ASSIGN_OR_RETURN(const Spec spec, parse_percent_spec(&cursor, &operands));
    if (!value) {
      PARE_ASSIGN_OR_RETURN(value, operands.next());
    }
    PARE_ASSIGN_OR_RETURN(const std::string text, convert_percent(rt, *value, spec, escape));
    PARE_RETURN_IF_ERROR(rt.step(text.size()));
    PARE_RETURN_IF_ERROR(rt.reserve(out.size() + text.size()));
    out += text;
  }
  PARE_RETURN_IF_ERROR(operands.finish());
  return out;
}

namespace {

Expected<Spec> parse_brace_spec(const std::string& text, const Value& value) {
  Cursor cursor(text);
  Spec spec;
  spec.left = !value.is_number();
  spec.type = '\0';
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!text.empty()) {
    Cursor ahead(text);
    const std::string first = ahead.take_code_point();
    if (is_align(ahead.peek())) {
      spec.fill = first;
      cursor = ahead;
    }
  }
  if (is_align(cursor.peek())) {
    const char align = cursor.peek();
    spec.left = align == '<';
    spec.center = align == '^';
    spec.inside = align == '=';
    cursor.advance();
    if (spec.inside && !value.is_number())
      return invalid_argument("'=' alignment not allowed in string format specifier");
  }
  if (cursor.skip('+')) {
    spec.plus = true;
  } else if (cursor.skip(' ')) {
    spec.space = true;
  } else {
    cursor.skip('-');
  }
  spec.alternate = cursor.skip('#');
  if (cursor.skip('0') && value.is_number()) spec.zero = true;
  PARE_ASSIGN_OR_RETURN(spec.width, cursor.take_number(0));
  spec.grouped = cursor.skip(',');
  if (cursor.skip('.')) {
    PARE_ASSIGN_OR_RETURN(spec.precision, cursor.take_number(-1));
    if (spec.precision < 0) return invalid_argument("Format specifier missing precision");
    PARE_RETURN_IF_ERROR(check_precision(spec.precision));
  }
  if (!cursor.done()) {
    spec.type = cursor.peek();
    cursor.advance();
  }
  if (!cursor.done()) return invalid_argument("Invalid format specifier " + quote_python(text));
  return spec;
}

Expected<std::string> format_value(Runtime& rt, const Value& value, const std::string& text) {
  if (text.empty()) return to_text(rt, value);
  if (!value.is_string() && !value.is_number()) {
    return invalid_argument("unsupported format string passed to " + std::string(value.type_name()) + ".__format__");
  }
  PARE_ASSIGN_OR_RETURN(Spec spec, parse_brace_spec(text, value));
  const std::string type(1, spec.type);
  if (value.is_string()) {
    if (spec.type != '\0' && spec.type != 's')
      return invalid_argument("Unknown format code " + quote_python(type) + " for object of type 'str'");
    return format_text(rt, value.text(), spec);
  }
  if (value.is(Kind::kBool)) return unsupported("format of a boolean");
  const bool real_type = type.find_first_of("eEfFgG%") != std::string::npos;
  if (spec.type == '%') return unsupported("the format code '%'");
  if (real_type) return format_number(rt, value, spec);
  if (value.is(Kind::kFloat)) {
    if (spec.type != '\0')
      return invalid_argument("Unknown format code " + quote_python(type) + " for object of type 'float'");
    if (spec.precision >= 0) return unsupported("a precision without a type in the format of a float");
    const std::string digits = format_real(std::fabs(value.as_real()));
    const std::string sign = std::signbit(value.as_real()) ? "-" : spec.plus ? "+" : spec.space ? " " : "";
    return lay_out(rt, sign, spec.grouped ? group_thousands(digits) : digits, spec);
  }
  if (spec.precision >= 0) return invalid_argument("Precision not allowed in integer format specifier");
  if (spec.type == '\0') spec.type = 'd';
  if (std::string_view("dxXob").find(spec.type) == std::string_view::npos) {
    return invalid_argument("Unknown format code " + quote_python(type) + " for object of type 'int'");
  }
  return format_number(rt, value, spec);
}

// The value that "0.name[key]" in a replacement field names.
Expected<Value> resolve_field(Runtime& rt, std::string_view field, const Arguments& args, size_t* next_automatic) {
  Cursor cursor(field);
  const std::string first(cursor.take_until(".["));
  Value value;
  const bool digits = !first.empty() && first.find_first_not_of("0123456789") == std::string::npos;
  if (first.empty() || digits) {
    int64_t index = 0;
    if (digits) {
      PARE_ASSIGN_OR_RETURN(index, parse_integer(first, 10));
    } else {
      index = static_cast<int64_t>((*next_automatic)++);
    }
    if (index >= static_cast<int64_t>(args.positional.size())) {
      return invalid_argument("Replacement index " + std::to_string(index) + " out of range for positional args tuple");
    }
    value = args.positional[static_cast<size_t>(index)];
  } else {
    const auto it =
        std::find_if(args.named.begin(), args.named.end(), [&](const auto& named) { return named.first == first; });
    if (it == args.named.end()) return invalid_argument("format has no value for " + quote_python(first));
    value = it->second;
  }
  while (!cursor.done()) {
    PARE_RETURN_IF_ERROR(rt.step());
    if (cursor.skip('.')) {
      PARE_ASSIGN_OR_RETURN(value, get_attribute(rt, value, cursor.take_until(".[")));
    } else if (cursor.skip('[')) {
      const std::string key(cursor.take_until("]"));
      if (!cursor.skip(']')) return invalid_argument("expected ']' in format string");
      const bool index = !key.empty() && key.find_first_not_of("0123456789") == std::string::npos;
      Value key_value = Value::string(&rt, key);
      if (index) {
        PARE_ASSIGN_OR_RETURN(const int64_t position, parse_integer(key, 10));
        key_value = Value::integer(position);
      }
      PARE_ASSIGN_OR_RETURN(value, get_item(rt, value, key_value));
    } else {
      return invalid_argument("Only '.' or '[' may follow ']' in format field specifier");
    }
  }
  return value;
}

}  // namespace

Expected<std::string> format_braces(Runtime& rt, std::string_view format, const Arguments& args, bool escape) {
  if (escape) return unsupported("format of a safe string");
  PARE_RETURN_IF_ERROR(rt.step(format.size()));
  Cursor cursor(format);
  size_t next_automatic = 0;
  std::string out;
  while (!cursor.done()) {
    out += cursor.take_until("{}");
    if (cursor.done()) break;
    const char brace = cursor.peek();
    cursor.advance();
    if (cursor.skip(brace)) {
      out.push_back(brace);
      continue;
    }
    if (brace == '}') return invalid_argument("Single '}' encountered in format string");
    const std::string_view field = cursor.take_until("!:{}");
    char conversion = '\0';
    if (cursor.skip('!')) {
      conversion = cursor.peek();
      cursor.advance();
    }
    std::string spec;
    if (cursor.skip(':')) spec = cursor.take_until("{}");
    if (cursor.peek() == '{') return unsupported("a replacement field inside a format");
    if (!cursor.skip('}')) return invalid_argument("expected '}' before end of string");
    PARE_ASSIGN_OR_RETURN(Value value, resolve_field(rt, field, args, &next_automatic));
    if (conversion == 'r' || conversion == 's') {
      PARE_ASSIGN_OR_RETURN(std::string shown, conversion == 'r' ? to_repr(rt, value) : to_text(rt, value));
      value = Value::string(&rt, std::move(shown));
    } else if (conversion != '\0') {
      return invalid_argument("Unknown conversion specifier " + quote_python(std::string(1, conversion)));
    }
    PARE_ASSIGN_OR_RETURN(const std::string text, format_value(rt, value, spec));
    PARE_RETURN_IF_ERROR(rt.step(text.size()));
    PARE_RETURN_IF_ERROR(rt.reserve(out.size() + text.size()));
    out += text;
  }
  return out;
}

}  // namespace pare::jinja
