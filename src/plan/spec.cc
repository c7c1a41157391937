#include "plan/spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "base/checked.h"
#include "base/limits.h"

namespace pare {
namespace {

// Locale-free character classes: a spec means the same everywhere.
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_letter(char c) { return is_lower(c) || (c >= 'A' && c <= 'Z'); }
bool is_name_char(char c) { return is_lower(c) || is_digit(c) || c == '_'; }
bool is_bare_start(char c) { return is_letter(c) || c == '_' || c == '/' || c == '.' || c == '~'; }
bool is_bare_char(char c) { return is_bare_start(c) || is_digit(c) || c == '-' || c == ':' || c == '@'; }
bool is_bare(std::string_view s) {
  return !s.empty() && is_bare_start(s[0]) && std::all_of(s.begin(), s.end(), is_bare_char);
}

struct ByteUnit {
  std::string_view name;
  int64_t bytes;
};
constexpr std::array kByteUnits = {
    ByteUnit{"TiB", int64_t{1} << 40},
    ByteUnit{"GiB", int64_t{1} << 30},
    ByteUnit{"MiB", int64_t{1} << 20},
    ByteUnit{"KiB", int64_t{1} << 10},
    ByteUnit{"B", 1},
};

class Parser {
 public:
  Parser(std::string_view source, std::string_view label, size_t begin, size_t end) : pos_(begin), end_(end) {
    spec_.source = source;
    spec_.label = label;
  }

  Expected<Spec> parse() {
    skip_spaces();
    if (at_end()) return error("the spec is empty; expected a policy name such as dense");
    for (;;) {
      if (spec_.terms.size() == kMaxSpecTerms) return error(fmt::format("more than {} terms", kMaxSpecTerms));
      PARE_RETURN_IF_ERROR(parse_term());
      if (at_end()) return std::move(spec_);
      if (!take('+')) return error("expected '+' or the end of the spec");
    }
  }

 private:
  bool at_end() const { return pos_ == end_; }
  char peek() const { return at_end() ? '\0' : spec_.source[pos_]; }
  void skip_spaces() {
    while (!at_end() && (peek() == ' ' || peek() == '\t')) ++pos_;
  }
  bool take(char c) {
    if (at_end() || peek() != c) return false;
    ++pos_;
    skip_spaces();
    return true;
  }
  std::string_view slice(size_t begin) const { return std::string_view(spec_.source).substr(begin, pos_ - begin); }
  Status error(std::string_view message) const { return error_at(pos_, message); }
  Status error_at(size_t column, std::string_view message) const {
    return spec_error(spec_, static_cast<int32_t>(column), message);
  }

  Expected<std::string> parse_name(std::string_view what) {
    const size_t begin = pos_;
    if (!is_lower(peek())) return error(fmt::format("expected a {} name (lower-case letters, digits, _)", what));
    while (is_name_char(peek())) ++pos_;
    std::string name(slice(begin));
    skip_spaces();
    return name;
  }

  Status parse_term() {
    SpecTerm term;
    term.column = static_cast<int32_t>(pos_);
    PARE_ASSIGN_OR_RETURN(term.name, parse_name("policy"));
    if (take('(') && !take(')')) {
      for (;;) {
        PARE_RETURN_IF_ERROR(parse_param(term));
        if (take(')')) break;
        if (!take(',')) return error("expected ',' or ')'");
      }
    }
    spec_.terms.push_back(std::move(term));
    return ok_status();
  }

  Status parse_param(SpecTerm& term) {
    if (term.params.size() == kMaxSpecParams) {
      return error(fmt::format("more than {} parameters in a term", kMaxSpecParams));
    }
    SpecParam param;
    param.name_column = static_cast<int32_t>(pos_);
    PARE_ASSIGN_OR_RETURN(param.name, parse_name("parameter"));
    for (const SpecParam& other : term.params) {
      if (other.name == param.name) {
        return error_at(param.name_column, fmt::format("parameter '{}' is given twice", param.name));
      }
    }
    if (!take('=')) return error(fmt::format("expected '=' after parameter '{}'", param.name));
    param.value_column = static_cast<int32_t>(pos_);
    PARE_ASSIGN_OR_RETURN(param.value, parse_value());
    skip_spaces();
    term.params.push_back(std::move(param));
    return ok_status();
  }

  Expected<SpecValue> parse_value() {
    if (peek() == '"') return parse_quoted();
    if (is_digit(peek()) || peek() == '-') return parse_number();
    if (!is_bare_start(peek())) return error("expected a value: a number, a layer list, a word or a \"string\"");
    const size_t begin = pos_;
    while (is_bare_char(peek())) ++pos_;
    SpecValue value;
    value.kind = SpecValue::Kind::kString;
    value.text = slice(begin);
    return value;
  }

  Expected<SpecValue> parse_quoted() {
    SpecValue value;
    value.kind = SpecValue::Kind::kString;
    const size_t begin = pos_++;
    for (;;) {
      if (at_end()) return error_at(begin, "string without closing quote");
      const char c = spec_.source[pos_++];
      if (c == '"') return value;
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
        return error_at(pos_ - 1, "control character in a string");
      }
      if (c != '\\') {
        value.text.push_back(c);
        continue;
      }
      if (peek() != '"' && peek() != '\\') return error("expected \\\" or \\\\ after a backslash");
      value.text.push_back(spec_.source[pos_++]);
    }
  }

  void take_digits() {
    while (is_digit(peek())) ++pos_;
  }

  Expected<SpecValue> parse_number() {
    const size_t begin = pos_;
    bool integral = true;
    if (peek() == '-') ++pos_;
    if (!is_digit(peek())) return error("expected a digit");
    take_digits();
    if (peek() == '.') {
      integral = false;
      ++pos_;
      if (!is_digit(peek())) return error("expected a digit after '.'");
      take_digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      integral = false;
      ++pos_;
      if (peek() == '+' || peek() == '-') ++pos_;
      if (!is_digit(peek())) return error("expected a digit in the exponent");
      take_digits();
    }
    const std::string_view digits = slice(begin);
    SpecValue value;
    if (peek() == '%' || !integral) {
      const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value.number);
      if (failed != std::errc() || end != digits.data() + digits.size()) {
        return error_at(begin, "number out of range");
      }
      value.kind = SpecValue::Kind::kFloat;
      if (peek() == '%') {
        value.kind = SpecValue::Kind::kPercent;
        ++pos_;
      }
    } else {
      const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value.integer);
      if (failed != std::errc()) return error_at(begin, "integer out of range");
      if (peek() == '-' || list_goes_on()) return parse_layers(begin);
    }
    if (is_letter(peek())) PARE_RETURN_IF_ERROR(parse_byte_unit(begin, integral, value));
    return value;
  }

  Status parse_byte_unit(size_t begin, bool integral, SpecValue& value) {
    const size_t unit_begin = pos_;
    while (is_letter(peek())) ++pos_;
    const std::string_view name = slice(unit_begin);
    const auto unit =
        std::find_if(kByteUnits.begin(), kByteUnits.end(), [&](const ByteUnit& u) { return u.name == name; });
    if (unit == kByteUnits.end() || value.kind == SpecValue::Kind::kPercent) {
      return error_at(unit_begin, "unknown unit; byte sizes end in B, KiB, MiB, GiB or TiB; quote other text");
    }
    if (!integral || value.integer < 0) return error_at(begin, "a byte size is a whole number of its unit");
    const auto bytes = checked_mul(value.integer, unit->bytes);
    if (!bytes) return error_at(begin, "byte size out of range");
    value.kind = SpecValue::Kind::kBytes;
    value.integer = *bytes;
    return ok_status();
  }

  // A comma followed by a digit continues a layer list: parameter names begin with a letter.
  bool list_goes_on() const {
    size_t p = pos_;
    while (p < end_ && (spec_.source[p] == ' ' || spec_.source[p] == '\t')) ++p;
    if (p == end_ || spec_.source[p] != ',') return false;
    ++p;
    while (p < end_ && (spec_.source[p] == ' ' || spec_.source[p] == '\t')) ++p;
    return p < end_ && is_digit(spec_.source[p]);
  }

  Expected<int32_t> parse_layer() {
    const size_t begin = pos_;
    if (!is_digit(peek())) return error("expected a layer number");
    take_digits();
    const std::string_view digits = slice(begin);
    int32_t layer = 0;
    const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    if (failed != std::errc() || layer >= kMaxLayers) {
      return error_at(begin, fmt::format("layer number out of range (limit {})", kMaxLayers - 1));
    }
    return layer;
  }

  Expected<SpecValue> parse_layers(size_t begin) {
    pos_ = begin;
    if (peek() == '-') return error("a layer number is not negative");
    std::vector<LayerRange> ranges;
    for (;;) {
      const size_t range_begin = pos_;
      LayerRange range;
      PARE_ASSIGN_OR_RETURN(range.first, parse_layer());
      range.last = range.first;
      if (peek() == '-') {
        ++pos_;
        PARE_ASSIGN_OR_RETURN(range.last, parse_layer());
      }
      if (range.last < range.first) return error_at(range_begin, "a layer range runs from low to high");
#ifndef PARE_FAULT_PLAN_LAYER_TWICE
      if (!ranges.empty() && range.first <= ranges.back().last) {
        return error_at(range_begin, "layer lists are ascending and name no layer twice");
      }
#endif
      if (!ranges.empty() && range.first == ranges.back().last + 1) {
        ranges.back().last = range.last;
      } else {
        if (ranges.size() == kMaxSpecLayerRanges) {
          return error_at(range_begin, fmt::format("more than {} layer ranges", kMaxSpecLayerRanges));
        }
        ranges.push_back(range);
      }
      if (!list_goes_on()) break;
      skip_spaces();
      take(',');
    }
    SpecValue value;
    if (ranges.size() == 1 && ranges[0].first == ranges[0].last) {
      value.integer = ranges[0].first;
      return value;
    }
    value.kind = SpecValue::Kind::kLayers;
    value.layers = std::move(ranges);
    return value;
  }

  Spec spec_;
  size_t pos_, end_;
};

Status check_size(std::string_view text, std::string_view label) {
  if (static_cast<int64_t>(text.size()) <= kMaxSpecBytes) return ok_status();
  return invalid_argument(fmt::format("{} spec: {} bytes, limit {}", label, text.size(), kMaxSpecBytes));
}

std::string_view trimmed(std::string_view s) {
  const size_t begin = s.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return s.substr(begin, s.find_last_not_of(" \t") - begin + 1);
}

std::string print_float(double v) {
  std::string s = fmt::format("{}", v);
  if (s.find_first_of(".e") == std::string::npos) s += ".0";
  return s;
}

}  // namespace

Expected<Spec> parse_spec(std::string_view text, std::string_view label) {
  PARE_RETURN_IF_ERROR(check_size(text, label));
  return Parser(text, label, 0, text.size()).parse();
}

Expected<SpecPair> parse_spec_pair(std::string_view text) {
  PARE_RETURN_IF_ERROR(check_size(text, "policy"));
  std::optional<Spec> attn, kv;
  const Spec whole{.terms = {}, .label = "policy", .source = std::string(text)};
  // A ';' inside a quoted string belongs to the string.
  bool quoted = false;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size()) {
      if (quoted && text[i] == '\\' && i + 1 < text.size()) {
        ++i;
        continue;
      }
      if (text[i] == '"') quoted = !quoted;
      if (quoted || text[i] != ';') continue;
    }
    const std::string_view half = text.substr(begin, i - begin);
    const size_t equals = half.find('=');
    const std::string_view key = trimmed(half.substr(0, std::min(equals, half.size())));
    if (equals == std::string_view::npos || (key != "attn" && key != "kv")) {
      return spec_error(whole, static_cast<int32_t>(begin), "expected attn=... or kv=...");
    }
    std::optional<Spec>& slot = key == "attn" ? attn : kv;
    if (slot) return spec_error(whole, static_cast<int32_t>(begin), fmt::format("'{}' is given twice", key));
    PARE_ASSIGN_OR_RETURN(slot, Parser(text, key, begin + equals + 1, i).parse());
    begin = i + 1;
  }
  SpecPair pair;
  PARE_ASSIGN_OR_RETURN(pair.attn, attn ? Expected<Spec>(*std::move(attn)) : parse_spec("dense", "attn"));
  PARE_ASSIGN_OR_RETURN(pair.kv, kv ? Expected<Spec>(*std::move(kv)) : parse_spec("dense", "kv"));
  return pair;
}

std::string print_value(const SpecValue& value) {
  switch (value.kind) {
    case SpecValue::Kind::kInt: return fmt::format("{}", value.integer);
    case SpecValue::Kind::kFloat: return print_float(value.number);
    case SpecValue::Kind::kPercent: return fmt::format("{}%", value.number);
    case SpecValue::Kind::kBytes:
      for (const ByteUnit& unit : kByteUnits) {
        if (value.integer != 0 && value.integer % unit.bytes == 0) {
          return fmt::format("{}{}", value.integer / unit.bytes, unit.name);
        }
      }
      return "0B";
    case SpecValue::Kind::kLayers: {
      std::string out;
      for (const LayerRange& range : value.layers) {
        if (!out.empty()) out += ',';
        out +=
            range.first == range.last ? fmt::format("{}", range.first) : fmt::format("{}-{}", range.first, range.last);
      }
      return out;
    }
    case SpecValue::Kind::kString: break;
  }
  if (is_bare(value.text)) return value.text;
  std::string out = "\"";
  for (char c : value.text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string print_term(const SpecTerm& term) {
  std::string out = term.name;
  if (term.params.empty()) return out;
  char before = '(';
  for (const SpecParam& param : term.params) {
    out += before;
    out += param.name;
    out += '=';
    out += print_value(param.value);
    before = ',';
  }
  return out + ')';
}

std::string print_spec(const Spec& spec) {
  std::string out;
  for (const SpecTerm& term : spec.terms) {
    if (!out.empty()) out += '+';
    out += print_term(term);
  }
  return out;
}

Status spec_error(const Spec& spec, int32_t column, std::string_view message) {
  // Show at most 72 bytes around the column; one column a byte, so that the caret stays below its character.
  constexpr int32_t kBefore = 40, kShown = 72;
  const int32_t size = static_cast<int32_t>(spec.source.size());
  const int32_t begin = std::max(0, std::min(column - kBefore, size - kShown));
  std::string shown = spec.source.substr(begin, kShown);
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return invalid_argument(fmt::format("{} spec, column {}: {}\n  {}\n  {}^", spec.label, column + 1, message, shown,
                                      std::string(column - begin, ' ')));
}

}  // namespace pare
