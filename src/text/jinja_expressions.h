// Expressions of the template language, loosest operators first. jinja_parser.cc builds the statements on it.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"
#include "text/jinja_text.h"

namespace pare::jinja {

class ExpressionParser {
 protected:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

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

  static std::string describe(const Token& token);
  Status unexpected(std::string_view wanted) const;
  Status expect_op(std::string_view op) { return skip_op(op) ? ok_status() : unexpected(quoted(op)); }
  Status expect_name(std::string_view name) { return skip_name(name) ? ok_status() : unexpected(quoted(name)); }
  Status expect(TokenType type, std::string_view wanted);
  Expected<std::string> expect_identifier();

  // ---- nodes
  ExprPtr make(ExprKind kind, Position position) const;
  Status adopt(Expr* parent, ExprPtr child);
  Expected<ExprPtr> make_binary(ExprKind kind, Position position, ExprPtr left, ExprPtr right);

  class Nesting {
   public:
    explicit Nesting(int* level) : level_(level) { ++*level_; }
    ~Nesting() { --*level_; }

   private:
    int* level_;
  };
  Status check_nesting() const;

  // ---- expressions
  // One expression, or several with commas.
  Expected<ExprPtr> parse_tuple(bool with_condition = true, bool parenthesized = false);
  Expected<ExprPtr> parse_expression();
  Expected<ExprPtr> parse_or();
  Expected<ExprPtr> parse_primary(bool with_namespace);
  // One filter after its '|', or all of them, applied to an expression or (null) to a block.
  Expected<ExprPtr> parse_filter(ExprPtr input);
  Expected<ExprPtr> parse_filters(ExprPtr expr);

  const std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0;
  Context context_;
  std::vector<Statement*> macros_;  // whose bodies are being parsed
  std::vector<Status> unknown_;     // filters and tests that do not exist, outside conditionals

 private:
  using Rule = Expected<ExprPtr> (ExpressionParser::*)();
  struct BinaryOp {
    std::string_view token;
    ExprKind kind;
  };
  // left (op right)*, nesting to the left.
  Expected<ExprPtr> parse_left(Rule operand, TokenType type, std::initializer_list<BinaryOp> ops);
  Expected<ExprPtr> parse_and();
  Expected<ExprPtr> parse_not();
  bool skip_compare(CompareOp* op);
  Expected<ExprPtr> parse_compare();
  Expected<ExprPtr> parse_sum();
  Expected<ExprPtr> parse_concat();
  Expected<ExprPtr> parse_product();
  Expected<ExprPtr> parse_power();  // left-associative, unlike Python's
  Expected<ExprPtr> parse_unary();
  Expected<ExprPtr> parse_signed();
  Expected<ExprPtr> parse_name(bool with_namespace);
  Expected<ExprPtr> parse_postfix(ExprPtr expr);
  Expected<ExprPtr> parse_attribute(ExprPtr object);
  Expected<ExprPtr> parse_subscript(ExprPtr object);
  Expected<ExprPtr> parse_call(ExprPtr callee);
  Status parse_arguments(Expr* expr);
  Expected<std::string> parse_dotted_name();
  Expected<ExprPtr> parse_test(ExprPtr input);
};

}  // namespace pare::jinja
