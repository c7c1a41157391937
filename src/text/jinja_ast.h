// Syntax tree of a template. Built by the parser, immutable afterwards, shared by every rendering.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace pare::jinja {

// 1-based; columns count bytes of the line.
struct Position {
  int line = 1, column = 1;
};

struct Filter;
struct Test;

enum class ExprKind : uint8_t {
  kConstant,         // value
  kName,             // name
  kNamespaceTarget,  // name '.' attribute, only on the left of a set
  kList,             // args
  kTuple,            // args
  kDict,             // args: key, value, key, value ...
  kAttribute,        // args[0] '.' name
  kSubscript,        // args[0] '[' args[1] ']'
  kSlice,            // args[0] '[' args[1] ':' args[2] ':' args[3] ']', absent parts null
  kCall,             // args[0] '(' args[1...], keywords ')'
  kFilter,           // args[0] '|' filter(args[1...], keywords); args[0] null: the body of a block
  kTest,             // args[0] 'is' test(args[1...], keywords)
  kNot,
  kNegate,
  kPlus,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kConcat,  // args joined by ~
  kAnd,
  kOr,
  kCompare,  // args[0] compare[0] args[1] compare[1] args[2] ...
  kIfElse,   // args: condition, then, else (null: undefined)
};

enum class CompareOp : uint8_t { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  Position position;
  int depth = 1;
  std::string name, attribute;
  Value value;
  std::vector<std::unique_ptr<Expr>> args;
  std::vector<std::pair<std::string, std::unique_ptr<Expr>>> keywords;
  std::unique_ptr<Expr> spread_args, spread_keywords;  // *list, **dict of a call
  std::vector<CompareOp> compare;
  // Null where the name is unknown inside a conditional: an error only if the rendering gets there.
  const Filter* filter = nullptr;
  const Test* test = nullptr;
};
using ExprPtr = std::unique_ptr<Expr>;

struct Parameter {
  std::string name;
  ExprPtr default_value;  // null: required
};

enum class StatementKind : uint8_t {
  kText,   // text
  kPrint,  // expr
  kIf,     // branches; the last one's condition is null for else
  kFor,    // target, expr, condition, body, otherwise
  kBreak,
  kContinue,
  kSet,          // target, expr
  kSetBlock,     // target, body, expr (filter chain or null)
  kMacro,        // text (name), parameters, body
  kCallBlock,    // expr (the call), parameters, body
  kFilterBlock,  // expr (filter chain), body
  kWith,         // assignments, body
  kScope,        // body: {% generation %}
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

struct Branch {
  ExprPtr condition;
  Block body;
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  Position position;
  std::string text;
  ExprPtr expr, target, condition;
  Block body, otherwise;
  std::vector<Branch> branches;
  std::vector<Parameter> parameters;
  std::vector<std::pair<ExprPtr, ExprPtr>> assignments;
  // Which of the names that a macro gets without declaring them its body reads.
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

}  // namespace pare::jinja
