#include "text/jinja_functions.h"

#include <algorithm>

#include "base/checked.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // of Jinja's sandbox

struct JoinerObject : Object {
  JoinerObject(Runtime* runtime, Value text) : Object(runtime, sizeof(JoinerObject)), separator(std::move(text)) {}
  const Value separator;
  mutable bool used = false;
};

Expected<Value> make_range(Runtime& rt, const Arguments& args) {
  if (!args.named.empty()) return invalid_argument("range() takes no keyword arguments");
  const size_t count = args.positional.size();
  if (count == 0 || count > 3) return invalid_argument("range expected 1 to 3 arguments, got " + std::to_string(count));
  for (const Value& value : args.positional) {
    if (value.is_undefined()) return invalid_argument(value.undefined_reason());
    if (!value.is_integral()) {
      return invalid_argument(quoted(value.type_name()) + " object cannot be interpreted as an integer");
    }
  }
  const int64_t start = count > 1 ? args.positional[0].as_integer() : 0;
  const int64_t stop = args.positional[count > 1 ? 1 : 0].as_integer();
  const int64_t by = count > 2 ? args.positional[2].as_integer() : 1;
  if (by == 0) return invalid_argument("range() arg 3 must not be zero");
  // Widths of int64 ranges fit uint64; so does the magnitude of any step.
  const uint64_t magnitude = by > 0 ? static_cast<uint64_t>(by) : uint64_t{0} - static_cast<uint64_t>(by);
  uint64_t size = 0;
  if (by > 0 && start < stop) size = (static_cast<uint64_t>(stop) - static_cast<uint64_t>(start) - 1) / magnitude + 1;
  if (by < 0 && start > stop) size = (static_cast<uint64_t>(start) - static_cast<uint64_t>(stop) - 1) / magnitude + 1;
  if (size > static_cast<uint64_t>(kMaxRange)) {
    return limit_exceeded("Range too big. The sandbox blocks ranges larger than MAX_RANGE (" +
                          std::to_string(kMaxRange) + ").");
  }
  PARE_RETURN_IF_ERROR(rt.step(size * sizeof(Value)));
  std::vector<Value> items;
  items.reserve(size);
  for (uint64_t i = 0; i < size; ++i) {
    items.push_back(Value::integer(static_cast<int64_t>(static_cast<uint64_t>(start) + i * static_cast<uint64_t>(by))));
  }
  return Value::object(Kind::kRange, std::make_shared<RangeObject>(&rt, std::move(items), start, stop, by));
}

// The entries of dict(...) and namespace(...): an optional mapping or list of pairs, then keywords.
Expected<std::vector<DictObject::Entry>> collect_entries(Runtime& rt, std::string_view callee, const Arguments& args) {
  std::vector<DictObject::Entry> entries;
  if (args.positional.size() > 1) {
    return invalid_argument(std::string(callee) + " expected at most 1 argument, got " +
                            std::to_string(args.positional.size()));
  }
  if (!args.positional.empty()) {
    const Value& first = args.positional[0];
    if (first.is(Kind::kDict)) {
      PARE_RETURN_IF_ERROR(rt.step(first.dict().entries.size() * sizeof(DictObject::Entry)));
      entries = first.dict().entries;
    } else {
      PARE_ASSIGN_OR_RETURN(const Value pairs, iterate(rt, first));
      for (const Value& pair : pairs.items()) {
        PARE_RETURN_IF_ERROR(rt.step());
        if (!is_iterable(pair))
          return invalid_argument("cannot convert dictionary update sequence element to a sequence");
        PARE_ASSIGN_OR_RETURN(const Value both, iterate(rt, pair));
        if (both.items().size() != 2)
          return invalid_argument("dictionary update sequence element does not have length 2");
        if (!is_hashable(both.items()[0])) {
          return invalid_argument("unhashable type: '" + std::string(both.items()[0].type_name()) + "'");
        }
        entries.emplace_back(both.items()[0], both.items()[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) entries.emplace_back(Value::string(&rt, name), value);
  return entries;
}

Expected<Value> call_dict(Runtime& rt, const Arguments& args) {
  PARE_ASSIGN_OR_RETURN(auto entries, collect_entries(rt, "dict", args));
  return make_dict(&rt, std::move(entries));
}

Expected<Value> call_namespace(Runtime& rt, const Arguments& args) {
  PARE_ASSIGN_OR_RETURN(auto entries, collect_entries(rt, "namespace", args));
  const auto ns = std::make_shared<NamespaceObject>(&rt);
  for (auto& [key, value] : entries) {
    if (!key.is_string()) return unsupported("a namespace attribute that is no string");
    ns->set(key.text(), std::move(value));
  }
  return Value::object(Kind::kNamespace, ns);
}

Expected<Value> call_joiner(Runtime& rt, const Arguments& args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("joiner", args, {"sep"}));
  const Value separator = bound[0] ? *bound[0] : Value::string(&rt, ", ");
  if (separator.depth() > 0) return unsupported("a joiner of something else than text");
  return Value::object(Kind::kJoiner, std::make_shared<JoinerObject>(&rt, separator));
}

Expected<Value> call_raise_exception(Runtime& rt, const Arguments& args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("raise_exception", args, {"message"}, 1));
  PARE_ASSIGN_OR_RETURN(std::string message, to_text(rt, *bound[0]));
  return Value::string(&rt, std::move(message));
}

Expected<Value> call_strftime_now(Runtime& rt, const Arguments& args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("strftime_now", args, {"format"}, 1));
  if (!bound[0]->is_string())
    return invalid_argument("strftime() argument 1 must be str, not " + std::string(bound[0]->type_name()));
  std::string text = rt.now(bound[0]->text());
  if (find_invalid_utf8(text) != std::string::npos) return invalid_argument("strftime_now gave text that is not UTF-8");
  return Value::string(&rt, std::move(text));
}

constexpr Function kFunctions[] = {
    {"range", make_range},
    {"dict", call_dict},
    {"namespace", call_namespace},
    {"joiner", call_joiner},
    {"raise_exception", call_raise_exception, true},
    {"strftime_now", call_strftime_now},
};

}  // namespace

const Function* find_function(std::string_view name) { return find_named(kFunctions, name); }

Expected<Value> call_joiner_object(Runtime& rt, const Value& self, const Arguments& args) {
  if (!args.positional.empty() || !args.named.empty()) return invalid_argument("a joiner takes no arguments");
  const JoinerObject& joiner = self.as<JoinerObject>();
  if (joiner.used) return joiner.separator;
  joiner.used = true;
  return Value::string(&rt, "");
}

}  // namespace pare::jinja
