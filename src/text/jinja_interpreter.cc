#include "text/jinja_interpreter.h"

#include <algorithm>
#include <map>
#include <optional>

#include "base/checked.h"
#include "text/jinja_functions.h"
#include "text/jinja_lexer.h"
#include "text/jinja_library.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

// Calls of eval and exec inside each other, over all macros: bounds the machine's stack.
constexpr int kMaxEvalDepth = 1'500;

struct Scope {
  std::shared_ptr<Scope> parent;
  bool captured = false;  // a macro refers to it
  std::map<std::string, Value, std::less<>> variables;
};
using ScopePtr = std::shared_ptr<Scope>;

struct MacroObject : Object {
  MacroObject(Runtime* runtime, const Statement* statement, ScopePtr defined_in)
      : Object(runtime, sizeof(MacroObject)), definition(statement), scope(std::move(defined_in)) {}
  const Statement* const definition;
  const ScopePtr scope;
};

enum class Flow : uint8_t { kNormal, kBreak, kContinue };

// Output of a block that becomes a value; its bytes count as memory while it grows.
struct Output {
  explicit Output(Runtime* runtime) : memory(runtime, 0) {}
  std::string text;
  MemoryCharge memory;
};

class Interpreter {
 public:
  explicit Interpreter(Runtime* runtime) : rt_(*runtime) {}

  ~Interpreter() {
    // Scopes and namespaces may refer to themselves through macros and attributes: emptying each breaks the
    // rings.
    for (const ScopePtr& scope : captured_) scope->variables.clear();
    for (const auto& ns : namespaces_) ns->attributes.clear();
  }

  Expected<std::string> run(const Block& body, std::vector<std::pair<std::string, Value>>&& variables) {
    auto scope = std::make_shared<Scope>();
    for (auto& [name, value] : variables) scope->variables.insert_or_assign(name, std::move(value));
    Output output(&rt_);
    PARE_RETURN_IF_ERROR(exec_block(body, scope, &output).status());
    return std::move(output.text);
  }

 private:
  // ---- errors and limits
  Status locate(Status status, Position position) {
    if (located_ || status.ok()) return status;
    located_ = true;
    return Status(status.code(), std::string(error_at(position, status.message()).message()));
  }

  template <typename T>
  Expected<T> locate(Expected<T> result, Position position) {
    if (result.ok()) return result;
    return locate(result.status(), position);
  }

  class Depth {
   public:
    explicit Depth(int* depth) : depth_(depth) { ++*depth_; }
    ~Depth() { --*depth_; }

   private:
    int* depth_;
  };

  Status enter() {
    if (depth_ > kMaxEvalDepth) {
      return limit_exceeded("template nests its evaluation deeper than " + std::to_string(kMaxEvalDepth) + " levels");
    }
    return rt_.step();
  }

  Status emit(std::string_view text, Output* output) {
    if (output->text.size() + text.size() > static_cast<size_t>(kMaxTemplateOutputBytes)) {
      return limit_exceeded("template output is longer than " + std::to_string(kMaxTemplateOutputBytes) + " bytes");
    }
    output->memory.grow(static_cast<int64_t>(text.size()));
    output->text += text;
    return rt_.step(text.size());
  }

  Expected<Value> checked_depth(Value value) {
    if (value.depth() <= kMaxValueDepth) return value;
    return limit_exceeded("value nested deeper than " + std::to_string(kMaxValueDepth) + " levels");
  }

  static ScopePtr inner(const ScopePtr& scope) {
    auto out = std::make_shared<Scope>();
    out->parent = scope;
    return out;
  }

  // ---- statements
  Expected<Flow> exec_block(const Block& block, const ScopePtr& scope, Output* output) {
    for (const auto& statement : block) {
      const Depth depth(&depth_);
      PARE_RETURN_IF_ERROR(locate(enter(), statement->position));
      PARE_ASSIGN_OR_RETURN(const Flow flow, locate(exec(*statement, scope, output), statement->position));
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  Expected<Flow> exec(const Statement& statement, const ScopePtr& scope, Output* output) {
    switch (statement.kind) {
      case StatementKind::kText: PARE_RETURN_IF_ERROR(emit(statement.text, output)); break;
      case StatementKind::kPrint: {
        PARE_ASSIGN_OR_RETURN(const Value value, eval(*statement.expr, scope));
        if (value.is_string()) {
          PARE_RETURN_IF_ERROR(emit(value.text(), output));
        } else {
          PARE_ASSIGN_OR_RETURN(const std::string text, to_text(rt_, value));
          PARE_RETURN_IF_ERROR(emit(text, output));
        }
        break;
      }
      case StatementKind::kIf: return exec_if(statement, scope, output);
      case StatementKind::kFor: return exec_for(statement, scope, output);
      case StatementKind::kBreak: return Flow::kBreak;
      case StatementKind::kContinue: return Flow::kContinue;
      case StatementKind::kSet: {
        PARE_ASSIGN_OR_RETURN(const Value value, eval(*statement.expr, scope));
        PARE_RETURN_IF_ERROR(assign(*statement.target, value, scope));
        break;
      }
      case StatementKind::kSetBlock: return exec_set_block(statement, scope);
      case StatementKind::kMacro:
        scope->variables.insert_or_assign(statement.text, make_macro(statement, scope));
        break;
      case StatementKind::kCallBlock: return exec_call_block(statement, scope, output);
      case StatementKind::kFilterBlock: {
        Output body(&rt_);
        PARE_ASSIGN_OR_RETURN(const Flow flow, exec_block(statement.body, inner(scope), &body));
        if (flow != Flow::kNormal) return flow;
        const Value text = Value::string(&rt_, std::move(body.text));
        PARE_ASSIGN_OR_RETURN(const Value filtered, eval_filter(*statement.expr, scope, &text));
        PARE_ASSIGN_OR_RETURN(const std::string shown, to_text(rt_, filtered));
        PARE_RETURN_IF_ERROR(emit(shown, output));
        break;
      }
      case StatementKind::kWith: {
        const ScopePtr body = inner(scope);
        for (const auto& [target, expr] : statement.assignments) {
          PARE_ASSIGN_OR_RETURN(const Value value, eval(*expr, scope));
          PARE_RETURN_IF_ERROR(assign(*target, value, body));
        }
        return exec_block(statement.body, body, output);
      }
      case StatementKind::kScope: return exec_block(statement.body, inner(scope), output);
    }
    return Flow::kNormal;
  }

  Expected<Flow> exec_if(const Statement& statement, const ScopePtr& scope, Output* output) {
    for (const Branch& branch : statement.branches) {
      if (branch.condition) {
        PARE_ASSIGN_OR_RETURN(const Value condition, eval(*branch.condition, scope));
        if (!truthy(condition)) continue;
      }
      return exec_block(branch.body, scope, output);
    }
    return Flow::kNormal;
  }

  Expected<Flow> exec_for(const Statement& statement, const ScopePtr& scope, Output* output) {
    PARE_ASSIGN_OR_RETURN(const Value iterable, eval(*statement.expr, scope));
    PARE_ASSIGN_OR_RETURN(const Value source, iterate(rt_, iterable));
    const auto loop = std::make_shared<LoopObject>(&rt_, source);
    if (statement.condition) {
      loop->keep = [&](const Value& item) -> Expected<bool> {
        PARE_RETURN_IF_ERROR(rt_.step());
        const ScopePtr test = inner(scope);
        PARE_RETURN_IF_ERROR(assign(*statement.target, item, test));
        PARE_ASSIGN_OR_RETURN(const Value keep, eval(*statement.condition, test));
        return truthy(keep);
      };
    }
    const auto completed = run_loop(statement, loop, scope, output);
    loop->keep = nullptr;
    PARE_RETURN_IF_ERROR(completed.status());
    // As in Jinja, "else" runs unless some iteration reached the end of the body: after a break in the first
    // one too.
    if (!*completed) return exec_block(statement.otherwise, inner(scope), output);
    return Flow::kNormal;
  }

  // Whether an iteration reached the end of the body.
  Expected<bool> run_loop(const Statement& statement, const std::shared_ptr<LoopObject>& loop, const ScopePtr& scope,
                          Output* output) {
    const Value loop_value = Value::object(Kind::kLoop, loop);
    bool completed = false;
    for (;; ++loop->position) {
      PARE_RETURN_IF_ERROR(rt_.step());
      PARE_RETURN_IF_ERROR(loop->take(loop->position + 1));
      if (loop->position >= loop->items.size()) return completed;
      const ScopePtr body = inner(scope);
      body->variables.emplace("loop", loop_value);
      // A copy: looking ahead in the body moves the items.
      const Value item = loop->items[loop->position];
      PARE_RETURN_IF_ERROR(assign(*statement.target, item, body));
      PARE_ASSIGN_OR_RETURN(const Flow flow, exec_block(statement.body, body, output));
      if (flow == Flow::kBreak) return completed;
      completed = completed || flow == Flow::kNormal;
    }
  }

  Expected<Flow> exec_set_block(const Statement& statement, const ScopePtr& scope) {
    Output body(&rt_);
    PARE_ASSIGN_OR_RETURN(const Flow flow, exec_block(statement.body, inner(scope), &body));
    if (flow != Flow::kNormal) return flow;
    Value value = Value::string(&rt_, std::move(body.text));
    if (statement.expr) {
      PARE_ASSIGN_OR_RETURN(value, eval_filter(*statement.expr, scope, &value));
    }
    PARE_RETURN_IF_ERROR(assign(*statement.target, value, scope));
    return Flow::kNormal;
  }

  Expected<Flow> exec_call_block(const Statement& statement, const ScopePtr& scope, Output* output) {
    const Expr& call = *statement.expr;
    PARE_ASSIGN_OR_RETURN(const Value callee, eval(*call.args[0], scope));
    PARE_ASSIGN_OR_RETURN(Arguments args, eval_arguments(call, scope));
    args.named.emplace_back("caller", make_macro(statement, scope));
    PARE_ASSIGN_OR_RETURN(const Value result, locate(call_value(callee, args), call.position));
    PARE_ASSIGN_OR_RETURN(const std::string text, to_text(rt_, result));
    PARE_RETURN_IF_ERROR(emit(text, output));
    return Flow::kNormal;
  }

  Value make_macro(const Statement& definition, const ScopePtr& scope) {
    for (ScopePtr s = scope; s && !s->captured; s = s->parent) {
      s->captured = true;
      captured_.push_back(s);
    }
    return Value::object(Kind::kMacro, std::make_shared<MacroObject>(&rt_, &definition, scope));
  }

  Status assign(const Expr& target, const Value& value, const ScopePtr& scope) {
    if (target.kind == ExprKind::kName) {
      scope->variables.insert_or_assign(target.name, value);
      return ok_status();
    }
    if (target.kind == ExprKind::kNamespaceTarget) {
      PARE_ASSIGN_OR_RETURN(const Value ns, lookup(target.name, scope));
      if (!ns.is(Kind::kNamespace)) {
        return locate(invalid_argument("cannot assign attribute on non-namespace object"), target.position);
      }
      ns.as<NamespaceObject>().set(target.attribute, value);
      return ok_status();
    }
    PARE_ASSIGN_OR_RETURN(const Value items, locate(iterate(rt_, value), target.position));
    const size_t wanted = target.args.size(), got = items.items().size();
    if (wanted != got) {
      return locate(
          invalid_argument(got > wanted ? "too many values to unpack (expected " + std::to_string(wanted) + ")"
                                        : "not enough values to unpack (expected " + std::to_string(wanted) + ", got " +
                                              std::to_string(got) + ")"),
          target.position);
    }
    for (size_t i = 0; i < wanted; ++i) PARE_RETURN_IF_ERROR(assign(*target.args[i], items.items()[i], scope));
    return ok_status();
  }

  // ---- expressions
  Expected<Value> lookup(const std::string& name, const ScopePtr& scope) {
    for (const Scope* s = scope.get(); s != nullptr; s = s->parent.get()) {
      const auto it = s->variables.find(name);
      if (it != s->variables.end()) return it->second;
      PARE_RETURN_IF_ERROR(rt_.step());
    }
    if (const Function* function = find_function(name)) {
      return Value::object(Kind::kFunction, std::make_shared<FunctionObject>(&rt_, function));
    }
    return Value::undefined(&rt_, quote_python(name) + " is undefined");
  }

  Expected<Value> eval(const Expr& expr, const ScopePtr& scope) {
    const Depth depth(&depth_);
    PARE_RETURN_IF_ERROR(locate(enter(), expr.position));
    return locate(eval_kind(expr, scope), expr.position);
  }

  Expected<Value> eval_kind(const Expr& expr, const ScopePtr& scope) {
    switch (expr.kind) {
      case ExprKind::kConstant: return expr.value;
      case ExprKind::kName: return lookup(expr.name, scope);
      case ExprKind::kNamespaceTarget: return internal_error("assignment target evaluated");
      case ExprKind::kList:
      case ExprKind::kTuple: {
        std::vector<Value> items;
        items.reserve(expr.args.size());
        for (const ExprPtr& arg : expr.args) {
          PARE_ASSIGN_OR_RETURN(Value item, eval(*arg, scope));
          items.push_back(std::move(item));
        }
        return checked_depth(expr.kind == ExprKind::kList ? Value::list(&rt_, std::move(items))
                                                          : Value::tuple(&rt_, std::move(items)));
      }
      case ExprKind::kDict: return eval_dict(expr, scope);
      case ExprKind::kAttribute: {
        PARE_ASSIGN_OR_RETURN(const Value object, eval(*expr.args[0], scope));
        return get_attribute(rt_, object, expr.name);
      }
      case ExprKind::kSubscript: {
        PARE_ASSIGN_OR_RETURN(const Value object, eval(*expr.args[0], scope));
        PARE_ASSIGN_OR_RETURN(const Value key, eval(*expr.args[1], scope));
        return get_item(rt_, object, key);
      }
      case ExprKind::kSlice: return eval_slice(expr, scope);
      case ExprKind::kCall: {
        PARE_ASSIGN_OR_RETURN(const Value callee, eval(*expr.args[0], scope));
        PARE_ASSIGN_OR_RETURN(const Arguments args, eval_arguments(expr, scope));
        return call_value(callee, args);
      }
      case ExprKind::kFilter: return eval_filter(expr, scope, nullptr);
      case ExprKind::kTest: return eval_test(expr, scope);
      case ExprKind::kNot: {
        PARE_ASSIGN_OR_RETURN(const Value value, eval(*expr.args[0], scope));
        return Value::boolean(!truthy(value));
      }
      case ExprKind::kNegate: {
        PARE_ASSIGN_OR_RETURN(const Value value, eval(*expr.args[0], scope));
        return negate(value);
      }
      case ExprKind::kPlus: {
        PARE_ASSIGN_OR_RETURN(const Value value, eval(*expr.args[0], scope));
        if (value.is_undefined()) return invalid_argument(value.undefined_reason());
        if (value.is_integral()) return Value::integer(value.as_integer());
        if (!value.is_number()) return invalid_argument("bad operand type for unary +: " + quoted(value.type_name()));
        return value;
      }
      case ExprKind::kAdd: return eval_arithmetic(ArithmeticOp::kAdd, expr, scope);
      case ExprKind::kSubtract: return eval_arithmetic(ArithmeticOp::kSubtract, expr, scope);
      case ExprKind::kMultiply: return eval_arithmetic(ArithmeticOp::kMultiply, expr, scope);
      case ExprKind::kDivide: return eval_arithmetic(ArithmeticOp::kDivide, expr, scope);
      case ExprKind::kFloorDivide: return eval_arithmetic(ArithmeticOp::kFloorDivide, expr, scope);
      case ExprKind::kModulo: return eval_arithmetic(ArithmeticOp::kModulo, expr, scope);
      case ExprKind::kPower: return eval_arithmetic(ArithmeticOp::kPower, expr, scope);
      case ExprKind::kConcat: {
        std::string text;
        for (const ExprPtr& arg : expr.args) {
          PARE_ASSIGN_OR_RETURN(const Value value, eval(*arg, scope));
          PARE_ASSIGN_OR_RETURN(const std::string part, to_text(rt_, value));
          PARE_RETURN_IF_ERROR(rt_.reserve(text.size() + part.size()));
          text += part;
        }
        return Value::string(&rt_, std::move(text));
      }
      case ExprKind::kAnd:
      case ExprKind::kOr: {
        PARE_ASSIGN_OR_RETURN(const Value left, eval(*expr.args[0], scope));
        if (truthy(left) == (expr.kind == ExprKind::kOr)) return left;
        return eval(*expr.args[1], scope);
      }
      case ExprKind::kCompare: return eval_compare(expr, scope);
      case ExprKind::kIfElse: {
        PARE_ASSIGN_OR_RETURN(const Value condition, eval(*expr.args[0], scope));
        if (truthy(condition)) return eval(*expr.args[1], scope);
        if (expr.args[2]) return eval(*expr.args[2], scope);
        return Value::undefined(&rt_, "the inline if-expression evaluated to false and no else section was defined.");
      }
    }
    return internal_error("expression of an unknown kind");
  }

  Expected<Value> eval_dict(const Expr& expr, const ScopePtr& scope) {
    std::vector<DictObject::Entry> entries;
    entries.reserve(expr.args.size() / 2);
    for (size_t i = 0; i < expr.args.size(); i += 2) {
      PARE_ASSIGN_OR_RETURN(Value key, eval(*expr.args[i], scope));
      PARE_ASSIGN_OR_RETURN(Value value, eval(*expr.args[i + 1], scope));
      if (key.is(Kind::kTuple)) return unsupported("a tuple as a dictionary key");
      if (!is_hashable(key)) return invalid_argument("unhashable type: " + quoted(key.type_name()));
      entries.emplace_back(std::move(key), std::move(value));
    }
    return checked_depth(make_dict(&rt_, std::move(entries)));
  }

  Expected<Value> eval_slice(const Expr& expr, const ScopePtr& scope) {
    PARE_ASSIGN_OR_RETURN(const Value object, eval(*expr.args[0], scope));
    Value bounds[3];
    const Value* given[3] = {};
    for (size_t i = 0; i < 3; ++i) {
      if (!expr.args[i + 1]) continue;
      PARE_ASSIGN_OR_RETURN(bounds[i], eval(*expr.args[i + 1], scope));
      given[i] = &bounds[i];
    }
    return get_slice(rt_, object, given[0], given[1], given[2]);
  }

  Expected<Value> eval_arithmetic(ArithmeticOp op, const Expr& expr, const ScopePtr& scope) {
    PARE_ASSIGN_OR_RETURN(const Value left, eval(*expr.args[0], scope));
    PARE_ASSIGN_OR_RETURN(const Value right, eval(*expr.args[1], scope));
    PARE_ASSIGN_OR_RETURN(Value result, apply_arithmetic(rt_, op, left, right));
    return result;
  }

  Expected<Value> eval_compare(const Expr& expr, const ScopePtr& scope) {
    PARE_ASSIGN_OR_RETURN(Value left, eval(*expr.args[0], scope));
    for (size_t i = 0; i < expr.compare.size(); ++i) {
      PARE_ASSIGN_OR_RETURN(Value right, eval(*expr.args[i + 1], scope));
      PARE_ASSIGN_OR_RETURN(const bool holds, compare(expr.compare[i], left, right));
      if (!holds) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  Expected<bool> compare(CompareOp op, const Value& left, const Value& right) {
    const auto inverse = [](Expected<bool> result) -> Expected<bool> {
      if (!result.ok()) return result;
      return !*result;
    };
    switch (op) {
      case CompareOp::kEqual: return equals(rt_, left, right);
      case CompareOp::kNotEqual: return inverse(equals(rt_, left, right));
      case CompareOp::kLess: return less(rt_, left, right);
      case CompareOp::kLessEqual: return less_equal(rt_, left, right);
      case CompareOp::kGreater: return less(rt_, right, left);
      case CompareOp::kGreaterEqual: return less_equal(rt_, right, left);
      case CompareOp::kIn: return contains(rt_, right, left);
      case CompareOp::kNotIn: return inverse(contains(rt_, right, left));
    }
    return internal_error("comparison of an unknown kind");
  }

  // ---- filters, tests, calls
  // args[0] is the input or callee and is left out; spread arguments are appended.
  Expected<Arguments> eval_arguments(const Expr& expr, const ScopePtr& scope) {
    Arguments args;
    for (size_t i = 1; i < expr.args.size(); ++i) {
      PARE_ASSIGN_OR_RETURN(Value value, eval(*expr.args[i], scope));
      args.positional.push_back(std::move(value));
    }
    for (const auto& [name, arg] : expr.keywords) {
      PARE_ASSIGN_OR_RETURN(Value value, eval(*arg, scope));
      args.named.emplace_back(name, std::move(value));
    }
    if (expr.spread_args) {
      PARE_ASSIGN_OR_RETURN(const Value list, eval(*expr.spread_args, scope));
      PARE_ASSIGN_OR_RETURN(const Value items, iterate(rt_, list));
      args.positional.insert(args.positional.end(), items.items().begin(), items.items().end());
    }
    if (expr.spread_keywords) {
      PARE_ASSIGN_OR_RETURN(const Value dict, eval(*expr.spread_keywords, scope));
      if (!dict.is(Kind::kDict))
        return invalid_argument("argument after ** must be a mapping, not " + std::string(dict.type_name()));
      for (const auto& [key, value] : dict.dict().entries) {
        if (!key.is_string()) return invalid_argument("keywords must be strings");
        for (const auto& named : args.named) {
          if (named.first == key.text())
            return invalid_argument("got multiple values for keyword argument " + quote_python(key.text()));
        }
        PARE_RETURN_IF_ERROR(rt_.step(args.named.size() * sizeof(Value)));
        args.named.emplace_back(key.text(), value);
      }
    }
    return args;
  }

  // `body`: the input where the chain's innermost filter has none.
  Expected<Value> eval_filter(const Expr& expr, const ScopePtr& scope, const Value* body) {
    Value input;
    if (!expr.args[0]) {
      input = *body;
    } else if (body != nullptr) {
      const Depth depth(&depth_);
      PARE_RETURN_IF_ERROR(locate(enter(), expr.position));
      PARE_ASSIGN_OR_RETURN(input, eval_filter(*expr.args[0], scope, body));
    } else {
      PARE_ASSIGN_OR_RETURN(input, eval(*expr.args[0], scope));
    }
    if (expr.filter == nullptr) {
      return locate(invalid_argument("no filter named " + quote_python(expr.name)), expr.position);
    }
    PARE_ASSIGN_OR_RETURN(const Arguments args, eval_arguments(expr, scope));
    PARE_ASSIGN_OR_RETURN(Value result, locate(expr.filter->apply(rt_, input, args), expr.position));
    return locate(checked_depth(std::move(result)), expr.position);
  }

  Expected<Value> eval_test(const Expr& expr, const ScopePtr& scope) {
    PARE_ASSIGN_OR_RETURN(const Value input, eval(*expr.args[0], scope));
    if (expr.test == nullptr) return invalid_argument("no test named " + quote_python(expr.name));
    PARE_ASSIGN_OR_RETURN(const Arguments args, eval_arguments(expr, scope));
    PARE_ASSIGN_OR_RETURN(const bool holds, expr.test->apply(rt_, input, args));
    return Value::boolean(holds);
  }

  Expected<Value> call_value(const Value& callee, const Arguments& args) {
    switch (callee.kind()) {
      case Kind::kUndefined: return invalid_argument(callee.undefined_reason());
      case Kind::kMacro: return call_macro(callee.as<MacroObject>(), args);
      case Kind::kMethod: {
        const MethodObject& method = callee.as<MethodObject>();
        PARE_ASSIGN_OR_RETURN(Value result, method.method->apply(rt_, method.self, args));
        return checked_depth(std::move(result));
      }
      case Kind::kFunction: return call_function(*callee.as<FunctionObject>().function, args);
      case Kind::kJoiner: return call_joiner_object(rt_, callee, args);
      default: return invalid_argument(quoted(callee.type_name()) + " object is not callable");
    }
  }

  Expected<Value> call_function(const Function& function, const Arguments& args) {
    PARE_ASSIGN_OR_RETURN(Value result, function.apply(rt_, args));
    if (function.raises) {
      // The template's own message, without our place in front of it.
      located_ = true;
      return invalid_argument(result.text());
    }
    if (result.is(Kind::kNamespace)) {
      namespaces_.push_back(std::static_pointer_cast<const NamespaceObject>(result.shared()));
    }
    return checked_depth(std::move(result));
  }

  Expected<Value> call_macro(const MacroObject& macro, const Arguments& args) {
    const Statement& definition = *macro.definition;
    const Depth depth(&macro_depth_);
    if (macro_depth_ > kMaxTemplateDepth) {
      return limit_exceeded("macros call each other deeper than " + std::to_string(kMaxTemplateDepth) + " levels");
    }
    const ScopePtr scope = inner(macro.scope);
    PARE_RETURN_IF_ERROR(bind_macro(definition, args, scope));
    Output output(&rt_);
    PARE_RETURN_IF_ERROR(exec_block(definition.body, scope, &output).status());
    return Value::string(&rt_, std::move(output.text));
  }

  Status bind_macro(const Statement& definition, const Arguments& args, const ScopePtr& scope) {
    const std::string macro = "macro " + quote_python(definition.text);
    std::vector<DictObject::Entry> extra_named;
    std::vector<std::optional<Value>> given(definition.parameters.size());
    std::optional<Value> caller;
    for (size_t i = 0; i < std::min(given.size(), args.positional.size()); ++i) given[i] = args.positional[i];
    for (const auto& [name, value] : args.named) {
      size_t i = 0;
      while (i < given.size() && definition.parameters[i].name != name) ++i;
      if (i < given.size() && !given[i]) {
        given[i] = value;
      } else if (i == given.size() && name == "caller" && definition.uses_caller) {
        caller = value;
      } else if (definition.uses_kwargs) {
        extra_named.emplace_back(Value::string(&rt_, name), value);
      } else {
        return invalid_argument(macro + " takes no keyword argument " + quote_python(name));
      }
    }
    if (args.positional.size() > given.size() && !definition.uses_varargs) {
      return invalid_argument(macro + " takes not more than " + std::to_string(given.size()) + " argument(s)");
    }
    const bool has_caller_parameter = std::any_of(definition.parameters.begin(), definition.parameters.end(),
                                                  [](const Parameter& p) { return p.name == "caller"; });
    if (definition.uses_caller && !has_caller_parameter) {
      scope->variables["caller"] = caller ? *caller : Value::undefined(&rt_, "No caller defined");
    }
    if (definition.uses_kwargs) {
      PARE_ASSIGN_OR_RETURN(scope->variables["kwargs"], checked_depth(make_dict(&rt_, std::move(extra_named))));
    }
    if (definition.uses_varargs) {
      std::vector<Value> rest(
          args.positional.begin() + static_cast<std::ptrdiff_t>(std::min(given.size(), args.positional.size())),
          args.positional.end());
      PARE_ASSIGN_OR_RETURN(scope->variables["varargs"], checked_depth(Value::tuple(&rt_, std::move(rest))));
    }
    for (size_t i = 0; i < given.size(); ++i) {
      const Parameter& parameter = definition.parameters[i];
      if (!given[i] && parameter.default_value) {
        PARE_ASSIGN_OR_RETURN(given[i], eval(*parameter.default_value, scope));
      }
      scope->variables.insert_or_assign(
          parameter.name,
          given[i] ? *given[i]
                   : Value::undefined(&rt_, "parameter " + quote_python(parameter.name) + " was not provided"));
    }
    return ok_status();
  }

  Runtime& rt_;
  int depth_ = 0, macro_depth_ = 0;
  bool located_ = false;  // the error on its way out carries its place already
  std::vector<ScopePtr> captured_;
  std::vector<std::shared_ptr<const NamespaceObject>> namespaces_;
};

}  // namespace

Expected<std::string> render(Runtime& rt, const Block& template_body,
                             std::vector<std::pair<std::string, Value>> variables) {
  return Interpreter(&rt).run(template_body, std::move(variables));
}

}  // namespace pare::jinja
