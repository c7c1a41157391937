#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "text/jinja_library.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

constexpr std::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

Status bad_operands(ArithmeticOp op, const Value& left, const Value& right) {
  return invalid_argument("unsupported operand type(s) for " + std::string(kSymbols[static_cast<int>(op)]) + ": " +
                          quoted(left.type_name()) + " and " + quoted(right.type_name()));
}

Status overflow(ArithmeticOp op) {
  return limit_exceeded("integer result of '" + std::string(kSymbols[static_cast<int>(op)]) + "' does not fit 64 bits");
}

Status division_by_zero() { return invalid_argument("division by zero"); }

Expected<Value> from_checked(ArithmeticOp op, std::optional<int64_t> result) {
  if (!result) return overflow(op);
  return Value::integer(*result);
}

Expected<Value> integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return invalid_argument("0.0 cannot be raised to a negative power");
    return Value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  std::optional<int64_t> result = 1, square = base;
  while (exponent > 0) {
    if (exponent & 1) result = square && result ? checked_mul(*result, *square) : std::nullopt;
    if (!result) return overflow(ArithmeticOp::kPower);
    exponent >>= 1;
    if (exponent > 0) square = square ? checked_mul(*square, *square) : std::nullopt;
  }
  return Value::integer(*result);
}

Expected<Value> integer_arithmetic(ArithmeticOp op, int64_t a, int64_t b) {
  switch (op) {
    case ArithmeticOp::kAdd: return from_checked(op, checked_add(a, b));
    case ArithmeticOp::kSubtract: {
      int64_t out;
      if (__builtin_sub_overflow(a, b, &out)) return overflow(op);
      return Value::integer(out);
    }
    case ArithmeticOp::kMultiply: return from_checked(op, checked_mul(a, b));
    case ArithmeticOp::kDivide:
      if (b == 0) return division_by_zero();
      return Value::real(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
    case ArithmeticOp::kFloorDivide:
    case ArithmeticOp::kModulo: {
      if (b == 0) return division_by_zero();
      if (b == -1) {
        if (op == ArithmeticOp::kModulo) return Value::integer(0);
        return from_checked(op, checked_mul<int64_t>(a, -1));
      }
      const bool inexact = a % b != 0 && ((a < 0) != (b < 0));
      return Value::integer(op == ArithmeticOp::kModulo ? a % b + (inexact ? b : 0) : a / b - (inexact ? 1 : 0));
    }
    case ArithmeticOp::kPower: return integer_power(a, b);
  }
  return internal_error("arithmetic operator");
}

Expected<Value> real_arithmetic(ArithmeticOp op, double a, double b) {
  switch (op) {
    case ArithmeticOp::kAdd: return Value::real(a + b);
    case ArithmeticOp::kSubtract: return Value::real(a - b);
    case ArithmeticOp::kMultiply: return Value::real(a * b);
    case ArithmeticOp::kDivide:
      if (b == 0) return division_by_zero();
      return Value::real(a / b);
    case ArithmeticOp::kFloorDivide:
    case ArithmeticOp::kModulo: {
      if (b == 0) return division_by_zero();
      double remainder = std::fmod(a, b);
      double quotient = (a - remainder) / b;
      if (remainder != 0) {
        if ((b < 0) != (remainder < 0)) {
          remainder += b;
          quotient -= 1;
        }
      } else {
        remainder = std::copysign(0.0, b);
      }
      if (op == ArithmeticOp::kModulo) return Value::real(remainder);
      if (quotient == 0) return Value::real(std::copysign(0.0, a / b));
      const double floored = std::floor(quotient);
      return Value::real(quotient - floored > 0.5 ? floored + 1 : floored);
    }
    case ArithmeticOp::kPower: {
      if (a == 0 && b < 0) return invalid_argument("0.0 cannot be raised to a negative power");
      if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::floor(b)) {
        return unsupported("power of a negative number with a fraction (a complex number in Python)");
      }
      const double result = std::pow(a, b);
      if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) return limit_exceeded("float power out of range");
      return Value::real(result);
    }
  }
  return internal_error("arithmetic operator");
}

Expected<Value> add_strings(Runtime& rt, const Value& left, const Value& right) {
  PARE_RETURN_IF_ERROR(rt.step(left.text().size() + right.text().size()));
  // Markup + str escapes the str, on either side.
  const bool safe = left.safe() || right.safe();
  const std::string a = safe && !left.safe() ? escape_html(left.text()) : left.text();
  const std::string b = safe && !right.safe() ? escape_html(right.text()) : right.text();
  return Value::string(&rt, a + b, safe);
}

Expected<Value> add_sequences(Runtime& rt, const Value& left, const Value& right) {
  PARE_RETURN_IF_ERROR(rt.step(sizeof(Value) * (left.items().size() + right.items().size())));
  std::vector<Value> items;
  items.reserve(left.items().size() + right.items().size());
  items.insert(items.end(), left.items().begin(), left.items().end());
  items.insert(items.end(), right.items().begin(), right.items().end());
  return left.is(Kind::kList) ? Value::list(&rt, std::move(items)) : Value::tuple(&rt, std::move(items));
}

Expected<Value> repeat(Runtime& rt, const Value& value, int64_t count) {
  const uint64_t n = count > 0 ? static_cast<uint64_t>(count) : 0;
  if (value.is_string()) {
    PARE_RETURN_IF_ERROR(rt.reserve_product(n, value.text().size()));
    PARE_RETURN_IF_ERROR(rt.step(n * value.text().size()));
    return Value::string(&rt, repeat_text(value.text(), n), value.safe());
  }
  PARE_RETURN_IF_ERROR(rt.reserve_product(n, value.items().size() * sizeof(Value)));
  PARE_RETURN_IF_ERROR(rt.step(n * value.items().size() * sizeof(Value)));
  std::vector<Value> out;
  if (!value.items().empty()) {
    out.reserve(n * value.items().size());
    for (uint64_t i = 0; i < n; ++i) out.insert(out.end(), value.items().begin(), value.items().end());
  }
  return value.is(Kind::kList) ? Value::list(&rt, std::move(out)) : Value::tuple(&rt, std::move(out));
}

bool is_list_or_tuple(const Value& value) { return value.is(Kind::kList) || value.is(Kind::kTuple); }
bool is_repeatable(const Value& value) { return value.is_string() || is_list_or_tuple(value); }

Expected<bool> equal_sequences(Runtime& rt, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    PARE_ASSIGN_OR_RETURN(const bool same, equals(rt, a[i], b[i]));
    if (!same) return false;
  }
  return true;
}

Expected<bool> equal_dicts(Runtime& rt, const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key);
    if (other == nullptr) return false;
    PARE_ASSIGN_OR_RETURN(const bool same, equals(rt, value, *other));
    if (!same) return false;
  }
  return true;
}

bool is_nan(const Value& value) { return value.is(Kind::kFloat) && std::isnan(value.as_real()); }

// a < b, or a <= b where `or_equal`.
Expected<bool> ordered(Runtime& rt, const Value& a, const Value& b, bool or_equal, std::string_view symbol) {
  PARE_RETURN_IF_ERROR(rt.step());
  if (a.is_undefined()) return invalid_argument(a.undefined_reason());
  if (b.is_undefined()) return invalid_argument(b.undefined_reason());
  if (a.is_number() && b.is_number()) {
    if (is_nan(a) || is_nan(b)) return false;
    const int order = compare_keys(a, b);
    return order < 0 || (or_equal && order == 0);
  }
  if (a.is_string() && b.is_string()) {
    PARE_RETURN_IF_ERROR(rt.step(std::min(a.text().size(), b.text().size())));
    const int order = a.text().compare(b.text());
    return order < 0 || (or_equal && order == 0);
  }
  if (is_list_or_tuple(a) && a.kind() == b.kind()) {
    const auto &x = a.items(), &y = b.items();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      PARE_ASSIGN_OR_RETURN(const bool same, equals(rt, x[i], y[i]));
      if (!same) return ordered(rt, x[i], y[i], or_equal, symbol);
    }
    return x.size() < y.size() || (or_equal && x.size() == y.size());
  }
  return invalid_argument(quoted(symbol) + " not supported between instances of " + quoted(a.type_name()) + " and " +
                          quoted(b.type_name()));
}

std::string describe_missing(const Value& object, std::string_view name) {
  return quoted(std::string(object.type_name()) + " object") + " has no attribute " + quote_python(name);
}

// Attributes that are not methods; absent: false.
Expected<bool> get_loop_attribute(Runtime& rt, const LoopObject& loop, std::string_view name, Value* out) {
  const size_t position = loop.position;
  const auto integer = [](size_t i) { return Value::integer(static_cast<int64_t>(i)); };
  if (name == "index") {
    *out = integer(position + 1);
  } else if (name == "index0") {
    *out = integer(position);
  } else if (name == "first") {
    *out = Value::boolean(position == 0);
  } else if (name == "depth") {
    *out = integer(1);
  } else if (name == "depth0") {
    *out = integer(0);
  } else if (name == "previtem") {
    *out = position == 0 ? Value::undefined(&rt, "there is no previous item") : loop.items[position - 1];
  } else if (name == "last" || name == "nextitem") {
    PARE_RETURN_IF_ERROR(loop.take(position + 2));
#ifdef PARE_FAULT_TEMPLATE_LOOP_LAST
    const bool last = position + 2 >= loop.items.size();
#else
    const bool last = position + 1 >= loop.items.size();
#endif
    *out = name == "last" ? Value::boolean(last)
           : last         ? Value::undefined(&rt, "there is no next item")
                          : loop.items[position + 1];
  } else if (name == "length" || name == "revindex" || name == "revindex0") {
    PARE_RETURN_IF_ERROR(loop.take(SIZE_MAX));
    const size_t size = loop.items.size();
    *out = integer(name == "length" ? size : size - position - (name == "revindex" ? 0 : 1));
  } else {
    return false;
  }
  return true;
}

// What Python's getattr finds.
Expected<bool> find_attribute(Runtime& rt, const Value& object, std::string_view name, Value* out) {
  if (object.is(Kind::kNamespace)) {
    const Value* value = object.as<NamespaceObject>().find(name);
    if (value != nullptr) *out = *value;
    return value != nullptr;
  }
  if (object.is(Kind::kLoop)) {
    PARE_ASSIGN_OR_RETURN(const bool found, get_loop_attribute(rt, object.as<LoopObject>(), name, out));
    if (found) return true;
  }
  if (object.is(Kind::kRange)) {
    const RangeObject& range = object.as<RangeObject>();
    if (name == "start" || name == "stop" || name == "step") {
      *out = Value::integer(name == "start" ? range.start : name == "stop" ? range.stop : range.step);
      return true;
    }
  }
  if (const Method* method = find_method(object, name)) {
    *out = Value::object(Kind::kMethod, std::make_shared<MethodObject>(&rt, object, method));
    return true;
  }
  if (is_mutating_method(object, name)) {
    *out = Value::undefined(
        &rt, "access to attribute " + quote_python(name) + " of " + quoted(object.type_name()) + " object is unsafe.");
    return true;
  }
  return false;
}

// object[key]; false where Python raises a LookupError or TypeError.
bool find_item(Runtime& rt, const Value& object, const Value& key, Value* out) {
  if (object.is(Kind::kDict)) {
    const Value* value = is_hashable(key) ? object.dict().find(key) : nullptr;
    if (value != nullptr) *out = *value;
    return value != nullptr;
  }
  if (!key.is_integral() || (!object.is_string() && !object.is_sequence()) || object.is(Kind::kView)) return false;
  int64_t index = key.as_integer();
  if (object.is_string()) {
    const int64_t size = count_code_points(object.text());
    if (index < 0) index += size;
    if (index < 0 || index >= size) return false;
    const size_t begin = byte_offset(object.text(), index);
    size_t end = begin;
    next_code_point(object.text(), &end);
    *out = Value::string(&rt, object.text().substr(begin, end - begin), object.safe());
    return true;
  }
  const int64_t size = static_cast<int64_t>(object.items().size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) return false;
  *out = object.items()[static_cast<size_t>(index)];
  return true;
}

struct SliceRange {
  int64_t start, stop, step, count;
};

Expected<int64_t> slice_bound(const Value& bound) {
  if (!bound.is_integral())
    return invalid_argument("slice indices must be integers or None or have an __index__ method");
  return bound.as_integer();
}

// slice.indices(size) of Python.
Expected<SliceRange> resolve_slice(int64_t size, const Value* start, const Value* stop, const Value* step) {
  const auto given = [](const Value* v) { return v != nullptr && !v->is_none(); };
  int64_t by = 1;
  if (given(step)) {
    PARE_ASSIGN_OR_RETURN(by, slice_bound(*step));
    if (by == 0) return invalid_argument("slice step cannot be zero");
    by = std::clamp<int64_t>(by, -INT64_MAX, INT64_MAX);
  }
  const int64_t lowest = by < 0 ? -1 : 0, highest = by < 0 ? size - 1 : size;
  const auto clamp = [&](const Value* v, int64_t fallback) -> Expected<int64_t> {
    if (!given(v)) return fallback;
    PARE_ASSIGN_OR_RETURN(int64_t at, slice_bound(*v));
    if (at < 0) at = at < -size ? lowest : at + size;
    return std::clamp(at, lowest, highest);
  };
  PARE_ASSIGN_OR_RETURN(const int64_t first, clamp(start, by < 0 ? highest : lowest));
  PARE_ASSIGN_OR_RETURN(const int64_t last, clamp(stop, by < 0 ? lowest : highest));
  int64_t count = 0;
  if (by > 0 && first < last) count = (last - first - 1) / by + 1;
  if (by < 0 && last < first) count = (first - last - 1) / -by + 1;
  return SliceRange{first, last, by, count};
}

std::string slice_text(std::string_view text, const SliceRange& range) {
  if (range.count == 0) return "";
  if (range.step == 1) {
    const size_t begin = byte_offset(text, range.start);
    return std::string(text.substr(begin, byte_offset(text.substr(begin), range.count)));
  }
  std::vector<char32_t> points;
  for (size_t i = 0; i < text.size();) points.push_back(next_code_point(text, &i));
  std::string out;
  for (int64_t i = 0, at = range.start; i < range.count; ++i) {
    append_utf8(&out, points[static_cast<size_t>(at)]);
    if (i + 1 < range.count) at += range.step;
  }
  return out;
}

}  // namespace

Expected<Value> apply_arithmetic(Runtime& rt, ArithmeticOp op, const Value& left, const Value& right) {
  if (left.is_undefined()) return invalid_argument(left.undefined_reason());
  if (op == ArithmeticOp::kModulo && left.is_string()) {
    PARE_ASSIGN_OR_RETURN(std::string text, format_percent(rt, left.text(), right, left.safe()));
    return Value::string(&rt, std::move(text), left.safe());
  }
  if (right.is_undefined()) return invalid_argument(right.undefined_reason());
  if (left.is_integral() && right.is_integral()) return integer_arithmetic(op, left.as_integer(), right.as_integer());
  if (left.is_number() && right.is_number()) return real_arithmetic(op, left.as_real(), right.as_real());
  if (op == ArithmeticOp::kAdd) {
    if (left.is_string() && right.is_string()) return add_strings(rt, left, right);
    if (is_list_or_tuple(left) && left.kind() == right.kind()) return add_sequences(rt, left, right);
    if (left.is_string()) {
      return invalid_argument("can only concatenate str (not " + std::string("\"") + std::string(right.type_name()) +
                              "\") to str");
    }
  }
  if (op == ArithmeticOp::kMultiply) {
    if (is_repeatable(left) && right.is_integral()) return repeat(rt, left, right.as_integer());
    if (is_repeatable(right) && left.is_integral()) return repeat(rt, right, left.as_integer());
  }
  return bad_operands(op, left, right);
}

Expected<Value> negate(const Value& value) {
  if (value.is_undefined()) return invalid_argument(value.undefined_reason());
  if (value.is(Kind::kFloat)) return Value::real(-value.as_real());
  if (!value.is_integral()) return invalid_argument("bad operand type for unary -: " + quoted(value.type_name()));
  return from_checked(ArithmeticOp::kSubtract, checked_mul<int64_t>(value.as_integer(), -1));
}

Expected<bool> equals(Runtime& rt, const Value& left, const Value& right) {
  PARE_RETURN_IF_ERROR(rt.step());
  if (left.is_number() && right.is_number()) {
    return !is_nan(left) && !is_nan(right) && compare_keys(left, right) == 0;
  }
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return true;
    case Kind::kString:
      PARE_RETURN_IF_ERROR(rt.step(std::min(left.text().size(), right.text().size())));
      return left.text() == right.text();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange: return equal_sequences(rt, left.items(), right.items());
    case Kind::kDict: return equal_dicts(rt, left.dict(), right.dict());
    case Kind::kView: return unsupported("comparison of " + std::string(left.type_name()));
    default: return left.shared() == right.shared();
  }
}

Expected<bool> less(Runtime& rt, const Value& left, const Value& right) { return ordered(rt, left, right, false, "<"); }

Expected<bool> less_equal(Runtime& rt, const Value& left, const Value& right) {
  return ordered(rt, left, right, true, "<=");
}

Expected<bool> contains(Runtime& rt, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      return invalid_argument("'in <string>' requires string as left operand, not " + std::string(item.type_name()));
    }
    PARE_RETURN_IF_ERROR(rt.step(container.text().size()));
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.is(Kind::kDict)) {
    if (!is_hashable(item)) return invalid_argument("unhashable type: " + quoted(item.type_name()));
    return container.dict().find(item) != nullptr;
  }
  if (!is_iterable(container)) {
    return invalid_argument("argument of type " + quoted(container.type_name()) + " is not iterable");
  }
  PARE_ASSIGN_OR_RETURN(const Value sequence, iterate(rt, container));
  for (const Value& candidate : sequence.items()) {
    PARE_ASSIGN_OR_RETURN(const bool same, equals(rt, candidate, item));
    if (same) return true;
  }
  return false;
}

Expected<Value> get_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (object.is_undefined()) return invalid_argument(object.undefined_reason());
  Value out;
  PARE_ASSIGN_OR_RETURN(const bool found, find_attribute(rt, object, name, &out));
  if (found) return out;
  if (object.is(Kind::kDict)) {
    const Value* value = object.dict().find(name);
    if (value != nullptr) return *value;
  }
  return Value::undefined(&rt, describe_missing(object, name));
}

Expected<Value> get_item(Runtime& rt, const Value& object, const Value& key) {
  if (object.is_undefined()) return invalid_argument(object.undefined_reason());
  if (object.is_string()) PARE_RETURN_IF_ERROR(rt.step(object.text().size()));
  Value out;
  if (find_item(rt, object, key, &out)) return out;
  if (key.is_string()) {
    PARE_ASSIGN_OR_RETURN(const bool found, find_attribute(rt, object, key.text(), &out));
    if (found) return out;
    return Value::undefined(&rt, describe_missing(object, key.text()));
  }
  PARE_ASSIGN_OR_RETURN(const std::string shown, to_repr(rt, key));
  return Value::undefined(&rt, quoted(object.type_name()) + " object has no element " + shown);
}

Expected<Value> get_slice(Runtime& rt, const Value& object, const Value* start, const Value* stop, const Value* step) {
  if (object.is_undefined()) return invalid_argument(object.undefined_reason());
  const bool sequence = object.is_sequence() && !object.is(Kind::kView);
  if (!object.is_string() && !sequence) {
    return invalid_argument(quoted(object.type_name()) + " object is not subscriptable by a slice");
  }
  PARE_ASSIGN_OR_RETURN(const int64_t size, length(rt, object));
  PARE_ASSIGN_OR_RETURN(const SliceRange range, resolve_slice(size, start, stop, step));
  if (object.is_string()) {
    PARE_RETURN_IF_ERROR(rt.reserve(range.step == 1 ? 0 : object.text().size() * sizeof(char32_t)));
    PARE_RETURN_IF_ERROR(rt.step(object.text().size()));
    return Value::string(&rt, slice_text(object.text(), range), object.safe());
  }
  PARE_RETURN_IF_ERROR(rt.step(static_cast<uint64_t>(range.count) * sizeof(Value)));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(range.count));
  for (int64_t i = 0; i < range.count; ++i) {
    items.push_back(object.items()[static_cast<size_t>(range.start + i * range.step)]);
  }
  if (object.is(Kind::kRange)) {
    const RangeObject& whole = object.as<RangeObject>();
    const int64_t first = whole.start + range.start * whole.step;
    const int64_t by = checked_mul(whole.step, range.step).value_or(whole.step);
    const int64_t last = whole.start + range.stop * whole.step;
    return Value::object(Kind::kRange, std::make_shared<RangeObject>(&rt, std::move(items), first, last, by));
  }
  return object.is(Kind::kList) ? Value::list(&rt, std::move(items)) : Value::tuple(&rt, std::move(items));
}

Expected<int64_t> length(Runtime& rt, const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) {
    PARE_RETURN_IF_ERROR(rt.step(value.text().size()));
    return count_code_points(value.text());
  }
  if (value.is_sequence()) return static_cast<int64_t>(value.items().size());
  if (value.is(Kind::kDict)) return static_cast<int64_t>(value.dict().entries.size());
  if (value.is(Kind::kLoop)) {
    PARE_RETURN_IF_ERROR(value.as<LoopObject>().take(SIZE_MAX));
    return static_cast<int64_t>(value.as<LoopObject>().items.size());
  }
  return invalid_argument("object of type " + quoted(value.type_name()) + " has no len()");
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_sequence() || value.is(Kind::kDict) ||
         value.is(Kind::kGenerator);
}

Expected<Value> iterate(Runtime& rt, const Value& value) {
  if (value.is_sequence()) return value;
  std::vector<Value> items;
  if (value.is_string()) {
    for (size_t i = 0; i < value.text().size();) {
      PARE_RETURN_IF_ERROR(rt.step());
      const size_t begin = i;
      next_code_point(value.text(), &i);
      items.push_back(Value::string(&rt, value.text().substr(begin, i - begin)));
    }
  } else if (value.is(Kind::kDict)) {
    PARE_RETURN_IF_ERROR(rt.step(sizeof(Value) * value.dict().entries.size()));
    for (const auto& entry : value.dict().entries) items.push_back(entry.first);
  } else if (value.is(Kind::kGenerator)) {
    const GeneratorObject& generator = value.as<GeneratorObject>();
    PARE_RETURN_IF_ERROR(rt.step(sizeof(Value) * generator.items.size()));
    const size_t size = generator.items.size();
    const bool finished = generator.next > size;
    items.assign(generator.items.begin() + static_cast<std::ptrdiff_t>(std::min(generator.next, size)),
                 generator.items.end());
    generator.next = size + 1;
    if (!finished) PARE_RETURN_IF_ERROR(generator.error);
  } else if (!value.is_undefined()) {
    return invalid_argument(quoted(value.type_name()) + " object is not iterable");
  }
  return Value::list(&rt, std::move(items));
}

}  // namespace pare::jinja
