// Tests ("x is string") and the binding of arguments.
#include "text/jinja_functions.h"
#include "text/jinja_library.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

using Operands = const Arguments&;

template <bool (*predicate)(const Value&)>
Expected<bool> check(Runtime&, const Value& input, Operands args) {
  PARE_RETURN_IF_ERROR(bind_arguments("test", args, {}).status());
  return predicate(input);
}

template <Expected<bool> (*compare)(Runtime&, const Value&, const Value&), bool swap, bool negated>
Expected<bool> check_against(Runtime& rt, const Value& input, Operands args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("test", args, {"other"}, 1));
  PARE_ASSIGN_OR_RETURN(const bool holds, swap ? compare(rt, *bound[0], input) : compare(rt, input, *bound[0]));
  return holds != negated;
}

Expected<bool> modulo_is(Runtime& rt, const Value& input, const Value& divisor, int64_t remainder) {
  PARE_ASSIGN_OR_RETURN(const Value rest, apply_arithmetic(rt, ArithmeticOp::kModulo, input, divisor));
  return equals(rt, rest, Value::integer(remainder));
}

Expected<bool> check_odd(Runtime& rt, const Value& input, Operands) {
  return modulo_is(rt, input, Value::integer(2), 1);
}
Expected<bool> check_even(Runtime& rt, const Value& input, Operands) {
  return modulo_is(rt, input, Value::integer(2), 0);
}
Expected<bool> check_divisible(Runtime& rt, const Value& input, Operands args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("divisibleby", args, {"num"}, 1));
  return modulo_is(rt, input, *bound[0], 0);
}

Expected<bool> check_lower(Runtime& rt, const Value& input, Operands) {
  PARE_ASSIGN_OR_RETURN(const std::string text, to_text(rt, input));
  return is_lower(text);
}

Expected<bool> check_upper(Runtime& rt, const Value& input, Operands) {
  PARE_ASSIGN_OR_RETURN(const std::string text, to_text(rt, input));
  return is_upper(text);
}

Expected<bool> check_filter(Runtime&, const Value& input, Operands) {
  return input.is_string() && find_filter(input.text()) != nullptr;
}

Expected<bool> check_test(Runtime&, const Value& input, Operands) {
  return input.is_string() && find_test(input.text()) != nullptr;
}

// Identity, where Python's answer does not depend on how it keeps its objects.
Expected<bool> check_same(Runtime& rt, const Value& input, Operands args) {
  PARE_ASSIGN_OR_RETURN(const Bound bound, bind_arguments("sameas", args, {"other"}, 1));
  const Value& other = *bound[0];
  if (input.kind() != other.kind()) return false;
  if (input.is_none() || input.is(Kind::kBool)) return equals(rt, input, other);
  if (input.is_number() || input.is_string()) return unsupported("sameas on numbers or strings");
  return input.shared() == other.shared();
}

constexpr Test kTests[] = {
    {"defined", check<[](const Value& v) { return !v.is_undefined(); }>},
    {"undefined", check<[](const Value& v) { return v.is_undefined(); }>},
    {"none", check<[](const Value& v) { return v.is_none(); }>},
    {"boolean", check<[](const Value& v) { return v.is(Kind::kBool); }>},
    {"true", check<[](const Value& v) { return v.is(Kind::kBool) && v.as_bool(); }>},
    {"false", check<[](const Value& v) { return v.is(Kind::kBool) && !v.as_bool(); }>},
    {"integer", check<[](const Value& v) { return v.is(Kind::kInt); }>},
    {"float", check<[](const Value& v) { return v.is(Kind::kFloat); }>},
    {"number", check<[](const Value& v) { return v.is_number(); }>},
    {"string", check<[](const Value& v) { return v.is_string(); }>},
    {"mapping", check<[](const Value& v) { return v.is(Kind::kDict); }>},
    {"sequence", check<[](const Value& v) {
       return v.is_undefined() || v.is_string() || v.is(Kind::kDict) || (v.is_sequence() && !v.is(Kind::kView));
     }>},
    {"iterable", check<is_iterable>},
    {"callable",
     check<[](const Value& v) { return v.kind() >= Kind::kMacro || v.is(Kind::kLoop) || v.is_undefined(); }>},
    {"escaped", check<[](const Value& v) { return v.is_string() && v.safe(); }>},
    {"lower", check_lower},
    {"upper", check_upper},
    {"odd", check_odd},
    {"even", check_even},
    {"divisibleby", check_divisible},
    {"filter", check_filter},
    {"test", check_test},
    {"sameas", check_same},
    {"in", check_against<contains, true, false>},
    {"==", check_against<equals, false, false>},
    {"eq", check_against<equals, false, false>},
    {"equalto", check_against<equals, false, false>},
    {"!=", check_against<equals, false, true>},
    {"ne", check_against<equals, false, true>},
    {"<", check_against<less, false, false>},
    {"lt", check_against<less, false, false>},
    {"lessthan", check_against<less, false, false>},
    {"<=", check_against<less_equal, false, false>},
    {"le", check_against<less_equal, false, false>},
    {">", check_against<less, true, false>},
    {"gt", check_against<less, true, false>},
    {"greaterthan", check_against<less, true, false>},
    {">=", check_against<less_equal, true, false>},
    {"ge", check_against<less_equal, true, false>},
};

}  // namespace

const Test* find_test(std::string_view name) { return find_named(kTests, name); }

Expected<Bound> bind_arguments(std::string_view callee, const Arguments& args,
                               std::initializer_list<std::string_view> parameters, size_t required) {
  Bound bound(parameters.size(), nullptr);
  if (args.positional.size() > parameters.size()) {
    return invalid_argument(std::string(callee) + " takes at most " + std::to_string(parameters.size()) +
                            " argument(s), got " + std::to_string(args.positional.size()));
  }
  for (size_t i = 0; i < args.positional.size(); ++i) bound[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    size_t i = 0;
    while (i < parameters.size() && parameters.begin()[i] != name) ++i;
    if (i == parameters.size())
      return invalid_argument(std::string(callee) + " takes no keyword argument '" + name + "'");
    if (bound[i] != nullptr) return invalid_argument(std::string(callee) + " got '" + name + "' twice");
    bound[i] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i] == nullptr) {
      return invalid_argument(std::string(callee) + " needs the argument '" + std::string(parameters.begin()[i]) + "'");
    }
  }
  return bound;
}

}  // namespace pare::jinja
