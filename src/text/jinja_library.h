// Filters, tests, methods and operators of the template language. Filters and tests are plain functions in
// tables that the parser looks up once.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace pare::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments by parameter: null where none was given.
using Bound = std::vector<const Value*>;
// Fails on too many, unknown, repeated, or (the first `required`) missing arguments.
Expected<Bound> bind_arguments(std::string_view callee, const Arguments& args,
                               std::initializer_list<std::string_view> parameters, size_t required = 0);

struct Filter {
  std::string_view name;
  Expected<Value> (*apply)(Runtime& rt, const Value& input, const Arguments& args);
};

struct Test {
  std::string_view name;
  Expected<bool> (*apply)(Runtime& rt, const Value& input, const Arguments& args);
};

struct Method {
  std::string_view name;
  Expected<Value> (*apply)(Runtime& rt, const Value& self, const Arguments& args);
};

struct MethodObject : Object {
  MethodObject(Runtime* runtime, Value object, const Method* entry)
      : Object(runtime, sizeof(MethodObject)), self(std::move(object)), method(entry) {
    depth = 1 + self.depth();
  }
  const Value self;
  const Method* const method;
};

// The entry of a table by its name; null where there is none.
template <typename Entry, size_t N>
const Entry* find_named(const Entry (&table)[N], std::string_view name) {
  for (const Entry& entry : table) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);
// Methods that do not change their object; is_mutating_method names those that the sandbox refuses.
const Method* find_method(const Value& self, std::string_view name);
bool is_mutating_method(const Value& self, std::string_view name);

// The tables, by file.
const Filter* find_string_filter(std::string_view name);
const Filter* find_sequence_filter(std::string_view name);

// ---- jinja_operators.cc: Python's operators. Errors are Python's, without a place.
enum class ArithmeticOp : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
Expected<Value> apply_arithmetic(Runtime& rt, ArithmeticOp op, const Value& left, const Value& right);
Expected<Value> negate(const Value& value);
Expected<bool> equals(Runtime& rt, const Value& left, const Value& right);
// left < right.
Expected<bool> less(Runtime& rt, const Value& left, const Value& right);
Expected<bool> less_equal(Runtime& rt, const Value& left, const Value& right);
Expected<bool> contains(Runtime& rt, const Value& container, const Value& item);
// object.name and object[key] as the sandbox resolves them: undefined where there is nothing.
Expected<Value> get_attribute(Runtime& rt, const Value& object, std::string_view name);
Expected<Value> get_item(Runtime& rt, const Value& object, const Value& key);
// Absent bounds are null.
Expected<Value> get_slice(Runtime& rt, const Value& object, const Value* start, const Value* stop, const Value* step);
// len(value).
Expected<int64_t> length(Runtime& rt, const Value& value);
bool is_iterable(const Value& value);
// Everything that iterating `value` yields, as a sequence value; uses up generators.
Expected<Value> iterate(Runtime& rt, const Value& value);

// ---- jinja_format.cc
// str(value), repr(value), json.dumps(value, ensure_ascii=False, indent=indent) of Python.
Expected<std::string> to_text(Runtime& rt, const Value& value);
Expected<std::string> to_repr(Runtime& rt, const Value& value);
struct JsonStyle {
  bool has_indent = false;
  std::string indent;
  bool has_separators = false;
  std::string item_separator, key_separator;
  bool ensure_ascii = false, sort_keys = false;
};
Expected<std::string> to_json(Runtime& rt, const Value& value, const JsonStyle& style);
// str.__mod__ and str.format.
Expected<std::string> format_percent(Runtime& rt, std::string_view format, const Value& operand, bool escape);
Expected<std::string> format_braces(Runtime& rt, std::string_view format, const Arguments& args, bool escape);

// ---- jinja_json.cc
// A JSON document as a value. Bounds: kMaxJsonBytes, kMaxJsonDepth, the runtime's memory.
Expected<Value> parse_json(Runtime& rt, std::string_view name, std::string_view text);

}  // namespace pare::jinja
