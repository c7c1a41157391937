#include "text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>

#include "text/jinja_lexer.h"
#include "text/jinja_library.h"
#include "text/jinja_text.h"

namespace pare::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Expected<Block> run() {
    PARE_ASSIGN_OR_RETURN(Block block, parse_block({}));
    if (!unknown_.empty()) return unknown_.front();
    return block;
  }

 private:
  // What a scope of the template allows; entering one saves and restores it.
  struct Context {
    bool in_loop = false;
    bool conditional = false;  // unknown filters and tests are errors only when reached
  };

  // ---- tokens
  const Token& current() const { return tokens_[next_]; }
  const Token& look() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  const Token& advance() { return tokens_[next_ + 1 < tokens_.size() ? next_++ : next_]; }
  bool at(TokenType type) const { return current().type == type; }
  static bool is(const Token& token, TokenType type, std::string_view text) {
    return token.type == type && token.text == text;
  }
  bool at_op(std::string_view op) const { return is(current(), TokenType::kOperator, op); }
  bool at_name(std::string_view name) const { return is(current(), TokenType::kName, name); }
  bool skip_op(std::string_view op) { return at_op(op) && (advance(), true); }
  bool skip_name(std::string_view name) { return at_name(name) && (advance(), true); }

  static std::string describe(const Token& token) {
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

  Status unexpected(std::string_view wanted) const {
    return error_at(current().position, "unexpected " + describe(current()) + ", expected " + std::string(wanted));
  }
  Status expect_op(std::string_view op) { return skip_op(op) ? ok_status() : unexpected(quoted(op)); }
  Status expect_name(std::string_view name) { return skip_name(name) ? ok_status() : unexpected(quoted(name)); }
  Status expect(TokenType type, std::string_view wanted) {
    if (!at(type)) return unexpected(wanted);
    advance();
    return ok_status();
  }
  Expected<std::string> expect_identifier() {
    if (!at(TokenType::kName)) return unexpected("a name");
    return advance().text;
  }

  // ---- nodes
  ExprPtr make(ExprKind kind, Position position) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->position = position;
    return expr;
  }

  Status adopt(Expr* parent, ExprPtr child) {
    if (child) {
      parent->depth = std::max(parent->depth, child->depth + 1);
      if (parent->depth > kMaxExprDepth) {
        return error_at(parent->position, "expression is deeper than " + std::to_string(kMaxExprDepth) + " levels");
      }
    }
    parent->args.push_back(std::move(child));
    return ok_status();
  }

  Expected<ExprPtr> make_binary(ExprKind kind, Position position, ExprPtr left, ExprPtr right) {
    ExprPtr expr = make(kind, position);
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(left)));
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(right)));
    return expr;
  }

  class Nesting {
   public:
    explicit Nesting(int* level) : level_(level) { ++*level_; }
    ~Nesting() { --*level_; }

   private:
    int* level_;
  };
  Status check_nesting() const {
    if (nesting_ <= kMaxTemplateDepth) return ok_status();
    return error_at(current().position,
                    "template is nested deeper than " + std::to_string(kMaxTemplateDepth) + " levels");
  }

  // ---- statements
  // Up to a tag whose name is in `ends`; that tag's name is current afterwards. No ends: the whole template.
  Expected<Block> parse_block(Names ends) {
    const Nesting nesting(&nesting_);
    PARE_RETURN_IF_ERROR(check_nesting());
    Block block;
    while (!at(TokenType::kEnd)) {
      auto statement = std::make_unique<Statement>();
      statement->position = current().position;
      if (at(TokenType::kText)) {
        statement->text = advance().text;
      } else if (at(TokenType::kPrintBegin)) {
        advance();
        statement->kind = StatementKind::kPrint;
        PARE_ASSIGN_OR_RETURN(statement->expr, parse_tuple());
        PARE_RETURN_IF_ERROR(expect(TokenType::kPrintEnd, "'}}'"));
      } else {
        PARE_RETURN_IF_ERROR(expect(TokenType::kBlockBegin, "a tag"));
        if (at(TokenType::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end()) return block;
        PARE_RETURN_IF_ERROR(parse_statement(statement.get(), &block));
        PARE_RETURN_IF_ERROR(expect(TokenType::kBlockEnd, "'%}'"));
        if (statement->kind == StatementKind::kText) continue;
      }
      block.push_back(std::move(statement));
    }
    if (ends.size() != 0) return unexpected(quoted(*std::prev(ends.end())));
    return block;
  }

  // The rest of an opening tag, then its body.
  Expected<Block> parse_body(Names ends) {
    skip_op(":");
    PARE_RETURN_IF_ERROR(expect(TokenType::kBlockEnd, "'%}'"));
    return parse_block(ends);
  }

  Expected<Block> parse_scoped_body(std::string_view end, Context context) {
    const Context saved = std::exchange(context_, context);
    auto body = parse_body({end});
    context_ = saved;
    if (body.ok()) advance();
    return body;
  }

  Context inner_scope() const { return Context{.in_loop = context_.in_loop, .conditional = false}; }

  // Leaves `out` a kText where the tag made no statement of its own ({% print %} adds its own to `block`).
  Status parse_statement(Statement* out, Block* block) {
    if (!at(TokenType::kName)) return unexpected("the name of a tag");
    const Token tag = advance();
    if (tag.text == "if") return parse_if(out);
    if (tag.text == "for") return parse_for(out);
    if (tag.text == "set") return parse_set(out);
    if (tag.text == "macro") return parse_macro(out);
    if (tag.text == "call") return parse_call_block(out);
    if (tag.text == "with") return parse_with(out);
    if (tag.text == "print") return parse_print(tag.position, block);
    if (tag.text == "filter") {
      out->kind = StatementKind::kFilterBlock;
      PARE_ASSIGN_OR_RETURN(out->expr, parse_filter(nullptr));
      PARE_ASSIGN_OR_RETURN(out->expr, parse_filters(std::move(out->expr)));
      PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endfilter", inner_scope()));
      return ok_status();
    }
    if (tag.text == "generation") {
      out->kind = StatementKind::kScope;
      PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endgeneration", Context{}));
      return ok_status();
    }
    if (tag.text == "break" || tag.text == "continue") {
      if (!context_.in_loop) return error_at(tag.position, quoted(tag.text) + " outside a loop");
      out->kind = tag.text == "break" ? StatementKind::kBreak : StatementKind::kContinue;
      return ok_status();
    }
    for (std::string_view known : {"block", "extends", "include", "import", "from", "autoescape", "do", "trans"}) {
      if (tag.text == known)
        return unsupported(std::string(error_at(tag.position, "tag '" + tag.text + "' is not supported").message()));
    }
    return error_at(tag.position, "unknown tag '" + tag.text + "'");
  }

  Status parse_if(Statement* out) {
    out->kind = StatementKind::kIf;
    const Context saved = context_;
    context_.conditional = true;
    while (true) {
      Branch& branch = out->branches.emplace_back();
      PARE_ASSIGN_OR_RETURN(branch.condition, parse_tuple(false));
      PARE_ASSIGN_OR_RETURN(branch.body, parse_body({"elif", "else", "endif"}));
      const std::string end = advance().text;
      if (end == "elif") continue;
      if (end == "else") {
        PARE_ASSIGN_OR_RETURN(out->branches.emplace_back().body, parse_body({"endif"}));
        advance();
      }
      break;
    }
    context_ = saved;
    return ok_status();
  }

  Status parse_for(Statement* out) {
    out->kind = StatementKind::kFor;
    PARE_ASSIGN_OR_RETURN(out->target, parse_target());
    PARE_RETURN_IF_ERROR(expect_name("in"));
    PARE_ASSIGN_OR_RETURN(out->expr, parse_tuple(false));
    if (skip_name("if")) {
      PARE_ASSIGN_OR_RETURN(out->condition, parse_expression());
    }
    if (at_name("recursive")) {
      return unsupported(std::string(error_at(current().position, "recursive loops are not supported").message()));
    }
    const Context saved = std::exchange(context_, Context{.in_loop = true});
    ++loop_depth_;
    PARE_RETURN_IF_ERROR(check_not_loop(*out->target));
    PARE_ASSIGN_OR_RETURN(out->body, parse_body({"endfor", "else"}));
    --loop_depth_;
    context_ = Context{.in_loop = saved.in_loop};
    if (advance().text == "else") {
      PARE_ASSIGN_OR_RETURN(out->otherwise, parse_body({"endfor"}));
      advance();
    }
    context_ = saved;
    return ok_status();
  }

  Status parse_set(Statement* out) {
    PARE_ASSIGN_OR_RETURN(out->target, parse_target(true));
    if (loop_depth_ > 0) PARE_RETURN_IF_ERROR(check_not_loop(*out->target));
    if (skip_op("=")) {
      out->kind = StatementKind::kSet;
      PARE_ASSIGN_OR_RETURN(out->expr, parse_tuple());
      return ok_status();
    }
    out->kind = StatementKind::kSetBlock;
    PARE_ASSIGN_OR_RETURN(out->expr, parse_filters(nullptr));
    PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endset", inner_scope()));
    return ok_status();
  }

  Status parse_print(Position position, Block* block) {
    bool first = true;
    while (!at(TokenType::kBlockEnd)) {
      if (!first) PARE_RETURN_IF_ERROR(expect_op(","));
      first = false;
      auto print = std::make_unique<Statement>();
      print->kind = StatementKind::kPrint;
      print->position = position;
      PARE_ASSIGN_OR_RETURN(print->expr, parse_expression());
      block->push_back(std::move(print));
    }
    return ok_status();
  }

  Status parse_with(Statement* out) {
    out->kind = StatementKind::kWith;
    while (!at(TokenType::kBlockEnd)) {
      if (!out->assignments.empty()) PARE_RETURN_IF_ERROR(expect_op(","));
      PARE_ASSIGN_OR_RETURN(ExprPtr target, parse_target());
      PARE_RETURN_IF_ERROR(expect_op("="));
      PARE_ASSIGN_OR_RETURN(ExprPtr value, parse_expression());
      out->assignments.emplace_back(std::move(target), std::move(value));
    }
    PARE_ASSIGN_OR_RETURN(out->body, parse_scoped_body("endwith", inner_scope()));
    return ok_status();
  }

  Status parse_macro(Statement* out) {
    out->kind = StatementKind::kMacro;
    PARE_ASSIGN_OR_RETURN(out->text, expect_identifier());
    PARE_RETURN_IF_ERROR(parse_signature(out));
    return parse_macro_body(out, "endmacro");
  }

  Status parse_call_block(Statement* out) {
    out->kind = StatementKind::kCallBlock;
    out->text = "caller";
    if (at_op("(")) PARE_RETURN_IF_ERROR(parse_signature(out));
    PARE_ASSIGN_OR_RETURN(out->expr, parse_expression());
    if (out->expr->kind != ExprKind::kCall) return error_at(out->expr->position, "expected a call");
    return parse_macro_body(out, "endcall");
  }

  Status parse_signature(Statement* out) {
    PARE_RETURN_IF_ERROR(expect_op("("));
    while (!at_op(")")) {
      if (!out->parameters.empty()) PARE_RETURN_IF_ERROR(expect_op(","));
      const Position position = current().position;
      Parameter parameter;
      PARE_ASSIGN_OR_RETURN(parameter.name, expect_identifier());
      if (skip_op("=")) {
        PARE_ASSIGN_OR_RETURN(parameter.default_value, parse_expression());
      } else if (!out->parameters.empty() && out->parameters.back().default_value) {
        return error_at(position, "parameter '" + parameter.name + "' without a default follows one with a default");
      }
      if (parameter.name == "caller" && !parameter.default_value) {
        return error_at(position, "the special parameter 'caller' must be omitted or be given a default");
      }
      for (const Parameter& other : out->parameters) {
        if (other.name == parameter.name) return error_at(position, "parameter '" + parameter.name + "' twice");
      }
      out->parameters.push_back(std::move(parameter));
    }
    advance();
    return ok_status();
  }

  Status parse_macro_body(Statement* out, std::string_view end) {
    macros_.push_back(out);
    const int loops = std::exchange(loop_depth_, 0);
    auto body = parse_scoped_body(end, Context{});
    loop_depth_ = loops;
    macros_.pop_back();
    PARE_ASSIGN_OR_RETURN(out->body, std::move(body));
    return ok_status();
  }

  // ---- assignment targets
  Expected<ExprPtr> parse_target(bool with_namespace = false) {
    const Position position = current().position;
    ExprPtr tuple;
    ExprPtr single;
    while (true) {
      if (tuple && at(TokenType::kBlockEnd)) break;
      PARE_ASSIGN_OR_RETURN(ExprPtr item, parse_primary(with_namespace));
      const bool more = skip_op(",");
      if (!tuple && !more) {
        single = std::move(item);
        break;
      }
      if (!tuple) tuple = make(ExprKind::kTuple, position);
      PARE_RETURN_IF_ERROR(adopt(tuple.get(), std::move(item)));
      if (!more) break;
    }
    ExprPtr target = tuple ? std::move(tuple) : std::move(single);
    PARE_RETURN_IF_ERROR(check_assignable(*target));
    return target;
  }

  static Status check_assignable(const Expr& target) {
    if (target.kind == ExprKind::kName || target.kind == ExprKind::kNamespaceTarget) return ok_status();
    if (target.kind != ExprKind::kTuple) return error_at(target.position, "cannot assign to this expression");
    for (const ExprPtr& item : target.args) PARE_RETURN_IF_ERROR(check_assignable(*item));
    return ok_status();
  }

  static Status check_not_loop(const Expr& target) {
    if (target.kind == ExprKind::kName && target.name == "loop") {
      return error_at(target.position, "cannot assign to the special variable 'loop' in a loop");
    }
    if (target.kind != ExprKind::kTuple) return ok_status();
    for (const ExprPtr& item : target.args) PARE_RETURN_IF_ERROR(check_not_loop(*item));
    return ok_status();
  }

  // ---- expressions, loosest first
  // One expression, or several with commas.
  Expected<ExprPtr> parse_tuple(bool with_condition = true, bool parenthesized = false) {
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

  Expected<ExprPtr> parse_expression() {
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

  using Rule = Expected<ExprPtr> (Parser::*)();
  struct BinaryOp {
    std::string_view token;
    ExprKind kind;
  };

  // left (op right)*, nesting to the left.
  Expected<ExprPtr> parse_left(Rule operand, TokenType type, std::initializer_list<BinaryOp> ops) {
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

  Expected<ExprPtr> parse_or() { return parse_left(&Parser::parse_and, TokenType::kName, {{"or", ExprKind::kOr}}); }
  Expected<ExprPtr> parse_and() { return parse_left(&Parser::parse_not, TokenType::kName, {{"and", ExprKind::kAnd}}); }

  Expected<ExprPtr> parse_not() {
    if (!at_name("not")) return parse_compare();
    const Nesting nesting(&nesting_);
    PARE_RETURN_IF_ERROR(check_nesting());
    ExprPtr expr = make(ExprKind::kNot, advance().position);
    PARE_ASSIGN_OR_RETURN(ExprPtr operand, parse_not());
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(operand)));
    return expr;
  }

  bool skip_compare(CompareOp* op) {
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

  Expected<ExprPtr> parse_compare() {
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

  Expected<ExprPtr> parse_sum() {
    return parse_left(&Parser::parse_concat, TokenType::kOperator, {{"+", ExprKind::kAdd}, {"-", ExprKind::kSubtract}});
  }

  Expected<ExprPtr> parse_concat() {
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

  Expected<ExprPtr> parse_product() {
    return parse_left(&Parser::parse_power, TokenType::kOperator,
                      {{"*", ExprKind::kMultiply},
                       {"/", ExprKind::kDivide},
                       {"//", ExprKind::kFloorDivide},
                       {"%", ExprKind::kModulo}});
  }

  // Left-associative, unlike Python's.
  Expected<ExprPtr> parse_power() {
    return parse_left(&Parser::parse_unary, TokenType::kOperator, {{"**", ExprKind::kPower}});
  }

  Expected<ExprPtr> parse_unary() {
    PARE_ASSIGN_OR_RETURN(ExprPtr expr, parse_signed());
    return parse_filters(std::move(expr));
  }

  Expected<ExprPtr> parse_signed() {
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

  Expected<ExprPtr> parse_primary(bool with_namespace) {
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

  Expected<ExprPtr> parse_name(bool with_namespace) {
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

  Expected<ExprPtr> parse_postfix(ExprPtr expr) {
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

  Expected<ExprPtr> parse_filters(ExprPtr expr) {
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

  Expected<ExprPtr> parse_attribute(ExprPtr object) {
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

  Expected<ExprPtr> parse_subscript(ExprPtr object) {
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

  Expected<ExprPtr> parse_call(ExprPtr callee) {
    ExprPtr expr = make(ExprKind::kCall, current().position);
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(callee)));
    PARE_RETURN_IF_ERROR(parse_arguments(expr.get()));
    return expr;
  }

  Status parse_arguments(Expr* expr) {
    const Nesting nesting(&nesting_);
    PARE_RETURN_IF_ERROR(check_nesting());
    PARE_RETURN_IF_ERROR(expect_op("("));
    bool first = true;
    while (!at_op(")")) {
      if (!first) PARE_RETURN_IF_ERROR(expect_op(","));
      if (!first && at_op(")")) break;
      first = false;
      const Status misplaced = error_at(current().position, "invalid order of arguments in a call");
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

  Expected<std::string> parse_dotted_name() {
    PARE_ASSIGN_OR_RETURN(std::string name, expect_identifier());
    while (skip_op(".")) {
      PARE_ASSIGN_OR_RETURN(const std::string part, expect_identifier());
      name += "." + part;
    }
    return name;
  }

  Expected<ExprPtr> parse_filter(ExprPtr input) {
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

  Expected<ExprPtr> parse_test(ExprPtr input) {
    const Position position = advance().position;
    const bool negated = skip_name("not");
    ExprPtr expr = make(ExprKind::kTest, position);
    PARE_RETURN_IF_ERROR(adopt(expr.get(), std::move(input)));
    PARE_ASSIGN_OR_RETURN(expr->name, parse_dotted_name());
    const bool takes_operand = (at(TokenType::kName) && !at_name("else") && !at_name("or") && !at_name("and")) ||
                               at(TokenType::kString) || at(TokenType::kInteger) || at(TokenType::kFloat) ||
                               at_op("[") || at_op("{");
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

  const std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0, loop_depth_ = 0;
  Context context_;
  std::vector<Statement*> macros_;  // whose bodies are being parsed
  std::vector<Status> unknown_;     // filters and tests that do not exist, outside conditionals
};

}  // namespace

Expected<Block> parse_template(std::string_view source) {
  PARE_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenize(source));
  return Parser(std::move(tokens)).run();
}

}  // namespace pare::jinja
