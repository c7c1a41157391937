// Methods of str, dict, list and tuple that do not change their object.
#include <algorithm>
#include <array>

#include "base/checked.h"
#include "text/jinja_library.h"
#include "text/jinja_strings.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

using Args = const Arguments&;

Status needs_string(std::string_view method, const Value& value) {
  return invalid_argument(std::string(method) + " needs a string, not " + std::string(value.type_name()));
}

template <std::string (*convert)(std::string_view)>
Expected<Value> convert_text(Runtime& rt, const Value& self, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("method", args, {}).status());
  PARE_RETURN_IF_ERROR(rt.step(self.text().size()));
  return Value::string(&rt, convert(self.text()), self.safe());
}

template <bool (*predicate)(std::string_view)>
Expected<Value> check_text(Runtime& rt, const Value& self, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("method", args, {}).status());
  PARE_RETURN_IF_ERROR(rt.step(self.text().size()));
  return Value::boolean(predicate(self.text()));
}

template <bool (*predicate)(char32_t)>
bool all_of(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (!predicate(next_code_point(text, &i))) return false;
  }
  return !text.empty();
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// str.isdigit and str.isnumeric know more code points than Nd; outside ASCII only decimals are recognised
// here.
bool is_alphanumeric(char32_t c) { return is_alphabetic(c) || is_decimal(c); }

bool is_printable_text(std::string_view text) { return text.empty() || all_of<is_printable>(text); }

bool is_identifier(std::string_view text) {
  const auto word = [](char32_t c) { return c == '_' || is_alphanumeric(c); };
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = next_code_point(text, &i);
    if (!word(c) || (first && is_decimal(c))) return false;
  }
  return !text.empty();
}

template <bool left, bool right>
Expected<Value> method_strip(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("strip", args, {"chars"}));
  return strip_text(rt, self, bound[0], left, right);
}

// The part of a string that [start, end) of a method's arguments selects, as bytes; nothing where start is
// past it.
struct Window {
  std::string_view text;
  int64_t start = 0;
  bool valid = true;
};

Expected<Window> select_window(Runtime& rt, const Value& self, const Value* start, const Value* end) {
  PARE_ASSIGN_OR_RETURN(const int64_t size, length(rt, self));
  const auto resolve = [&](const Value* v, int64_t fallback) -> Expected<int64_t> {
    if (v == nullptr || v->is_none()) return fallback;
    PARE_ASSIGN_OR_RETURN(int64_t at, to_index(*v));
    if (at < 0) at = at < -size ? 0 : at + size;
    return at;
  };
  PARE_ASSIGN_OR_RETURN(const int64_t first, resolve(start, 0));
  PARE_ASSIGN_OR_RETURN(const int64_t last, resolve(end, size));
  if (first > size || first > last) return Window{{}, first, false};
  const size_t begin = byte_offset(self.text(), first);
  const size_t stop = byte_offset(self.text(), std::min(last, size));
  return Window{std::string_view(self.text()).substr(begin, stop - begin), first, true};
}

template <bool at_end>
Expected<Value> method_affix(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments(at_end ? "endswith" : "startswith", args, {"prefix", "start", "end"}, 1));
  PARE_ASSIGN_OR_RETURN(const Window window, select_window(rt, self, bound[1], bound[2]));
  std::vector<Value> candidates = {*bound[0]};
  if (bound[0]->is(Kind::kTuple)) candidates = bound[0]->items();
  for (const Value& candidate : candidates) {
    PARE_RETURN_IF_ERROR(rt.step());
    if (!candidate.is_string()) return needs_string(at_end ? "endswith" : "startswith", candidate);
    if (window.valid &&
        (at_end ? window.text.ends_with(candidate.text()) : window.text.starts_with(candidate.text()))) {
      return Value::boolean(true);
    }
  }
  return Value::boolean(false);
}

template <bool from_right, bool must_find>
Expected<Value> method_find(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("find", args, {"sub", "start", "end"}, 1));
  if (!bound[0]->is_string()) return needs_string("find", *bound[0]);
  PARE_ASSIGN_OR_RETURN(const Window window, select_window(rt, self, bound[1], bound[2]));
  const size_t at = !window.valid ? std::string_view::npos
                    : from_right  ? window.text.rfind(bound[0]->text())
                                  : window.text.find(bound[0]->text());
  if (at != std::string_view::npos) return Value::integer(window.start + count_code_points(window.text.substr(0, at)));
  if (must_find) return invalid_argument("substring not found");
  return Value::integer(-1);
}

Expected<Value> method_count(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("count", args, {"sub", "start", "end"}, 1));
  if (!bound[0]->is_string()) return needs_string("count", *bound[0]);
  PARE_ASSIGN_OR_RETURN(const Window window, select_window(rt, self, bound[1], bound[2]));
  if (!window.valid) return Value::integer(0);
  const std::string& wanted = bound[0]->text();
  if (wanted.empty()) return Value::integer(count_code_points(window.text) + 1);
  int64_t count = 0;
  for (size_t at = window.text.find(wanted); at != std::string_view::npos;
       at = window.text.find(wanted, at + wanted.size()))
    ++count;
  return Value::integer(count);
}

Expected<Value> method_replace(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("replace", args, {"old", "new", "count"}, 2));
  if (!bound[0]->is_string() || !bound[1]->is_string())
    return needs_string("replace", bound[0]->is_string() ? *bound[1] : *bound[0]);
  int64_t count = -1;
  if (bound[2]) {
    PARE_ASSIGN_OR_RETURN(count, to_index(*bound[2]));
  }
  const auto escaped = [&](const Value& v) { return self.safe() && !v.safe() ? escape_html(v.text()) : v.text(); };
  PARE_ASSIGN_OR_RETURN(std::string out, replace_text(rt, self.text(), escaped(*bound[0]), escaped(*bound[1]), count));
  return Value::string(&rt, std::move(out), self.safe());
}

// Parts of text that are cut at `separator`, from the left or right, at most `limit` times (negative:
// always).
Expected<std::vector<std::string_view>> split_at(Runtime& rt, std::string_view text, std::string_view separator,
                                                 int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  while (limit != 0) {
    PARE_RETURN_IF_ERROR(rt.step());
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
    if (limit > 0) --limit;
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

// Words between runs of white space; the last part keeps the inside of what is left.
Expected<std::vector<std::string_view>> split_words(Runtime& rt, std::string_view text, int64_t limit,
                                                    bool from_right) {
  std::vector<std::string_view> parts;
  text = from_right ? strip_right(text) : strip_left(text);
  while (!text.empty()) {
    PARE_RETURN_IF_ERROR(rt.step());
    if (limit == 0) {
      parts.push_back(text);
      break;
    }
    if (limit > 0) --limit;
    size_t cut = from_right ? text.size() : 0;
    while (from_right ? cut > 0 : cut < text.size()) {
      size_t next = cut;
      if (is_space(from_right ? previous_code_point(text, &next) : next_code_point(text, &next))) break;
      cut = next;
    }
    parts.push_back(from_right ? text.substr(cut) : text.substr(0, cut));
    text = from_right ? strip_right(text.substr(0, cut)) : strip_left(text.substr(cut));
  }
  if (limit == 0 && !parts.empty() && !text.empty()) {
    // The rest keeps white space at its far end only where split() does: nowhere on the side it was cut from.
    parts.back() = from_right ? strip_right(text) : text;
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool from_right>
Expected<Value> method_split(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("split", args, {"sep", "maxsplit"}));
  int64_t limit = -1;
  if (bound[1]) {
    PARE_ASSIGN_OR_RETURN(limit, to_index(*bound[1]));
  }
  PARE_RETURN_IF_ERROR(rt.step(self.text().size()));
  std::vector<std::string_view> parts;
  if (bound[0] == nullptr || bound[0]->is_none()) {
    PARE_ASSIGN_OR_RETURN(parts, split_words(rt, self.text(), limit, from_right));
  } else {
    if (!bound[0]->is_string()) return needs_string("split", *bound[0]);
    if (bound[0]->text().empty()) return invalid_argument("empty separator");
    PARE_ASSIGN_OR_RETURN(parts, split_at(rt, self.text(), bound[0]->text(), limit, from_right));
  }
  std::vector<Value> items;
  for (std::string_view part : parts) {
    PARE_RETURN_IF_ERROR(rt.step());
    items.push_back(Value::string(&rt, std::string(part), self.safe()));
  }
  return Value::list(&rt, std::move(items));
}

Expected<Value> method_splitlines(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("splitlines", args, {"keepends"}));
  PARE_RETURN_IF_ERROR(rt.step(self.text().size()));
  std::vector<Value> items;
  for (std::string_view line : split_lines(self.text(), bound[0] && truthy(*bound[0]))) {
    PARE_RETURN_IF_ERROR(rt.step());
    items.push_back(Value::string(&rt, std::string(line), self.safe()));
  }
  return Value::list(&rt, std::move(items));
}

template <bool from_right>
Expected<Value> method_partition(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("partition", args, {"sep"}, 1));
  if (!bound[0]->is_string()) return needs_string("partition", *bound[0]);
  const std::string &text = self.text(), &separator = bound[0]->text();
  if (separator.empty()) return invalid_argument("empty separator");
  PARE_RETURN_IF_ERROR(rt.step(text.size()));
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  const auto part = [&](std::string piece) { return Value::string(&rt, std::move(piece), self.safe()); };
  if (at == std::string::npos) {
    return from_right ? Value::tuple(&rt, {part(""), part(""), part(text)})
                      : Value::tuple(&rt, {part(text), part(""), part("")});
  }
  return Value::tuple(&rt, {part(text.substr(0, at)), part(separator), part(text.substr(at + separator.size()))});
}

template <bool suffix>
Expected<Value> method_remove_affix(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound,
                        bind_arguments(suffix ? "removesuffix" : "removeprefix", args, {"affix"}, 1));
  if (!bound[0]->is_string()) return needs_string(suffix ? "removesuffix" : "removeprefix", *bound[0]);
  const std::string &text = self.text(), &affix = bound[0]->text();
  PARE_RETURN_IF_ERROR(rt.step(text.size()));
  if (affix.empty() || !(suffix ? text.ends_with(affix) : text.starts_with(affix))) return self;
  return Value::string(&rt, suffix ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size()),
                       self.safe());
}

Expected<Value> method_join(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("join", args, {"iterable"}, 1));
  if (bound[0]->is_undefined()) return Value::string(&rt, "", self.safe());
  if (!is_iterable(*bound[0])) return invalid_argument("can only join an iterable");
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, *bound[0]));
  std::string out;
  for (size_t i = 0; i < items.items().size(); ++i) {
    const Value& item = items.items()[i];
    if (!item.is_string()) {
      if (self.safe()) return unsupported("join of a safe string with something else than strings");
      return invalid_argument("sequence item " + std::to_string(i) + ": expected str instance, " +
                              std::string(item.type_name()) + " found");
    }
    if (i > 0) out += self.text();
    out += self.safe() && !item.safe() ? escape_html(item.text()) : item.text();
    PARE_RETURN_IF_ERROR(rt.step(self.text().size() + item.text().size()));
    PARE_RETURN_IF_ERROR(rt.reserve(out.size()));
  }
  return Value::string(&rt, std::move(out), self.safe());
}

template <Padding padding>
Expected<Value> method_pad(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("pad", args, {"width", "fillchar"}, 1));
  PARE_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[0]));
  std::string fill = " ";
  if (bound[1]) {
    if (!bound[1]->is_string() || count_code_points(bound[1]->text()) != 1) {
      return invalid_argument("The fill character must be exactly one character long");
    }
    fill = bound[1]->text();
  }
  PARE_ASSIGN_OR_RETURN(std::string out, pad_text(rt, self.text(), width, fill, padding));
  return Value::string(&rt, std::move(out), self.safe());
}

Expected<Value> method_zfill(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("zfill", args, {"width"}, 1));
  PARE_ASSIGN_OR_RETURN(const int64_t width, to_index(*bound[0]));
  const bool has_sign = self.text().starts_with('+') || self.text().starts_with('-');
  const std::string sign = has_sign ? self.text().substr(0, 1) : "";
  PARE_ASSIGN_OR_RETURN(std::string out, pad_text(rt, self.text().substr(sign.size()),
                                                  width - static_cast<int64_t>(sign.size()), "0", Padding::kLeft));
  return Value::string(&rt, sign + out, self.safe());
}

Expected<Value> method_expandtabs(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("expandtabs", args, {"tabsize"}));
  int64_t size = 8;
  if (bound[0]) {
    PARE_ASSIGN_OR_RETURN(size, to_index(*bound[0]));
  }
  std::string out;
  int64_t column = 0;
  for (char c : self.text()) {
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      PARE_RETURN_IF_ERROR(rt.reserve(out.size() + static_cast<uint64_t>(spaces)));
      PARE_RETURN_IF_ERROR(rt.step(static_cast<uint64_t>(spaces)));
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
      continue;
    }
    out.push_back(c);
    if (c == '\n' || c == '\r') {
      column = 0;
    } else if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) {
      ++column;
    }
  }
  PARE_RETURN_IF_ERROR(rt.step(self.text().size()));
  return Value::string(&rt, std::move(out), self.safe());
}

Expected<Value> method_format(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(std::string out, format_braces(rt, self.text(), args, self.safe()));
  return Value::string(&rt, std::move(out), self.safe());
}

Value make_view(Runtime& rt, std::vector<Value> items, std::string_view name) {
  return Value::object(Kind::kView, std::make_shared<ViewObject>(&rt, std::move(items), name));
}

Expected<Value> method_keys(Runtime& rt, const Value& self, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("keys", args, {}).status());
  std::vector<Value> keys;
  for (const auto& entry : self.dict().entries) keys.push_back(entry.first);
  PARE_RETURN_IF_ERROR(rt.step(keys.size() * sizeof(Value)));
  return make_view(rt, std::move(keys), "dict_keys");
}

Expected<Value> method_values(Runtime& rt, const Value& self, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("values", args, {}).status());
  std::vector<Value> values;
  for (const auto& entry : self.dict().entries) values.push_back(entry.second);
  PARE_RETURN_IF_ERROR(rt.step(values.size() * sizeof(Value)));
  return make_view(rt, std::move(values), "dict_values");
}

Expected<Value> method_items(Runtime& rt, const Value& self, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("items", args, {}).status());
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) {
    PARE_RETURN_IF_ERROR(rt.step());
    items.push_back(Value::tuple(&rt, {key, value}));
  }
  return make_view(rt, std::move(items), "dict_items");
}

Expected<Value> method_get(Runtime&, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("get", args, {"key", "default"}, 1));
  if (!is_hashable(*bound[0])) {
    if (bound[0]->is(Kind::kTuple)) return bound[1] ? *bound[1] : Value::none();
    return invalid_argument("unhashable type: '" + std::string(bound[0]->type_name()) + "'");
  }
  const Value* value = self.dict().find(*bound[0]);
  if (value != nullptr) return *value;
  return bound[1] ? *bound[1] : Value::none();
}

Expected<Value> method_copy(Runtime&, const Value& self, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("copy", args, {}).status());
  return self;
}

Expected<Value> method_index(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("index", args, {"value"}, 1));
  for (size_t i = 0; i < self.items().size(); ++i) {
    PARE_ASSIGN_OR_RETURN(const bool same, equals(rt, self.items()[i], *bound[0]));
    if (same) return Value::integer(static_cast<int64_t>(i));
  }
  return invalid_argument("value is not in the " + std::string(self.type_name()));
}

Expected<Value> method_count_items(Runtime& rt, const Value& self, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("count", args, {"value"}, 1));
  int64_t count = 0;
  for (const Value& item : self.items()) {
    PARE_ASSIGN_OR_RETURN(const bool same, equals(rt, item, *bound[0]));
    count += same ? 1 : 0;
  }
  return Value::integer(count);
}

Expected<Value> method_cycle(Runtime&, const Value& self, Args args) {
  if (args.positional.empty() || !args.named.empty()) return invalid_argument("no items for cycling given");
  return args.positional[self.as<LoopObject>().position % args.positional.size()];
}

constexpr Method kStringMethods[] = {
    {"capitalize", convert_text<to_capitalized>},
    {"center", method_pad<Padding::kBoth>},
    {"count", method_count},
    {"endswith", method_affix<true>},
    {"expandtabs", method_expandtabs},
    {"find", method_find<false, false>},
    {"format", method_format},
    {"index", method_find<false, true>},
    {"isalnum", check_text<all_of<is_alphanumeric>>},
    {"isalpha", check_text<all_of<is_alphabetic>>},
    {"isascii", check_text<is_ascii>},
    {"isdecimal", check_text<all_of<is_decimal>>},
    {"isdigit", check_text<all_of<is_decimal>>},
    {"isidentifier", check_text<is_identifier>},
    {"islower", check_text<is_lower>},
    {"isnumeric", check_text<all_of<is_decimal>>},
    {"isprintable", check_text<is_printable_text>},
    {"isspace", check_text<all_of<is_space>>},
    {"istitle", check_text<is_title>},
    {"isupper", check_text<is_upper>},
    {"join", method_join},
    {"ljust", method_pad<Padding::kRight>},
    {"lower", convert_text<to_lower>},
    {"lstrip", method_strip<true, false>},
    {"partition", method_partition<false>},
    {"removeprefix", method_remove_affix<false>},
    {"removesuffix", method_remove_affix<true>},
    {"replace", method_replace},
    {"rfind", method_find<true, false>},
    {"rindex", method_find<true, true>},
    {"rjust", method_pad<Padding::kLeft>},
    {"rpartition", method_partition<true>},
    {"rsplit", method_split<true>},
    {"rstrip", method_strip<false, true>},
    {"split", method_split<false>},
    {"splitlines", method_splitlines},
    {"startswith", method_affix<false>},
    {"strip", method_strip<true, true>},
    {"swapcase", convert_text<swap_case>},
    {"title", convert_text<to_title>},
    {"upper", convert_text<to_upper>},
    {"zfill", method_zfill},
};
constexpr Method kDictMethods[] = {
    {"copy", method_copy}, {"get", method_get},       {"items", method_items},
    {"keys", method_keys}, {"values", method_values},
};
constexpr Method kListMethods[] = {{"copy", method_copy}, {"count", method_count_items}, {"index", method_index}};
constexpr Method kTupleMethods[] = {{"count", method_count_items}, {"index", method_index}};
constexpr Method kLoopMethods[] = {{"cycle", method_cycle}};

}  // namespace

const Method* find_method(const Value& self, std::string_view name) {
  switch (self.kind()) {
    case Kind::kString: return find_named(kStringMethods, name);
    case Kind::kDict: return find_named(kDictMethods, name);
    case Kind::kList: return find_named(kListMethods, name);
    case Kind::kTuple:
    case Kind::kRange: return find_named(kTupleMethods, name);
    case Kind::kLoop: return find_named(kLoopMethods, name);
    default: return nullptr;
  }
}

bool is_mutating_method(const Value& self, std::string_view name) {
  constexpr std::array<std::string_view, 8> kList = {"append", "clear",  "extend",  "insert",
                                                     "pop",    "remove", "reverse", "sort"};
  constexpr std::array<std::string_view, 5> kDict = {"clear", "pop", "popitem", "setdefault", "update"};
  if (self.is(Kind::kList)) return std::find(kList.begin(), kList.end(), name) != kList.end();
  return self.is(Kind::kDict) && std::find(kDict.begin(), kDict.end(), name) != kDict.end();
}

Expected<int64_t> to_index(const Value& value) {
  if (value.is_undefined()) return invalid_argument(value.undefined_reason());
  if (!value.is_integral()) {
    return invalid_argument(quoted(value.type_name()) + " object cannot be interpreted as an integer");
  }
  return value.as_integer();
}

Expected<Value> strip_text(Runtime& rt, const Value& text, const Value* chars, bool left, bool right) {
  std::string_view view = text.text();
  if (chars == nullptr || chars->is_none()) {
    PARE_RETURN_IF_ERROR(rt.step(view.size()));
    if (left) view = strip_left(view);
    if (right) view = strip_right(view);
  } else {
    if (!chars->is_string()) return invalid_argument("strip arg must be None or str");
    const size_t work = checked_mul(view.size(), 1 + chars->text().size()).value_or(SIZE_MAX / 2);
    PARE_RETURN_IF_ERROR(rt.step(work));
    if (left) view = strip_left(view, chars->text());
    if (right) view = strip_right(view, chars->text());
  }
  if (view.size() == text.text().size()) return text;
  return Value::string(&rt, std::string(view), text.safe());
}

Expected<std::string> replace_text(Runtime& rt, std::string_view text, std::string_view from, std::string_view to,
                                   int64_t count) {
  PARE_RETURN_IF_ERROR(rt.step(text.size()));
  std::string out;
  size_t begin = 0;
  const auto put = [&]() -> Status {
    out += to;
    PARE_RETURN_IF_ERROR(rt.reserve(out.size()));
    return rt.step(to.size());
  };
  if (from.empty()) {
    // Before every code point and at the end.
    while (count != 0) {
      PARE_RETURN_IF_ERROR(put());
      if (count > 0) --count;
      if (begin >= text.size()) return out;
      const size_t start = begin;
      next_code_point(text, &begin);
      out += text.substr(start, begin - start);
    }
    return out + std::string(text.substr(begin));
  }
  for (size_t at = text.find(from); count != 0 && at != std::string_view::npos; at = text.find(from, begin)) {
    out += text.substr(begin, at - begin);
    PARE_RETURN_IF_ERROR(put());
    begin = at + from.size();
    if (count > 0) --count;
  }
  return out + std::string(text.substr(begin));
}

Expected<std::string> pad_text(Runtime& rt, std::string_view text, int64_t width, std::string_view fill,
                               Padding padding) {
  const int64_t size = count_code_points(text);
  PARE_RETURN_IF_ERROR(rt.step(text.size()));
  if (width <= size) return std::string(text);
  const uint64_t missing = static_cast<uint64_t>(width - size);
  PARE_RETURN_IF_ERROR(rt.reserve_product(missing, fill.size()));
  PARE_RETURN_IF_ERROR(rt.step(missing * fill.size()));
  // str.center puts the odd one on the left where the width is odd.
  uint64_t left = 0;
  if (padding == Padding::kLeft) left = missing;
  if (padding == Padding::kBoth) left = missing / 2 + (missing & static_cast<uint64_t>(width) & 1);
  return repeat_text(fill, left).append(text).append(repeat_text(fill, missing - left));
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  const auto ends_line = [](char32_t c) {
    return (c >= 0xa && c <= 0xd) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<std::string_view> lines;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = begin, next = begin;
    while (next < text.size()) {
      end = next;
      const char32_t c = next_code_point(text, &next);
      if (ends_line(c)) {
        if (c == '\r' && next < text.size() && text[next] == '\n') ++next;
        break;
      }
      end = next;
    }
    lines.push_back(text.substr(begin, (keep_ends ? next : end) - begin));
    begin = next;
  }
  return lines;
}

}  // namespace pare::jinja
