// Filters over lists, dictionaries and other iterables.
#include <algorithm>
#include <optional>
#include <set>

#include "text/jinja_library.h"
#include "text/jinja_strings.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

using Args = const Arguments&;

Value make_generator(Runtime& rt, std::vector<Value> items, Status error = ok_status()) {
  return Value::object(Kind::kGenerator, std::make_shared<GeneratorObject>(&rt, std::move(items), std::move(error)));
}

// "a.b.0" or an index, one step after the other; `fallback` stands in for what is undefined on the way.
class AttributePath {
 public:
  static Expected<AttributePath> make(Runtime& rt, const Value& attribute) {
    AttributePath path;
    if (!attribute.is_string()) {
      path.parts_.push_back(attribute);
      return path;
    }
    std::string_view rest = attribute.text();
    while (true) {
      PARE_RETURN_IF_ERROR(rt.step());
      const size_t dot = rest.find('.');
      const std::string_view part = rest.substr(0, dot);
      const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
      if (digits) {
        PARE_ASSIGN_OR_RETURN(const int64_t index, parse_integer(part, 10));
        path.parts_.push_back(Value::integer(index));
      } else {
        path.parts_.push_back(Value::string(&rt, std::string(part)));
      }
      if (dot == std::string_view::npos) return path;
      rest.remove_prefix(dot + 1);
    }
  }

  Expected<Value> get(Runtime& rt, Value item, const Value* fallback = nullptr) const {
    for (const Value& part : parts_) {
      PARE_ASSIGN_OR_RETURN(item, get_item(rt, item, part));
      if (fallback != nullptr && !fallback->is_none() && item.is_undefined()) item = *fallback;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

// The key that sort, unique, min, max compare: an attribute if given, lower-cased unless case matters.
Expected<Value> sort_key(Runtime& rt, const Value& item, const std::optional<AttributePath>& path,
                         bool case_sensitive) {
  Value key = item;
  if (path) {
    PARE_ASSIGN_OR_RETURN(key, path->get(rt, item));
  }
  if (case_sensitive || !key.is_string()) return key;
  PARE_RETURN_IF_ERROR(rt.step(key.text().size()));
  return Value::string(&rt, to_lower(key.text()));
}

Expected<std::optional<AttributePath>> optional_path(Runtime& rt, const Value* attribute) {
  if (attribute == nullptr || attribute->is_none()) return std::optional<AttributePath>();
  PARE_ASSIGN_OR_RETURN(AttributePath path, AttributePath::make(rt, *attribute));
  return std::optional<AttributePath>(std::move(path));
}

// Python's sorted() wants an integer for "reverse", where other flags may be anything.
Expected<bool> reverse_flag(const Value* value) {
  if (value == nullptr) return false;
  PARE_ASSIGN_OR_RETURN(const int64_t number, to_index(*value));
  return number != 0;
}

bool flag(const Value* value) { return value != nullptr && truthy(*value); }

// Stable merge sort that can fail: std::sort must not see a comparison that stops being an order.
Status sort_by_key(Runtime& rt, const std::vector<Value>& keys, bool reverse, std::vector<size_t>* order) {
  order->resize(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) (*order)[i] = i;
  std::vector<size_t> merged(keys.size());
  for (size_t width = 1; width < keys.size(); width *= 2) {
    for (size_t begin = 0; begin < keys.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, keys.size()), end = std::min(begin + 2 * width, keys.size());
      size_t left = begin, right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          const Value &a = keys[(*order)[left]], &b = keys[(*order)[right]];
          PARE_ASSIGN_OR_RETURN(take_right, reverse ? less(rt, a, b) : less(rt, b, a));
        }
        merged[out] = take_right ? (*order)[right++] : (*order)[left++];
      }
    }
    order->swap(merged);
  }
  return ok_status();
}

Expected<Value> filter_default(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("default", args, {"default_value", "boolean"}));
  if (!input.is_undefined() && !(flag(bound[1]) && !truthy(input))) return input;
  return bound[0] ? *bound[0] : Value::string(&rt, "");
}

Expected<Value> filter_length(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("length", args, {}).status());
  PARE_ASSIGN_OR_RETURN(const int64_t count, length(rt, input));
  return Value::integer(count);
}

Expected<Value> filter_list(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("list", args, {}).status());
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  if (items.is(Kind::kList)) return items;
  PARE_RETURN_IF_ERROR(rt.step(items.items().size() * sizeof(Value)));
  return Value::list(&rt, items.items());
}

Expected<Value> filter_items(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("items", args, {}).status());
  if (input.is_undefined()) return make_generator(rt, {});
  if (!input.is(Kind::kDict))
    return make_generator(rt, {}, invalid_argument("Can only get item pairs from a mapping."));
  std::vector<Value> pairs;
  for (const auto& [key, value] : input.dict().entries) {
    PARE_RETURN_IF_ERROR(rt.step());
    pairs.push_back(Value::tuple(&rt, {key, value}));
  }
  return make_generator(rt, std::move(pairs));
}

Expected<Value> filter_join(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("join", args, {"d", "attribute"}));
  PARE_ASSIGN_OR_RETURN(const auto path, optional_path(rt, bound[1]));
  std::string separator;
  if (bound[0]) {
    PARE_ASSIGN_OR_RETURN(separator, to_text(rt, *bound[0]));
  }
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  std::string out;
  bool first = true;
  for (Value item : items.items()) {
    if (path) {
      PARE_ASSIGN_OR_RETURN(item, path->get(rt, item));
    }
    PARE_ASSIGN_OR_RETURN(const std::string text, to_text(rt, item));
    PARE_RETURN_IF_ERROR(rt.step(separator.size()));
    PARE_RETURN_IF_ERROR(rt.reserve(out.size() + separator.size() + text.size()));
    if (!first) out += separator;
    first = false;
    out += text;
  }
  return Value::string(&rt, std::move(out));
}

Expected<Value> filter_first(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("first", args, {}).status());
  if (input.is(Kind::kGenerator)) {
    const GeneratorObject& generator = input.as<GeneratorObject>();
    if (generator.next < generator.items.size()) return generator.items[generator.next++];
  }
  if (input.is_string() && !input.text().empty()) {
    size_t end = 0;
    next_code_point(input.text(), &end);
    return Value::string(&rt, input.text().substr(0, end));
  }
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  if (!items.items().empty()) return items.items().front();
  return Value::undefined(&rt, "No first item, sequence was empty.");
}

Expected<Value> filter_last(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("last", args, {}).status());
  if (input.is(Kind::kGenerator)) return invalid_argument("'generator' object is not reversible");
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  if (!items.items().empty()) return items.items().back();
  return Value::undefined(&rt, "No last item, sequence was empty.");
}

Expected<Value> filter_reverse(Runtime& rt, const Value& input, Args args) {
  PARE_RETURN_IF_ERROR(bind_arguments("reverse", args, {}).status());
  const Value minus_one = Value::integer(-1);
  if (input.is_string()) return get_slice(rt, input, nullptr, nullptr, &minus_one);
  if (!is_iterable(input)) return invalid_argument("argument must be iterable");
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  PARE_RETURN_IF_ERROR(rt.step(items.items().size() * sizeof(Value)));
  std::vector<Value> reversed(items.items().rbegin(), items.items().rend());
  // Python's reversed() is an iterator; what cannot be reversed in place becomes a list first.
  if (input.is(Kind::kGenerator)) return Value::list(&rt, std::move(reversed));
  return make_generator(rt, std::move(reversed));
}

// Counts filters applied inside filters while it lives.
class FilterNesting {
 public:
  explicit FilterNesting(Runtime* runtime) : rt_(*runtime) { ++rt_.nested_filters; }
  ~FilterNesting() { --rt_.nested_filters; }
  FilterNesting(const FilterNesting&) = delete;
  FilterNesting& operator=(const FilterNesting&) = delete;

 private:
  Runtime& rt_;
};

// What take(item, &out) appends for each item of `input`, up to the first error: Python's generators raise it only
// where they are read. A limit is an error at once.
template <typename Take>
Expected<Value> generate(Runtime& rt, const Value& input, Status error, const Take& take) {
  std::vector<Value> out;
  if (error.ok()) {
    const auto items = iterate(rt, input);
    error = items.status();
    for (size_t i = 0; error.ok() && i < items->items().size(); ++i) {
      PARE_RETURN_IF_ERROR(rt.step());
      error = take(items->items()[i], &out);
    }
  }
  if (error.code() == StatusCode::kLimitExceeded) return error;
  return make_generator(rt, std::move(out), std::move(error));
}

Expected<Value> filter_map(Runtime& rt, const Value& input, Args args) {
  if (!truthy(input)) return make_generator(rt, {});
  const FilterNesting nesting(&rt);
  if (rt.nested_filters > kMaxTemplateDepth) {
    return limit_exceeded("filters inside filters deeper than " + std::to_string(kMaxTemplateDepth) + " levels");
  }
  Arguments rest;
  std::optional<AttributePath> path;
  const Filter* filter = nullptr;
  const Value* fallback = nullptr;
  Status error;
  if (args.positional.empty()) {
    for (const auto& [name, value] : args.named) {
      if (name == "attribute") {
        PARE_ASSIGN_OR_RETURN(path, optional_path(rt, &value));
        if (!path) return unsupported("map(attribute=none)");
      } else if (name == "default") {
        fallback = &value;
      } else {
        error = invalid_argument("Unexpected keyword argument '" + name + "'");
      }
    }
    if (!path) error = invalid_argument("map requires a filter argument");
  } else {
    const Value& name = args.positional[0];
    if (name.is_string()) filter = find_filter(name.text());
    if (filter == nullptr) {
      PARE_ASSIGN_OR_RETURN(const std::string shown, to_repr(rt, name));
      error = invalid_argument("No filter named " + shown + ".");
    }
    PARE_RETURN_IF_ERROR(rt.step(args.positional.size() * sizeof(Value)));
    rest.positional.assign(args.positional.begin() + 1, args.positional.end());
    rest.named = args.named;
  }
  return generate(rt, input, std::move(error), [&](const Value& item, std::vector<Value>* out) -> Status {
    PARE_ASSIGN_OR_RETURN(Value mapped, path ? path->get(rt, item, fallback) : filter->apply(rt, item, rest));
    out->push_back(std::move(mapped));
    return ok_status();
  });
}

// select, reject, selectattr, rejectattr.
template <bool by_attribute, bool keep>
Expected<Value> filter_select(Runtime& rt, const Value& input, Args args) {
  if (!truthy(input)) return make_generator(rt, {});
  std::optional<AttributePath> path;
  size_t next = 0;
  Status error;
  if (by_attribute) {
    if (args.positional.empty()) {
      error = invalid_argument("Missing parameter for attribute name");
    } else if (args.positional[0].is_none()) {
      return unsupported("selection by the attribute none");
    } else {
      PARE_ASSIGN_OR_RETURN(path, optional_path(rt, &args.positional[next++]));
    }
  }
  const Test* test = nullptr;
  Arguments rest;
  if (next < args.positional.size()) {
    const Value& name = args.positional[next++];
    if (name.is_string()) test = find_test(name.text());
    if (test == nullptr) {
      PARE_ASSIGN_OR_RETURN(const std::string shown, to_repr(rt, name));
      error = invalid_argument("No test named " + shown + ".");
    }
    rest.positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(next), args.positional.end());
    rest.named = args.named;
  }
  return generate(rt, input, std::move(error), [&](const Value& item, std::vector<Value>* out) -> Status {
    PARE_ASSIGN_OR_RETURN(const Value tested, path ? path->get(rt, item) : Expected<Value>(item));
    PARE_ASSIGN_OR_RETURN(const bool holds, test ? test->apply(rt, tested, rest) : Expected<bool>(truthy(tested)));
    if (holds == keep) out->push_back(item);
    return ok_status();
  });
}

Expected<Value> filter_sort(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("sort", args, {"reverse", "case_sensitive", "attribute"}));
  std::vector<AttributePath> paths;
  if (bound[2] && bound[2]->is_string()) {
    std::string_view rest = bound[2]->text();
    while (true) {
      const size_t comma = rest.find(',');
      PARE_ASSIGN_OR_RETURN(AttributePath path,
                            AttributePath::make(rt, Value::string(&rt, std::string(rest.substr(0, comma)))));
      paths.push_back(std::move(path));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  } else if (bound[2] && !bound[2]->is_none()) {
    PARE_ASSIGN_OR_RETURN(AttributePath path, AttributePath::make(rt, *bound[2]));
    paths.push_back(std::move(path));
  }
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  std::vector<Value> keys;
  for (const Value& item : items.items()) {
    std::vector<Value> parts;
    if (paths.empty()) {
      PARE_ASSIGN_OR_RETURN(Value key, sort_key(rt, item, std::nullopt, flag(bound[1])));
      parts.push_back(std::move(key));
    }
    for (const AttributePath& path : paths) {
      PARE_ASSIGN_OR_RETURN(Value key, sort_key(rt, item, path, flag(bound[1])));
      parts.push_back(std::move(key));
    }
    PARE_RETURN_IF_ERROR(rt.step());
    keys.push_back(Value::list(&rt, std::move(parts)));
  }
  std::vector<size_t> order;
  PARE_ASSIGN_OR_RETURN(const bool reverse, reverse_flag(bound[0]));
  PARE_RETURN_IF_ERROR(sort_by_key(rt, keys, reverse, &order));
  std::vector<Value> out;
  out.reserve(order.size());
  for (size_t i : order) out.push_back(items.items()[i]);
  return Value::list(&rt, std::move(out));
}

Expected<Value> filter_dictsort(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("dictsort", args, {"case_sensitive", "by", "reverse"}));
  const std::string by = !bound[1] ? "key" : bound[1]->is_string() ? bound[1]->text() : "";
  if (by != "key" && by != "value") return invalid_argument("You can only sort by either \"key\" or \"value\"");
  if (input.is_undefined()) return invalid_argument(input.undefined_reason());
  if (!input.is(Kind::kDict)) {
    return invalid_argument(quoted(input.type_name()) + " object has no attribute 'items'");
  }
  const auto& entries = input.dict().entries;
  std::vector<Value> keys;
  for (const auto& [key, value] : entries) {
    PARE_ASSIGN_OR_RETURN(Value part, sort_key(rt, by == "key" ? key : value, std::nullopt, flag(bound[0])));
    keys.push_back(std::move(part));
  }
  std::vector<size_t> order;
  PARE_ASSIGN_OR_RETURN(const bool reverse, reverse_flag(bound[2]));
  PARE_RETURN_IF_ERROR(sort_by_key(rt, keys, reverse, &order));
  std::vector<Value> out;
  for (size_t i : order) {
    PARE_RETURN_IF_ERROR(rt.step());
    out.push_back(Value::tuple(&rt, {entries[i].first, entries[i].second}));
  }
  return Value::list(&rt, std::move(out));
}

struct KeyOrder {
  bool operator()(const Value& a, const Value& b) const { return compare_keys(a, b) < 0; }
};

Expected<Value> filter_unique(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("unique", args, {"case_sensitive", "attribute"}));
  PARE_ASSIGN_OR_RETURN(const auto path, optional_path(rt, bound[1]));
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  std::set<Value, KeyOrder> seen;
  std::vector<Value> seen_tuples, out;
  for (const Value& item : items.items()) {
    PARE_RETURN_IF_ERROR(rt.step());
    PARE_ASSIGN_OR_RETURN(const Value key, sort_key(rt, item, path, flag(bound[0])));
    if (is_hashable(key)) {
      if (seen.insert(key).second) out.push_back(item);
      continue;
    }
    if (!key.is(Kind::kTuple)) {
      return make_generator(rt, std::move(out), invalid_argument("unhashable type: " + quoted(key.type_name())));
    }
    bool known = false;
    for (size_t i = 0; !known && i < seen_tuples.size(); ++i) {
      PARE_ASSIGN_OR_RETURN(known, equals(rt, seen_tuples[i], key));
    }
    if (known) continue;
    seen_tuples.push_back(key);
    out.push_back(item);
  }
  return make_generator(rt, std::move(out));
}

template <bool want_max>
Expected<Value> filter_extreme(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("min/max", args, {"case_sensitive", "attribute"}));
  PARE_ASSIGN_OR_RETURN(const auto path, optional_path(rt, bound[1]));
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  if (items.items().empty()) return Value::undefined(&rt, "No aggregated item, sequence was empty.");
  Value best = items.items()[0];
  PARE_ASSIGN_OR_RETURN(Value best_key, sort_key(rt, best, path, flag(bound[0])));
  for (size_t i = 1; i < items.items().size(); ++i) {
    PARE_ASSIGN_OR_RETURN(Value key, sort_key(rt, items.items()[i], path, flag(bound[0])));
    PARE_ASSIGN_OR_RETURN(const bool better, want_max ? less(rt, best_key, key) : less(rt, key, best_key));
    if (!better) continue;
    best = items.items()[i];
    best_key = std::move(key);
  }
  return best;
}

Expected<Value> filter_sum(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("sum", args, {"attribute", "start"}));
  PARE_ASSIGN_OR_RETURN(const auto path, optional_path(rt, bound[0]));
  Value total = bound[1] ? *bound[1] : Value::integer(0);
  if (total.is_string()) return invalid_argument("sum() can't sum strings [use ''.join(seq) instead]");
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  for (Value item : items.items()) {
    if (path) {
      PARE_ASSIGN_OR_RETURN(item, path->get(rt, item));
    }
    PARE_RETURN_IF_ERROR(rt.step());
    PARE_ASSIGN_OR_RETURN(total, apply_arithmetic(rt, ArithmeticOp::kAdd, total, item));
  }
  return total;
}

Expected<Value> filter_batch(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("batch", args, {"linecount", "fill_with"}, 1));
  PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt, input));
  std::vector<Value> rows, row;
  for (const Value& item : items.items()) {
    PARE_ASSIGN_OR_RETURN(const bool full, equals(rt, Value::integer(static_cast<int64_t>(row.size())), *bound[0]));
    if (full) rows.push_back(Value::list(&rt, std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (bound[1] && !bound[1]->is_none()) {
      PARE_ASSIGN_OR_RETURN(const int64_t size, to_index(*bound[0]));
      if (static_cast<int64_t>(row.size()) < size) {
        PARE_RETURN_IF_ERROR(rt.reserve_product(static_cast<uint64_t>(size), sizeof(Value)));
        row.resize(static_cast<size_t>(size), *bound[1]);
      }
    }
    rows.push_back(Value::list(&rt, std::move(row)));
  }
  return make_generator(rt, std::move(rows));
}

Expected<Value> filter_attr(Runtime& rt, const Value& input, Args args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("attr", args, {"name"}, 1));
  if (!bound[0]->is_string()) return invalid_argument("attr needs the name of an attribute");
  if (!input.is(Kind::kDict) || find_method(input, bound[0]->text())) return get_attribute(rt, input, bound[0]->text());
  return Value::undefined(&rt, "'dict object' has no attribute " + quote_python(bound[0]->text()));
}

constexpr Filter kFilters[] = {
    {"default", filter_default},
    {"d", filter_default},
    {"length", filter_length},
    {"count", filter_length},
    {"list", filter_list},
    {"items", filter_items},
    {"join", filter_join},
    {"first", filter_first},
    {"last", filter_last},
    {"reverse", filter_reverse},
    {"map", filter_map},
    {"select", filter_select<false, true>},
    {"reject", filter_select<false, false>},
    {"selectattr", filter_select<true, true>},
    {"rejectattr", filter_select<true, false>},
    {"sort", filter_sort},
    {"dictsort", filter_dictsort},
    {"unique", filter_unique},
    {"min", filter_extreme<false>},
    {"max", filter_extreme<true>},
    {"sum", filter_sum},
    {"batch", filter_batch},
    {"attr", filter_attr},
};

}  // namespace

const Filter* find_sequence_filter(std::string_view name) { return find_named(kFilters, name); }

const Filter* find_filter(std::string_view name) {
  const Filter* filter = find_sequence_filter(name);
  return filter ? filter : find_string_filter(name);
}

}  // namespace pare::jinja
