// Filters that make or read text.
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

using Args = const Arguments&;

// soft_str of Jinja: strings stay what they are, safe ones too; everything else becomes its text.
Expected<Value> soft_string(Runtime& rt, const Value& value) {
  if (value.is_string()) return value;
  PARE_ASSIGN_OR_RETURN(std::string text, to_text(rt, value));
  return Value::string(&rt, std::move(text));
}

template <std::string (*convert)(std::string_view)>
Expected<Value> convert_text(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("filter", args, {}).status());
  PARE_ASSIGN_OR_RETURN(const Value text, soft_string(rt, input));
  PARE_RETURN_IF_ERROR(rt.step(text.text().size()));
  return Value::string(&rt, convert(text.text()), text.safe());
}

// Jinja's own title: letters after white space, "-", "(", "{", "[", "<" are upper-cased, all others
// lower-cased.
std::string title_words(std::string_view text) {
  std::string out;
  size_t begin = 0;
  const auto is_break = [](char32_t c) {
    return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  while (begin < text.size()) {
    size_t end = begin;
    const char32_t first = next_code_point(text, &end);
    out += to_upper(text.substr(begin, end - begin));
    const size_t rest = end;
    while (end < text.size()) {
      size_t next = end;
      if (is_break(next_code_point(text, &next)) != is_break(first)) break;
      end = next;
    }
    out += to_lower(text.substr(rest, end - rest));
    begin = end;
  }
  return out;
}

Expected<Value> filter_title(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Value text, convert_text<title_words>(rt, input, args));
  return text.with_safe(false);
}

Expected<Value> filter_string(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("string", args, {}).status());
  return soft_string(rt, input);
}

Expected<Value> filter_safe(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Value text, filter_string(rt, input, args));
  return text.with_safe(true);
}

Expected<Value> filter_forceescape(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Value text, filter_string(rt, input, args));
  PARE_RETURN_IF_ERROR(rt.step(text.text().size()));
  return Value::string(&rt, escape_html(text.text()), true);
}

Expected<Value> filter_escape(Runtime& rt, const Value& input, Args args) {
  if (input.is_string() && input.safe()) return input;
  return filter_forceescape(rt, input, args);
}

Expected<Value> filter_trim(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("trim", args, {"chars"}));
  PARE_ASSIGN_OR_RETURN(const Value text, soft_string(rt, input));
  return strip_text(rt, text, bound[0], true, true);
}

Expected<Value> filter_replace(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("replace", args, {"old", "new", "count"}, 2));
  PARE_ASSIGN_OR_RETURN(const std::string text, to_text(rt, input));
  PARE_ASSIGN_OR_RETURN(const std::string from, to_text(rt, *bound[0]));
  PARE_ASSIGN_OR_RETURN(const std::string to, to_text(rt, *bound[1]));
  int64_t count = -1;
  if (bound[2] && !bound[2]->is_none()) {
    PARE_ASSIGN_OR_RETURN(count, to_index(*bound[2]));
  }
  PARE_ASSIGN_OR_RETURN(std::string out, replace_text(rt, text, from, to, count));
  return Value::string(&rt, std::move(out));
}

Expected<Value> filter_indent(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("indent", args, {"width", "first", "blank"}));
  if (!input.is_string()) return invalid_argument("indent needs a string, not " + std::string(input.type_name()));
  std::string indention(4, ' ');
  if (bound[0] && bound[0]->is_string()) {
    indention = bound[0]->text();
  } else if (bound[0]) {
    PARE_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[0]));
    PARE_RETURN_IF_ERROR(rt.reserve(static_cast<uint64_t>(std::max<int64_t>(width, 0))));
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool first = bound[1] && truthy(*bound[1]), blank = bound[2] && truthy(*bound[2]);
  PARE_RETURN_IF_ERROR(rt.step(input.text().size()));
  std::string out = first ? indention : "";
  bool first_line = true;
  const std::string text = input.text() + "\n";
  for (std::string_view line : split_lines(text, false)) {
    PARE_RETURN_IF_ERROR(rt.step(indention.size()));
    PARE_RETURN_IF_ERROR(rt.reserve(out.size() + indention.size()));
    if (!first_line) {
      out += "\n";
      if (blank || !line.empty()) out += indention;
    }
    first_line = false;
    out += line;
  }
  return Value::string(&rt, std::move(out), input.safe());
}

Expected<Value> filter_format(Runtime& rt, const Value& input, Args args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return invalid_argument("can't handle positional and keyword arguments at the same time");
  }
  PARE_ASSIGN_OR_RETURN(const Value format, soft_string(rt, input));
  Value operand;
  if (!args.named.empty()) {
    std::vector<DictObject::Entry> entries;
    for (const auto& [name, value] : args.named) entries.emplace_back(Value::string(&rt, name), value);
    operand = make_dict(&rt, std::move(entries));
  } else {
    operand = Value::tuple(&rt, args.positional);
  }
  PARE_ASSIGN_OR_RETURN(std::string text, format_percent(rt, format.text(), operand, format.safe()));
  return Value::string(&rt, std::move(text), format.safe());
}

Expected<Value> filter_center(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("center", args, {"width"}));
  PARE_ASSIGN_OR_RETURN(const Value text, soft_string(rt, input));
  int64_t width = 80;
  if (bound[0]) {
    PARE_ASSIGN_OR_RETURN(width, to_index(*bound[0]));
  }
  PARE_ASSIGN_OR_RETURN(std::string out, pad_text(rt, text.text(), width, " ", Padding::kBoth));
  return Value::string(&rt, std::move(out), text.safe());
}

Expected<Value> filter_truncate(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("truncate", args, {"length", "killwords", "end", "leeway"}));
  if (!input.is_string()) return invalid_argument("truncate needs a string, not " + std::string(input.type_name()));
  int64_t wanted = 255, leeway = 5;
  if (bound[0]) {
    PARE_ASSIGN_OR_RETURN(wanted, to_index(*bound[0]));
  }
  if (bound[3] && !bound[3]->is_none()) {
    PARE_ASSIGN_OR_RETURN(leeway, to_index(*bound[3]));
  }
  if (bound[2] && !bound[2]->is_string()) return invalid_argument("truncate needs a string as 'end'");
  const std::string end = bound[2] ? bound[2]->text() : "...";
  const int64_t end_length = count_code_points(end);
  if (wanted < end_length)
    return invalid_argument("expected length >= " + std::to_string(end_length) + ", got " + std::to_string(wanted));
  if (leeway < 0) return invalid_argument("expected leeway >= 0, got " + std::to_string(leeway));
  PARE_ASSIGN_OR_RETURN(const int64_t size, length(rt, input));
  if (const auto limit = checked_add(wanted, leeway); !limit || size <= *limit) return input;
  std::string_view kept = std::string_view(input.text()).substr(0, byte_offset(input.text(), wanted - end_length));
  if (!bound[1] || !truthy(*bound[1])) {
    const size_t space = kept.rfind(' ');
    if (space != std::string_view::npos) kept = kept.substr(0, space);
  }
  return apply_arithmetic(rt, ArithmeticOp::kAdd, Value::string(&rt, std::string(kept), input.safe()),
                          Value::string(&rt, end, bound[2] && bound[2]->safe()));
}

Expected<Value> filter_wordcount(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("wordcount", args, {}).status());
  PARE_ASSIGN_OR_RETURN(const Value text, soft_string(rt, input));
  PARE_RETURN_IF_ERROR(rt.step(text.text().size()));
  int64_t words = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.text().size();) {
    const char32_t c = next_code_point(text.text(), &i);
    const bool word = c == '_' || is_alphabetic(c) || is_decimal(c);
    words += word && !in_word ? 1 : 0;
    in_word = word;
  }
  return Value::integer(words);
}

Expected<Value> filter_tojson(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = bound[0] && truthy(*bound[0]);
  // json.dumps does not look at the indentation of what is only a string.
  if (bound[1] && bound[1]->is_string()) {
    style.has_indent = true;
    style.indent = bound[1]->text();
  } else if (bound[1] && !bound[1]->is_none() && !input.is_string()) {
    PARE_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[1]));
    PARE_RETURN_IF_ERROR(rt.reserve_product(static_cast<uint64_t>(std::max<int64_t>(width, 0)), kMaxValueDepth));
    style.has_indent = true;
    style.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (bound[2] && !bound[2]->is_none()) {
    PARE_ASSIGN_OR_RETURN(const Value pair, iterate(rt, *bound[2]));
    if (pair.items().size() != 2 || !pair.items()[0].is_string() || !pair.items()[1].is_string()) {
      return invalid_argument("tojson separators must be two strings");
    }
    style.item_separator = pair.items()[0].text();
    style.key_separator = pair.items()[1].text();
    style.has_separators = true;
  }
  style.sort_keys = bound[3] && truthy(*bound[3]);
  PARE_ASSIGN_OR_RETURN(std::string text, to_json(rt, input, style));
  return Value::string(&rt, std::move(text));
}

Expected<Value> filter_int(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("int", args, {"default", "base"}));
  const Value fallback = bound[0] ? *bound[0] : Value::integer(0);
  int64_t base = 10;
  if (bound[1]) {
    PARE_ASSIGN_OR_RETURN(base, to_index(*bound[1]));
  }
  if (input.is_undefined()) return invalid_argument(input.undefined_reason());
  if (input.is_integral()) return Value::integer(input.as_integer());
  double real = 0;
  if (input.is_string()) {
    PARE_RETURN_IF_ERROR(rt.step(input.text().size()));
    const auto parsed = parse_integer(input.text(), static_cast<int>(std::clamp<int64_t>(base, -1, 99)));
    if (parsed.ok()) return Value::integer(*parsed);
    if (parsed.status().code() == StatusCode::kLimitExceeded) return parsed.status();
    const auto as_real = parse_real(input.text());
    if (!as_real.ok()) return fallback;
    real = *as_real;
  } else if (input.is(Kind::kFloat)) {
    real = input.as_real();
    if (std::isinf(real)) return invalid_argument("cannot convert float infinity to integer");
  } else {
    return fallback;
  }
  if (!std::isfinite(real)) return fallback;
  if (std::fabs(real) >= 0x1p63) return limit_exceeded("integer " + format_real(real) + " does not fit 64 bits");
  return Value::integer(static_cast<int64_t>(real));
}

Expected<Value> filter_float(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("float", args, {"default"}));
  const Value fallback = bound[0] ? *bound[0] : Value::real(0);
  if (input.is_undefined()) return invalid_argument(input.undefined_reason());
  if (input.is_number()) return Value::real(input.as_real());
  if (!input.is_string()) return fallback;
  PARE_RETURN_IF_ERROR(rt.step(input.text().size()));
  const auto parsed = parse_real(input.text());
  return parsed.ok() ? Value::real(*parsed) : fallback;
}

Expected<Value> filter_abs(Runtime&, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("abs", args, {}).status());
  if (input.is_undefined()) return invalid_argument(input.undefined_reason());
  if (input.is(Kind::kFloat)) return Value::real(std::fabs(input.as_real()));
  if (!input.is_integral()) return invalid_argument("bad operand type for abs(): " + quoted(input.type_name()));
  return input.as_integer() < 0 ? negate(input) : Expected<Value>(Value::integer(input.as_integer()));
}

// Python's round(value, precision): the decimal nearest to the exact binary value, ties to even.
double round_decimal(double value, int64_t precision) {
  if (precision > 300 || !std::isfinite(value) || value == 0) return value;
  if (precision < -308) return std::copysign(0.0, value);
  if (precision < 0) {
    const long double scale = std::pow(10.0L, static_cast<long double>(-precision));
    return static_cast<double>(std::nearbyint(static_cast<long double>(value) / scale) * scale);
  }
  std::array<char, 700> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed,
                                          static_cast<int>(precision));
  double out = value;
  if (error == std::errc()) std::from_chars(buffer.data(), end, out);
  return out;
}

Expected<Value> filter_round(Runtime&, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("round", args, {"precision", "method"}));
  int64_t precision = 0;
  if (bound[0]) {
    PARE_ASSIGN_OR_RETURN(precision, to_index(*bound[0]));
  }
  const std::string method = bound[1] && bound[1]->is_string() ? bound[1]->text() : bound[1] ? "?" : "common";
  if (method != "common" && method != "ceil" && method != "floor") {
    return invalid_argument("method must be common, ceil or floor");
  }
  if (input.is_undefined()) return invalid_argument(input.undefined_reason());
  if (!input.is_number())
    return invalid_argument("type " + std::string(input.type_name()) + " doesn't define __round__ method");
  if (method == "common") {
    if (input.is(Kind::kFloat)) return Value::real(round_decimal(input.as_real(), precision));
    if (precision >= 0) return Value::integer(input.as_integer());
    return unsupported("rounding of integers to tens");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = input.as_real() * scale;
  if (!std::isfinite(scaled)) return invalid_argument("cannot convert float infinity to integer");
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

constexpr Filter kFilters[] = {
    {"upper", convert_text<to_upper>},
    {"lower", convert_text<to_lower>},
    {"capitalize", convert_text<to_capitalized>},
    {"title", filter_title},
    {"string", filter_string},
    {"safe", filter_safe},
    {"escape", filter_escape},
    {"e", filter_escape},
    {"forceescape", filter_forceescape},
    {"trim", filter_trim},
    {"replace", filter_replace},
    {"indent", filter_indent},
    {"format", filter_format},
    {"center", filter_center},
    {"truncate", filter_truncate},
    {"wordcount", filter_wordcount},
    {"tojson", filter_tojson},
    {"int", filter_int},
    {"float", filter_float},
    {"abs", filter_abs},
    {"round", filter_round},
};

}  // namespace

const Filter* find_string_filter(std::string_view name) { return find_named(kFilters, name); }

}  // namespace pare::jinja
