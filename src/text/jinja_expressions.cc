#include "text/jinja_expressions.h"

#include "text/jinja_library.h"
#include "text/jinja_parser.h"

namespace pare::jinja {

std::string ExpressionParser::describe(const Token& token) {
  switch (token.type) {
    case TokenType::kText: return "text";
    case TokenType::kPrintBegin: return "'{{'";
    case TokenType::kPrintEnd: return "'}}'";
    case TokenType::kBlockBegin: return "'{%'";
    case TokenType::kBlockEnd: return "'%}'";
    case TokenType::kString: return "a string";
    case TokenType::kInteger:
    case TokenType::kFloat: return "a number";
    case TokenType::kEnd: return "end of template";
    default: return quoted(token.text);
  }
}

Status ExpressionParser::unexpected(std::string_view wanted) const {
  return error_at(current().position, "unexpected " + describe(current()) + ", expected " + std::string(wanted));
}

Status ExpressionParser::expect(TokenType type, std::string_view wanted) {
  if (!at(type)) return unexpected(wanted);
  advance();
  return ok_status();
}

Expected<std::string> ExpressionParser::expect_identifier() {
  if (!at(TokenType::kName)) return unexpected("a name");
  return advance().text;
}

ExprPtr ExpressionParser::make(ExprKind kind, Position position) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->position = position;
  return expr;
}

Status ExpressionParser::adopt(Expr* parent, ExprPtr child) {
  if (child) {
    parent->depth = std::max(parent->depth, child->depth + 1);
    if (parent->depth > kMaxExprDepth) {
      return error_at(parent->position, "expression is deeper than " + std::to_string(kMaxExprDepth) + " levels");
    }
  }
  parent->args.push_back(std::move(child));
  return ok_status();
}

Expected<ExprPtr> ExpressionParser::make_binary(ExprKind kind, Position position, ExprPtr left, ExprPtr right) {
  ExprPtr expr = make(kind, position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(left)));
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(right)));
  return expr;
}

Status ExpressionParser::check_nesting() const {
  if (nesting_ <= kMaxTemplateDepth) return ok_status();
  return error_at(current().position,
                  "template is nested deeper than " + std::to_string(kMaxTemplateDepth) + " levels");
}
Expected<ExprPtr> ExpressionParser::parse_tuple(bool with_condition, bool parenthesized) {
  const Position position = current().position;
  ExprPtr tuple;
  while (true) {
    if (at(TokenType::kPrintEnd) || at(TokenType::kBlockEnd) || at_op(")")) break;
    PARE_ASSIGN_OR_RETURN(ExprPtr item, with_condition ? parse_expression() : parse_or());
    const bool more = skip_op(",");
    if (!tuple && !more) return item;
    if (!tuple) tuple = make(ExprKind::kTuple, position);
    PARE_RETURN_IF_ERROR(adopt(tuple.get(), std::move(item)));
    if (!more) break;
  }
  if (!tuple && !parenthesized) return unexpected("an expression");
  return tuple ? std::move(tuple) : make(ExprKind::kTuple, position);
}

Expected<ExprPtr> ExpressionParser::parse_expression() {
  const Nesting nesting(&nesting_);
  PARE_RETURN_IF_ERROR(check_nesting());
  // Whether unknown names are tolerated shows only after the first part of a conditional expression.
  const size_t unknown_before = unknown_.size();
  const Position position = current().position;
  PARE_ASSIGN_OR_RETURN(ExprPtr expr, parse_or());
  while (skip_name("if")) {
    ExprPtr conditional = make(ExprKind::kIfElse, position);
    PARE_ASSIGN_OR_RETURN(ExprPtr condition, parse_or());
    PARE_RETURN_IF_ERROR(adopt(conditional.get(), std::move(condition)));
    PARE_RETURN_IF_ERROR(adopt(conditional.get(), std::move(expr)));
    ExprPtr otherwise;
    if (skip_name("else")) {
      PARE_ASSIGN_OR_RETURN(otherwise, parse_expression());
    }
    PARE_RETURN_IF_ERROR(adopt(conditional.get(), std::move(otherwise)));
    expr = std::move(conditional);
    unknown_.resize(unknown_before);
  }
  return expr;
}

Expected<ExprPtr> ExpressionParser::parse_left(Rule operand, TokenType type, std::initializer_list<BinaryOp> ops) {
  PARE_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (true) {
    const auto op =
        std::find_if(ops.begin(), ops.end(), [&](const BinaryOp& o) { return is(current(), type, o.token); });
    if (op == ops.end()) return left;
    const Position position = advance().position;
    PARE_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    PARE_ASSIGN_OR_RETURN(left, make_binary(op->kind, position, std::move(left), std::move(right)));
  }
}

Expected<ExprPtr> ExpressionParser::parse_or() {
  return parse_left(&ExpressionParser::parse_and, TokenType::kName, {{"or", ExprKind::kOr}});
}

Expected<ExprPtr> ExpressionParser::parse_and() {
  return parse_left(&ExpressionParser::parse_not, TokenType::kName, {{"and", ExprKind::kAnd}});
}

Expected<ExprPtr> ExpressionParser::parse_not() {
  if (!at_name("not")) return parse_compare();
  const Nesting nesting(&nesting_);
  PARE_RETURN_IF_ERROR(check_nesting());
  ExprPtr expr = make(ExprKind::kNot, advance().position);
  PARE_ASSIGN_OR_RETURN(ExprPtr operand, parse_not());
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(operand)));
  return expr;
}

bool ExpressionParser::skip_compare(CompareOp* op) {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::kEqual},     {"!=", CompareOp::kNotEqual}, {"<", CompareOp::kLess},
      {"<=", CompareOp::kLessEqual}, {">", CompareOp::kGreater},   {">=", CompareOp::kGreaterEqual}};
  for (const auto& [token, value] : kOps) {
    if (skip_op(token)) {
      *op = value;
      return true;
    }
  }
  if (skip_name("in")) {
    *op = CompareOp::kIn;
    return true;
  }
  if (!at_name("not") || !is(look(), TokenType::kName, "in")) return false;
  advance();
  advance();
  *op = CompareOp::kNotIn;
  return true;
}

Expected<ExprPtr> ExpressionParser::parse_compare() {
  const Position position = current().position;
  PARE_ASSIGN_OR_RETURN(ExprPtr left, parse_sum());
  CompareOp op;
  if (!skip_compare(&op)) return left;
  ExprPtr expr = make(ExprKind::kCompare, position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(left)));
  do {
    expr->compare.push_back(op);
    PARE_ASSIGN_OR_RETURN(ExprPtr right, parse_sum());
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(right)));
  } while (skip_compare(&op));
  return expr;
}

Expected<ExprPtr> ExpressionParser::parse_sum() {
  return parse_left(&ExpressionParser::parse_concat, TokenType::kOperator,
                    {{"+", ExprKind::kAdd}, {"-", ExprKind::kSubtract}});
}

Expected<ExprPtr> ExpressionParser::parse_concat() {
  const Position position = current().position;
  PARE_ASSIGN_OR_RETURN(ExprPtr first, parse_product());
  if (!at_op("~")) return first;
  ExprPtr expr = make(ExprKind::kConcat, position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(first)));
  while (skip_op("~")) {
    PARE_ASSIGN_OR_RETURN(ExprPtr item, parse_product());
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(item)));
  }
  return expr;
}

Expected<ExprPtr> ExpressionParser::parse_product() {
  return parse_left(
      &ExpressionParser::parse_power, TokenType::kOperator,
      {{"*", ExprKind::kMultiply}, {"/", ExprKind::kDivide}, {"//", ExprKind::kFloorDivide}, {"%", ExprKind::kModulo}});
}

Expected<ExprPtr> ExpressionParser::parse_power() {
  return parse_left(&ExpressionParser::parse_unary, TokenType::kOperator, {{"**", ExprKind::kPower}});
}

Expected<ExprPtr> ExpressionParser::parse_unary() {
  PARE_ASSIGN_OR_RETURN(ExprPtr expr, parse_signed());
  return parse_filters(std::move(expr));
}

Expected<ExprPtr> ExpressionParser::parse_signed() {
  ExprPtr expr;
  if (at_op("-") || at_op("+")) {
    const Nesting nesting(&nesting_);
    PARE_RETURN_IF_ERROR(check_nesting());
    expr = make(at_op("-") ? ExprKind::kNegate : ExprKind::kPlus, current().position);
    advance();
    PARE_ASSIGN_OR_RETURN(ExprPtr operand, parse_signed());
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(operand)));
  } else {
    PARE_ASSIGN_OR_RETURN(expr, parse_primary(false));
  }
  return parse_postfix(std::move(expr));
}

Expected<ExprPtr> ExpressionParser::parse_primary(bool with_namespace) {
  const Token& token = current();
  ExprPtr expr = make(ExprKind::kConstant, token.position);
  switch (token.type) {
    case TokenType::kName: return parse_name(with_namespace);
    case TokenType::kString: {
      std::string text;
      while (at(TokenType::kString)) text += advance().text;
      expr->value = Value::string(nullptr, std::move(text));
      return expr;
    }
    case TokenType::kInteger: expr->value = Value::integer(advance().integer); return expr;
    case TokenType::kFloat: expr->value = Value::real(advance().real); return expr;
    default: break;
  }
  const Nesting nesting(&nesting_);
  PARE_RETURN_IF_ERROR(check_nesting());
  if (skip_op("(")) {
    PARE_ASSIGN_OR_RETURN(expr, parse_tuple(true, true));
    PARE_RETURN_IF_ERROR(expect_op(")"));
    return expr;
  }
  if (skip_op("[")) {
    expr->kind = ExprKind::kList;
    while (!at_op("]")) {
      if (!expr->args.empty()) PARE_RETURN_IF_ERROR(expect_op(","));
      if (at_op("]")) break;
      PARE_ASSIGN_OR_RETURN(ExprPtr item, parse_expression());
      PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(item)));
    }
    advance();
    return expr;
  }
  if (skip_op("{")) {
    expr->kind = ExprKind::kDict;
    while (!at_op("}")) {
      if (!expr->args.empty()) PARE_RETURN_IF_ERROR(expect_op(","));
      if (at_op("}")) break;
      PARE_ASSIGN_OR_RETURN(ExprPtr key, parse_expression());
      PARE_RETURN_IF_ERROR(expect_op(":"));
      PARE_ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
      PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(key)));
      PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(value)));
    }
    advance();
    return expr;
  }
  return unexpected("an expression");
}

Expected<ExprPtr> ExpressionParser::parse_name(bool with_namespace) {
  const Token& token = advance();
  ExprPtr expr = make(ExprKind::kConstant, token.position);
  if (token.text == "true" || token.text == "True") {
    expr->value = Value::boolean(true);
  } else if (token.text == "false" || token.text == "False") {
    expr->value = Value::boolean(false);
  } else if (token.text == "none" || token.text == "None") {
    expr->value = Value::none();
  } else {
    expr->kind = ExprKind::kName;
    expr->name = token.text;
    if (with_namespace && skip_op(".")) {
      expr->kind = ExprKind::kNamespaceTarget;
      PARE_ASSIGN_OR_RETURN(expr->attribute, expect_identifier());
    }
    for (Statement* macro : macros_) {
      macro->uses_caller |= expr->name == "caller";
      macro->uses_varargs |= expr->name == "varargs";
      macro->uses_kwargs |= expr->name == "kwargs";
    }
  }
  return expr;
}

Expected<ExprPtr> ExpressionParser::parse_postfix(ExprPtr expr) {
  while (true) {
    if (at_op(".")) {
      PARE_ASSIGN_OR_RETURN(expr, parse_attribute(std::move(expr)));
    } else if (at_op("[")) {
      PARE_ASSIGN_OR_RETURN(expr, parse_subscript(std::move(expr)));
    } else if (at_op("(")) {
      PARE_ASSIGN_OR_RETURN(expr, parse_call(std::move(expr)));
    } else {
      return expr;
    }
  }
}

Expected<ExprPtr> ExpressionParser::parse_filters(ExprPtr expr) {
  while (true) {
    if (skip_op("|")) {
      PARE_ASSIGN_OR_RETURN(expr, parse_filter(std::move(expr)));
    } else if (expr && at_name("is")) {
      PARE_ASSIGN_OR_RETURN(expr, parse_test(std::move(expr)));
    } else if (expr && at_op("(")) {
      PARE_ASSIGN_OR_RETURN(expr, parse_call(std::move(expr)));
    } else {
      return expr;
    }
  }
}

Expected<ExprPtr> ExpressionParser::parse_attribute(ExprPtr object) {
  const Position position = advance().position;
  ExprPtr expr = make(ExprKind::kAttribute, position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(object)));
  if (at(TokenType::kInteger)) {
    expr->kind = ExprKind::kSubscript;
    ExprPtr index = make(ExprKind::kConstant, current().position);
    index->value = Value::integer(advance().integer);
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(index)));
    return expr;
  }
  PARE_ASSIGN_OR_RETURN(expr->name, expect_identifier());
  return expr;
}

Expected<ExprPtr> ExpressionParser::parse_subscript(ExprPtr object) {
  const Position position = advance().position;
  ExprPtr expr = make(ExprKind::kSubscript, position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(object)));
  ExprPtr index;
  if (!at_op(":")) {
    if (at_op("]")) {
      index = make(ExprKind::kTuple, position);
    } else {
      PARE_ASSIGN_OR_RETURN(index, parse_expression());
    }
  }
  if (at_op(":")) {
    expr->kind = ExprKind::kSlice;
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(index)));
    for (int part = 0; part < 2; ++part) {
      ExprPtr bound;
      if (skip_op(":") && !at_op(":") && !at_op("]")) {
        PARE_ASSIGN_OR_RETURN(bound, parse_expression());
      }
      PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(bound)));
    }
  } else {
    if (at_op(",")) {
      ExprPtr tuple = make(ExprKind::kTuple, position);
      PARE_RETURN_IF_ERROR(adopt(tuple.get(), std::move(index)));
      while (skip_op(",")) {
        PARE_ASSIGN_OR_RETURN(ExprPtr item, parse_expression());
        PARE_RETURN_IF_ERROR(adopt(tuple.get(), std::move(item)));
      }
      index = std::move(tuple);
    }
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(index)));
  }
  PARE_RETURN_IF_ERROR(expect_op("]"));
  return expr;
}

Expected<ExprPtr> ExpressionParser::parse_call(ExprPtr callee) {
  ExprPtr expr = make(ExprKind::kCall, current().position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(callee)));
  PARE_RETURN_IF_ERROR(parse_arguments(expr.get()));
  return expr;
}

Status ExpressionParser::parse_arguments(Expr* expr) {
  const Nesting nesting(&nesting_);
  PARE_RETURN_IF_ERROR(check_nesting());
  PARE_RETURN_IF_ERROR(expect_op("("));
  bool first = true;
  while (!at_op(")")) {
    if (!first) PARE_RETURN_IF_ERROR(expect_op(","));
    if (!first && at_op(")")) break;
    first = false;
    Status misplaced = error_at(current().position, "invalid order of arguments in a call");
    ExprPtr value;
    if (at_op("*")) {
      if (expr->spread_args || expr->spread_keywords) return misplaced;
      advance();
      PARE_ASSIGN_OR_RETURN(expr->spread_args, parse_expression());
    } else if (at_op("**")) {
      if (expr->spread_keywords) return misplaced;
      advance();
      PARE_ASSIGN_OR_RETURN(expr->spread_keywords, parse_expression());
    } else if (at(TokenType::kName) && is(look(), TokenType::kOperator, "=")) {
      if (expr->spread_keywords) return misplaced;
      const std::string name = advance().text;
      for (const auto& keyword : expr->keywords) {
        if (keyword.first == name) return error_at(current().position, "keyword argument '" + name + "' twice");
      }
      advance();
      PARE_ASSIGN_OR_RETURN(value, parse_expression());
      expr->depth = std::max(expr->depth, value->depth + 1);
      expr->keywords.emplace_back(name, std::move(value));
    } else {
      if (expr->spread_args || expr->spread_keywords || !expr->keywords.empty()) return misplaced;
      PARE_ASSIGN_OR_RETURN(value, parse_expression());
      PARE_RETURN_IF_ERROR(adopt(expr, std::move(value)));
    }
  }
  advance();
  for (const ExprPtr* spread : {&expr->spread_args, &expr->spread_keywords}) {
    if (*spread) expr->depth = std::max(expr->depth, (*spread)->depth + 1);
  }
  return ok_status();
}

Expected<std::string> ExpressionParser::parse_dotted_name() {
  PARE_ASSIGN_OR_RETURN(std::string name, expect_identifier());
  while (skip_op(".")) {
    PARE_ASSIGN_OR_RETURN(const std::string part, expect_identifier());
    name += "." + part;
  }
  return name;
}

Expected<ExprPtr> ExpressionParser::parse_filter(ExprPtr input) {
  ExprPtr expr = make(ExprKind::kFilter, current().position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(input)));
  PARE_ASSIGN_OR_RETURN(expr->name, parse_dotted_name());
  if (at_op("(")) PARE_RETURN_IF_ERROR(parse_arguments(expr.get()));
  expr->filter = find_filter(expr->name);
  if (expr->filter == nullptr && !context_.conditional) {
    unknown_.push_back(error_at(expr->position, "no filter named '" + expr->name + "'"));
  }
  return expr;
}

Expected<ExprPtr> ExpressionParser::parse_test(ExprPtr input) {
  const Position position = advance().position;
  const bool negated = skip_name("not");
  ExprPtr expr = make(ExprKind::kTest, position);
  PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(input)));
  PARE_ASSIGN_OR_RETURN(expr->name, parse_dotted_name());
  const bool takes_operand = (at(TokenType::kName) && !at_name("else") && !at_name("or") && !at_name("and")) ||
                             at(TokenType::kString) || at(TokenType::kInteger) || at(TokenType::kFloat) || at_op("[") ||
                             at_op("{");
  if (at_op("(")) {
    PARE_RETURN_IF_ERROR(parse_arguments(expr.get()));
  } else if (takes_operand) {
    if (at_name("is")) return error_at(current().position, "tests cannot be chained with 'is'");
    PARE_ASSIGN_OR_RETURN(ExprPtr operand, parse_primary(false));
    PARE_ASSIGN_OR_RETURN(operand, parse_postfix(std::move(operand)));
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(operand)));
  }
  expr->test = find_test(expr->name);
  if (expr->test == nullptr && !context_.conditional) {
    unknown_.push_back(error_at(expr->position, "no test named '" + expr->name + "'"));
  }
  if (!negated) return expr;
  ExprPtr inverse = make(ExprKind::kNot, position);
  PARE_RETURN_IF_ERROR(adopt(inverse.get(), std::move(expr)));
  return inverse;
}

}  // namespace pare::jinja
